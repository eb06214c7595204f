"""Transfer: a network that was trained on the source goes on with the target."""

import copy
import fnmatch

import numpy as np
from torch import nn

from skleepkd.distillation.fold import TeacherInFold
from skleepkd.distillation.teacher import (
    check_given,
    final_stager,
    is_frozen,
    set_inner_params,
)
from skleepkd.estimators.labels import find_classes
from skleepkd.estimators.parameters import refuse_unknown
from skleepkd.estimators.supervised import SleepStager
from skleepkd.networks.build import input_spec, parameter_groups, uncompiled


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
    Anandakumar et al. (2022), section 2.3 (in their code all of the network is trained);
    Phan et al. (2019), Deep transfer learning for single-channel automatic sleep staging
    with channel mismatch (parts of it are).
    """

    __metadata_request__fit = {"X_source": True, "groups": True}  # noqa: RUF012

    def __init__(
        self, pretrained, *, trainable="all", sequence_length=None, memory=None, **kwargs
    ):
        self.pretrained = pretrained
        self.trainable = trainable
        self.memory = memory
        super().__init__(None, sequence_length=sequence_length, **kwargs)

    def fit(self, X, y, X_source=None, groups=None, **unknown):
        """Fit on the source (unless pretrained is frozen), then on the target.

        Parameters
        ----------
        X, y, X_source, groups
            As for :meth:`DistilledSleepStager.fit`; unscored rows are skipped.

        Returns
        -------
        FineTunedSleepStager

        Raises
        ------
        ValueError
            If the pair, y or a parameter is not what is expected.
        """
        refuse_unknown(unknown, ("X_source", "groups"), "FineTunedSleepStager.fit")
        return self._fit(X, y, X_source, groups)

    def set_params(self, **params):
        """Set parameters; ``pretrained__*`` are the pretrained stager's."""
        return super().set_params(**set_inner_params(self, "pretrained", params))

    def _get_param_names(self):
        # The network is the pretrained stager's; skorch needs the attribute.
        return [name for name in super()._get_param_names() if name != "module"]

    def _check_parameters(self, go_on):
        check_given(self.pretrained, "pretrained")
        if final_stager(self.pretrained) is None:
            raise ValueError(
                "pretrained must be a SleepStager or a Pipeline that ends in one, frozen or "
                f"not; given {type(self.pretrained).__name__}."
            )
        options = ", ".join(self.get_params_for("module"))
        if options:
            raise ValueError(
                f"The network is pretrained already: give {options} there, pretrained__module__..."
            )
        if is_frozen(self.pretrained) or go_on:
            return None
        return "Pretraining in the fold (a fitted stager goes into FrozenEstimator)"

    def _begin_source(self, pair, y, seed, go_on):
        """Build the network that is pretrained; where the training goes on, it was."""
        if go_on:
            return None
        source = pair.source_epochs if pair.has_source else None
        about = (source, y, self.held_out_, seed)
        stager = TeacherInFold(self.pretrained, *about, self.checkpoint)
        self.pretrained_ = stager.estimator
        return stager

    def end_fit(self, training):
        """Fit the source stager, unless it is frozen, then the target's scored rows."""
        if training.source is not None:
            self.pretrained_ = training.source.fit(self.memory)
            uncompiled(self.module_).load_state_dict(self._pretrained_module().state_dict())
        super().end_fit(training)
        if not (self.trainable or self.calibrate):  # it is the pretrained stager
            self.calibration_ = final_stager(self.pretrained_).calibration_
        return self

    def _pretrained_module(self):
        return uncompiled(final_stager(self.pretrained_).module_)

    @property
    def sequence_length_(self):
        """Consecutive epochs that the network sees at a time."""
        if self.sequence_length is None:
            return final_stager(self.pretrained).sequence_length_
        return self.sequence_length

    def _remember_input(self, pair, codes, classes, go_on):
        """Remember the input, and refuse one that the pretrained network was not built for."""
        expected = final_stager(self.pretrained_).signal_
        given = input_spec(pair, len(classes))
        names = {"n_chans": "channel(s)", "n_times": "samples an epoch", "sfreq": "Hz"}
        for name, what in names.items():
            own, other = expected.get(name), given.get(name)
            if own and other and not np.isclose(own, other):
                raise ValueError(
                    f"The pretrained network takes {own:g} {what}; the target has {other:g}. "
                    "Give both the same derivations and sampling rate."
                )
        super()._remember_input(pair, codes, classes, go_on)
        self.signal_ = dict(expected)  # what the network was built for

    def _find_classes(self, y):
        pretrained = final_stager(self.pretrained_).classes_
        if self.classes is not None:
            found = find_classes(self.classes, y)
            if not np.array_equal(found, pretrained):
                raise ValueError(
                    f"The outputs are the pretrained stager's, {pretrained.tolist()}; given "
                    f"classes={self.classes!r}. Leave classes out."
                )
        return find_classes(pretrained, y)

    def initialize_module(self):
        """Copy the pretrained network, and fix what is not to be trained."""
        self.module_ = copy.deepcopy(self._pretrained_module())
        trained = trained_parameters(self.module_, self.trainable)
        for name, parameter in self.module_.named_parameters():
            parameter.requires_grad_(name in trained)
        return self

    def fit_loop(self, X, y=None, epochs=None, **kwargs):
        """Pass over the training rows, unless nothing is trained."""
        if not self.trainable:
            return self
        return super().fit_loop(X, y, epochs, **kwargs)

    def _set_training(self, training=True):
        super()._set_training(training)
        if training and self.trainable != "all":
            eval_frozen_modules(self.module_)


def trained_parameters(module, trainable):
    """Names of the parameters that ``trainable`` (groups, or patterns of names) means."""
    names = [name for name, _ in module.named_parameters()]
    if trainable == "all":
        return set(names)
    try:
        groups = parameter_groups(module)
    except ValueError:  # it declares none
        groups = {}
    trained = set()
    for wanted in [trainable] if isinstance(trainable, str) else trainable or ():
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
    """Put the parts of a network of which nothing is trained into evaluation mode."""
    for child in module.children():
        if any(parameter.requires_grad for parameter in child.parameters()):
            eval_frozen_modules(child)
        elif child.state_dict():  # activations and dropout have none, and stay as they are
            child.eval()
            for part in child.modules():
                # On CUDA no gradient passes a recurrent layer in evaluation mode; without
                # dropout both modes are alike.
                if isinstance(part, nn.RNNBase) and not part.dropout:
                    part.train()
