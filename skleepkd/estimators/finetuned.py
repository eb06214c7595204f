"""Transfer: a network that was trained on the source goes on with the target."""

import copy
import fnmatch

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from torch import nn

from skleepkd.distillation.teachers import (
    clone_for_student,
    final_stager,
    fit_teacher,
    is_frozen,
    network_spec,
    refuse_half_frozen,
    split_params,
    warn_of_leakage,
)
from skleepkd.epochs.checks import as_pair, check_signal
from skleepkd.estimators.epoch_net import input_spec
from skleepkd.estimators.labels import class_weights, find_classes
from skleepkd.estimators.supervised import SleepStager
from skleepkd.estimators.validation import HeldOut
from skleepkd.networks.build import build_network, parameter_groups, uncompiled


class FineTunedSleepStager(SleepStager):
    """Stage sleep from a wearable signal with a network that begins at a source's weights.

    Parameters
    ----------
    pretrained : estimator
        A ``SleepStager``, or a ``Pipeline`` that ends in one (its network alone is
        carried over). It is cloned and fitted on the source of the rows that ``fit`` is
        given; ``sklearn.frozen.FrozenEstimator(pretrained)`` marks one that is fitted
        already, and then no source is needed. It is copied, never trained in place.
    trainable : "all", None or sequence of str, default="all"
        What is trained: names of the network's parameter groups ("head", ...) or
        patterns of parameter names ("encoder.*"). None is direct transfer: nothing is
        trained. Parts of the network of which nothing is trained keep their BatchNorm
        statistics, and dropout inside them rests (a layer of dropout beside them does not).
    sequence_length : int or None, default=None
        As in :class:`SleepStager`; None for the pretrained stager's.
    memory : None, str or joblib.Memory, default=None
        Where fitted source stagers are kept; see :class:`DistilledSleepStager`.
    classes, class_weight, validation, random_state, checkpoint, device, max_epochs, batch_size, lr
        As in :class:`SleepStager`; ``classes`` are the pretrained stager's by default.
    **kwargs
        Further parameters of :class:`SleepStager` and of skorch. There is no ``module``.

    Attributes
    ----------
    pretrained_ : estimator
        The stager that was fitted on the source.

    References
    ----------
    Anandakumar et al. (2022), section 2.3 (all of the network is trained); Phan et al.
    (2019), Deep transfer learning for single-channel automatic sleep staging with
    channel mismatch (parts of it are).
    """

    __metadata_request__fit = {"X_source": True, "groups": True}  # noqa: RUF012

    def __init__(
        self, pretrained, *, trainable="all", sequence_length=None, memory=None, **kwargs
    ):
        self.pretrained = pretrained
        self.trainable = trainable
        self.memory = memory
        super().__init__(None, sequence_length=sequence_length, **kwargs)

    def fit(self, X, y, X_source=None, groups=None):
        """Fit on the source (unless pretrained is frozen), then on the target.

        Parameters
        ----------
        X : PairedEpochs, or array of shape (n_epochs, n_channels, n_times)
            The pair or, with ``X_source``, the target alone; in microvolts.
        y : array-like of shape (n_epochs,)
            Stages, codes or names; -1 or "?" where unscored (such rows are skipped).
        X_source : array of shape (n_epochs, n_channels, n_times), optional
            The source of the same epochs, where X is no pair.
        groups : array-like of shape (n_epochs,), optional
            The person of each epoch, where X does not say.

        Returns
        -------
        FineTunedSleepStager
            The stager itself.

        Raises
        ------
        ValueError
            If the pair, y or a parameter is not what is expected.
        """
        refuse_half_frozen(self.pretrained, "pretrained")
        if final_stager(self.pretrained) is None:
            raise ValueError(
                "pretrained must be a SleepStager or a Pipeline that ends in one, frozen or "
                f"not; given {type(self.pretrained).__name__}."
            )
        pair = as_pair(X, X_source, groups)
        if not is_frozen(self.pretrained) and not pair.has_source:
            raise ValueError(
                "Pretraining in the fold needs the source: give a PairedEpochs with one, or "
                "X_source=. A stager that is fitted already goes into FrozenEstimator."
            )
        return self._fit(pair, y)

    def predict_proba(self, X):
        """Probability of each stage, from the wearable alone.

        Parameters
        ----------
        X : PairedEpochs, mne.Epochs or array of shape (n_epochs, n_channels, n_times)
            Epochs in microvolts (of a pair, the target).

        Returns
        -------
        ndarray of shape (n_epochs, n_classes)
            Columns in the order of ``classes_``.

        Warns
        -----
        LeakageWarning
            If a frozen pretrained stager was fitted on people or nights of X, and this
            one was not.
        """
        self.check_is_fitted()
        if is_frozen(self.pretrained):
            warn_of_leakage(X, final_stager(self.pretrained_), self, "pretrained stager")
        return super().predict_proba(X)

    def _learn_from_source(self, pair, y, seed, go_on):
        """Fit the source stager, unless it is frozen; the target's scored rows follow."""
        if go_on:
            return super()._learn_from_source(pair, y, seed, go_on)
        self.pretrained_ = self.pretrained
        if not is_frozen(self.pretrained):
            source = pair.source_epochs
            check_signal(source, "target", "source")
            stager = clone_for_student(
                self.pretrained, HeldOut(self.held_out_.tolist()), seed, self.checkpoint
            )
            self.pretrained_ = fit_teacher(stager, source, y, self.held_out_, self.memory)
        return super()._learn_from_source(pair, y, seed, go_on)

    @property
    def sequence_length_(self):
        """Consecutive epochs that the network sees at a time."""
        if self.sequence_length is None:
            return final_stager(self.pretrained).sequence_length_
        return self.sequence_length

    def _check_ahead(self, y):
        self._check_sequences()
        pretrained = final_stager(self.pretrained)
        if is_frozen(self.pretrained):
            check_is_fitted(self.pretrained)
            classes = pretrained.classes_
        else:
            pretrained._check_ahead(y)
            classes = find_classes(pretrained.classes, y)
        if self.classes is not None:
            find_classes(self.classes, y)
        class_weights(self.class_weight, np.array([], int), classes)
        options = self.get_params_for("module")
        if options:
            raise ValueError(
                f"The network is the pretrained stager's: give {', '.join(options)} there, "
                "as pretrained__module__..."
            )

    def _check_networks(self, pair, y):
        """Compare the source with the target, and find what is trained, ahead of a fit."""
        stager = self.pretrained
        if not (isinstance(stager, SleepStager) and pair.has_source):
            return  # a frozen one costs nothing, what a Pipeline makes is not known yet
        n_outputs = len(find_classes(stager.classes, y))
        signal = input_spec(pair.source_epochs, n_outputs)
        self._check_alike(signal, input_spec(pair, n_outputs))
        module, options = network_spec(stager)
        with torch.random.fork_rng(devices=[]):
            trained_parameters(build_network(module, signal, options), self.trainable)

    def _check_alike(self, expected, given):
        """Refuse a target that the pretrained network was not built for."""
        names = {"n_chans": "channel(s)", "n_times": "samples an epoch", "sfreq": "Hz"}
        for name, what in names.items():
            own, other = expected.get(name), given.get(name)
            if own and other and not np.isclose(own, other):
                raise ValueError(
                    f"The pretrained network takes {own:g} {what}; the target has "
                    f"{other:g}. Give both the same derivations and sampling rate."
                )

    def _take_data(self, pair, y, go_on=False):
        codes = super()._take_data(pair, y, go_on)
        expected = final_stager(self.pretrained_).signal_
        self._check_alike(expected, self.signal_)
        self.signal_ = dict(expected)  # what the network was built for
        return codes

    def _find_classes(self, y):
        pretrained = final_stager(self.pretrained_).classes_
        if self.classes is not None and not np.array_equal(
            find_classes(self.classes, y), pretrained
        ):
            raise ValueError(
                f"The outputs are the pretrained stager's, {pretrained.tolist()}; given "
                f"classes={self.classes!r}. Leave classes out."
            )
        return find_classes(pretrained, y)

    # ------------------------------------------------------------ skorch's small methods

    def initialize_module(self):
        """Copy the pretrained network, and fix what is not to be trained."""
        self.module_ = copy.deepcopy(uncompiled(final_stager(self.pretrained_).module_))
        trained = trained_parameters(self.module_, self.trainable)
        for name, parameter in self.module_.named_parameters():
            parameter.requires_grad_(name in trained)
        return self

    def fit_loop(self, X, y=None, epochs=None, **kwargs):
        """Pass over the training rows, unless nothing is trained."""
        if self.trainable is None or not len(self.trainable):
            return self
        return super().fit_loop(X, y, epochs, **kwargs)

    def _set_training(self, training=True):
        super()._set_training(training)
        if training and self.trainable != "all":
            eval_frozen_modules(self.module_)

    # ------------------------------------------------------------ parameters

    def _get_param_names(self):
        # The network is the pretrained stager's; skorch needs the attribute.
        return [name for name in super()._get_param_names() if name != "module"]

    def set_params(self, **params):
        """Set parameters; ``pretrained__*`` are the pretrained stager's."""
        inner, own = split_params(params, "pretrained", self.pretrained)
        super().set_params(**own)
        if inner:
            self.pretrained.set_params(**inner)
        return self


def trained_parameters(module, trainable):
    """Names of the parameters that are trained.

    Parameters
    ----------
    module : torch.nn.Module
        The network.
    trainable : "all", None or sequence of str
        Names of parameter groups, or patterns of parameter names.

    Returns
    -------
    set of str

    Raises
    ------
    ValueError
        If a name is neither a group nor a pattern that a parameter matches.
    """
    names = [name for name, _ in module.named_parameters()]
    if trainable is None:
        return set()
    if isinstance(trainable, str):
        if trainable == "all":
            return set(names)
        trainable = [trainable]
    try:
        groups = parameter_groups(module)
    except ValueError:
        groups = {}
    trained = set()
    for wanted in trainable:
        if wanted in groups:
            prefixes = tuple(f"{prefix}." for prefix in groups[wanted])
            found = [n for n in names if n.startswith(prefixes) or n in groups[wanted]]
        else:
            found = fnmatch.filter(names, wanted)
        if not found:
            raise ValueError(
                f"trainable names {wanted!r}, which is neither a parameter group of "
                f"{type(module).__name__} ({', '.join(groups) or 'it declares none'}) nor a "
                f"pattern of its parameters ({', '.join(names)})."
            )
        trained.update(found)
    return trained


def eval_frozen_modules(module):
    """Put the parts of a network of which nothing is trained into evaluation mode.

    Parts without any state of their own (activations, dropout) stay as they are. So do
    recurrent layers that answer alike in both modes: on CUDA no gradient passes one in
    evaluation mode.
    """
    for child in module.children():
        if any(parameter.requires_grad for parameter in child.parameters()):
            eval_frozen_modules(child)
        elif child.state_dict():
            child.eval()
            for part in child.modules():
                if isinstance(part, nn.RNNBase) and not part.dropout:
                    part.train()
