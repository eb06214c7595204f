"""A sleep stager: skorch's classifier that knows nights, subjects and unscored epochs."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import torch
from sklearn.utils import check_random_state
from skorch import NeuralNetClassifier

from skleepkd.distillation.leakage import seen_epochs, seen_names, warn_of_leakage
from skleepkd.distillation.strategy import Step
from skleepkd.distillation.teacher import network_spec
from skleepkd.epochs import checks
from skleepkd.estimators import (
    batches,
    calibration,
    callbacks,
    foreign,
    labels,
    outputs,
    parameters,
    passes,
)
from skleepkd.networks.build import build_network, input_spec
from skleepkd.stages import left_unscored


class SleepStager(NeuralNetClassifier):
    """Stage sleep from one modality with a neural network.

    A :class:`skorch.classifier.NeuralNetClassifier`: every parameter of skorch's works
    here too (``module__*``, ``optimizer__*``, ``callbacks``, ``train_split``, ...).

    Parameters
    ----------
    module : str, type or callable
        The network: the name of one of ours ("EpochCrossModalTransformer") or of
        braindecode's ("USleep", ...), a class or a factory. ``n_chans``, ``n_times``,
        ``n_outputs`` and ``sfreq`` (hertz) are taken from the data.
    classes : None, {"aasm", "wldr", "wnr"} or array-like, default=None
        The stages: None for the labels that ``y`` holds; a scheme or a list fixes them,
        so that a fold without N1 keeps five columns. Labels are never mapped
        (``skleepkd.stages.to_scheme`` does).
    class_weight : None, "balanced" or dict, default=None
        Weights of the classes in the cross-entropy.
    balanced_batches : bool, default=False
        Draw the rows of each training batch, with repeats, so that the scored ones are of all
        classes equally often (of windows as nearly as they allow); unscored ones come as often as
        they are, and a pass has as many rows as ever. It takes the place of ``class_weight``.
    sequence_length : int, default=1
        Consecutive epochs that the network sees at a time. Above 1 it is given windows of
        shape (batch, sequence, n_channels, n_times) and puts out logits of shape (batch,
        n_classes, sequence); windows are one step apart, within a recording, and end at a
        gap of ``onset``. ``fit`` then needs recordings (``PairedEpochs``). Unscored epochs
        are seen, not judged.
    fusion : {"product", "mean", "centre"}, default="product"
        How the predictions of all windows that hold an epoch become its own; see
        :class:`skleepkd.sequences.Fusion`.
    neighbouring_windows : int, default=1
        Neighbouring windows that a training batch holds together. Above 1 SeqSleepNet
        encodes epochs that they share once: faster steps on batches that are less mixed.
    validation : "auto", None, int, float, tuple or callable, default="auto"
        Subjects held out of the training set; the weights of the pass with the highest
        kappa on them are kept. "auto": 10 % where at least ten subjects are known, else
        nobody, and the last weights are kept. An int is a number of subjects, a float
        below 1 their fraction, a tuple names them, a callable is given the training
        subjects and returns those to hold out.
    calibrate : bool, default=False
        Divide the logits by a temperature, so that probabilities are as sure as the
        predictions are right: the one at which the scored stages of who is held out
        (``validation``), fused as ever, are likeliest [1]_. It mends how sure a stager is, not a
        leaning to some stages.
    random_state : int, RandomState or None, default=None
        Seeds the weights, the order of the rows, dropout and the draw of subjects.
    checkpoint : None or path-like, default=None
        A folder in which the training is kept after every pass, so that ``fit``, called
        again with the same parameters and data, goes on from there (see Notes).
    device : str or torch.device, default="auto"
        "auto" is CUDA where there is a device, else the CPU.
    autocast : bool, default=False
        Compute in bfloat16 where ``torch.autocast`` does; weights and losses stay in
        single precision. ``compile=True`` (skorch's) compiles the network; where features
        are compared, it answers uncompiled.
    max_epochs, batch_size, lr, optimizer, verbose
        As in skorch: passes over the training rows, epochs in a batch, the learning rate,
        the optimiser (Adam; ``optimizer__*`` are its arguments). ``verbose``: None for a
        bar in a terminal or notebook where it takes long, 0 for nothing, 1 for a line a pass.
    criterion : type, default=StageCrossEntropy
        The loss of logits and codes, -1 being unscored.
    train_split : None or callable, default=None
        skorch's own way to split; leave it alone unless you know that it parts no night.
    **kwargs
        Further parameters of skorch's classifier.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Labels in sorted order, that of the columns of ``predict_proba``.
    held_out_ : ndarray
        Subjects that chose the weights.
    fitted_on_ : dict
        "subject" and "recording": what ``fit`` was given, None where not known.
    spread_ : list of float or None
        How far each channel spreads in an epoch, in microvolts; None of spectrograms.
    drops_channels_ : bool
        Whether braindecode's ``ChannelsDropout`` was among the augmentations, so that zeros
        may stand for a channel that is missing.
    n_scored_ : int or None
        Epochs with a stage that ``fit`` was given; 0 where a teacher alone taught, None of a
        network from elsewhere.
    origin_ : str or None
        What a stager that was loaded was trained as, and by which version.
    seen_epochs_ : ndarray of uint32 or None
        Numbers that tell the epochs that ``fit`` was given from others of their people.
    best_epoch_ : int or None
        The pass whose weights were kept; None for the last.
    calibration_ : float
        The temperature by which logits are divided; 1.0 without ``calibrate``.
    module_ : torch.nn.Module
        The network.
    history_ : skorch.history.History
        Losses, their terms and the validation kappa, pass by pass.

    Notes
    -----
    With ``checkpoint`` and a seed (``random_state``, an error without), a training that was
    stopped and resumed ends at the weights of one that was never stopped. Of a callback its
    attributes that end in an underscore are kept, if they are numbers, text, tensors, lists
    or dicts of those, or have a ``state_dict``; or what its own ``state_dict`` says. Each
    training has a file of its own, read without running code; a damaged one leads to a
    warning and a new training. That of a finished training is read in its place: delete the
    folder when it is no longer needed.

    ``cross_val_predict(method="predict_proba")`` encodes ``y`` before a stager sees it, so
    that unscored rows become a class of their own: leave them out there.

    References
    ----------
    .. [1] Guo, C., Pleiss, G., Sun, Y. and Weinberger, K. Q. (2017). On calibration of modern
       neural networks. ICML, section 4.2 (temperature scaling).

    Examples
    --------
    >>> import numpy as np, torch
    >>> from skleepkd import SleepStager
    >>> class Small(torch.nn.Sequential):
    ...     def __init__(self, n_chans, n_times, n_outputs):
    ...         super().__init__(torch.nn.Flatten(), torch.nn.Linear(n_chans * n_times, n_outputs))
    >>> rng = np.random.default_rng(0)
    >>> X, y = 30 * rng.standard_normal((40, 1, 60)), np.repeat(["W", "N2"], 20)
    >>> stager = SleepStager(Small, max_epochs=2, random_state=0).fit(X, y)
    >>> stager.predict_proba(X).shape, stager.classes_.tolist()
    ((40, 2), ['N2', 'W'])
    """

    checkpoint_ = progress_ = None  # a training that is kept, or runs, has one
    seen_epochs_ = None  # where no people are known
    calibration_ = 1.0  # where nothing was fitted
    #: Why scored epochs are needed; None where they are not.
    why_labels = "Only a DistilledSleepStager with a fitted teacher learns without a label."

    __metadata_request__fit = {"groups": True}  # noqa: RUF012 (scikit-learn's convention)

    def __init__(
        self,
        module,
        *,
        classes=None,
        class_weight=None,
        balanced_batches=False,
        sequence_length=1,
        fusion="product",
        neighbouring_windows=1,
        validation="auto",
        calibrate=False,
        random_state=None,
        checkpoint=None,
        device="auto",
        autocast=False,
        max_epochs=100,
        batch_size=32,
        lr=1e-3,
        optimizer=torch.optim.Adam,
        criterion=labels.StageCrossEntropy,
        train_split=None,
        predict_nonlinearity=calibration.softmax,
        verbose=None,
        **kwargs,
    ):
        self.class_weight = class_weight
        self.balanced_batches = balanced_batches
        self.sequence_length = sequence_length
        self.fusion = fusion
        self.neighbouring_windows = neighbouring_windows
        self.validation = validation
        self.calibrate = calibrate
        self.random_state = random_state
        self.checkpoint = checkpoint
        self.autocast = autocast
        parameters.refuse_unknown_parameters(self, kwargs)
        super().__init__(
            module,
            classes=classes,
            device=device,
            max_epochs=max_epochs,
            batch_size=batch_size,
            lr=lr,
            optimizer=optimizer,
            criterion=criterion,
            train_split=train_split,
            predict_nonlinearity=predict_nonlinearity,
            verbose=verbose,
            **kwargs,
        )

    def fit(self, X, y=None, groups=None, **unknown):
        """Train the network.

        Parameters
        ----------
        X : PairedEpochs, mne.Epochs or array of shape (n_epochs, n_channels, n_times)
            Epochs in microvolts (of a pair, the target). A 2-D array is one channel.
        y : array-like of shape (n_epochs,)
            Stages, codes or names; -1 or "?" where unscored (such rows are skipped).
        groups : array-like of shape (n_epochs,), optional
            The subject of each epoch, where X does not say.

        Returns
        -------
        SleepStager

        Raises
        ------
        ValueError
            If X or y is not what is expected; the message says what to do.
        """
        two = "Of two signals: DistilledSleepStager(teacher).fit(X, y, X_source=source)."
        parameters.refuse_unknown(unknown, ("groups",), "SleepStager.fit", two)
        return self._fit(X, y, groups=groups)

    def partial_fit(self, X, y=None, classes=None, groups=None):
        """Train on, with the weights and the optimiser that are there.

        A student's teacher that is not frozen is fitted anew to these rows. With the strategy
        "online", whose teacher begins anew too, there is no such method (AttributeError).

        Parameters
        ----------
        X, y, groups
            As for :meth:`fit`; classes, channels and samples must be the same.
        classes
            Ignored; it is there for scikit-learn.

        Returns
        -------
        SleepStager
        """
        return self._fit(X, y, groups=groups, go_on=True)

    def predict_proba(self, X):
        """Probability of each stage.

        Parameters
        ----------
        X
            As for :meth:`fit`.

        Returns
        -------
        ndarray of shape (n_epochs, n_classes)
            Columns in the order of ``classes_``.

        Raises
        ------
        FloatingPointError
            If the network's output is NaN, as after a training that diverged in its last
            step.

        Warns
        -----
        LeakageWarning
            Once, if X holds epochs of people whom the stager, or a frozen part of it, was
            fitted on, other than the very epochs that ``fit`` was given.
        """
        self.check_is_fitted()
        if checks.is_ready(X):
            return super().predict_proba(X)
        return self.predict_pair(self.check_predicted(X))

    def predict(self, X):
        """Stage of each epoch, in the labels that ``fit`` was given.

        Parameters
        ----------
        X
            As for :meth:`fit`.

        Returns
        -------
        ndarray of shape (n_epochs,)
        """
        return self.classes_[self.predict_proba(X).argmax(axis=1)]

    def score(self, X, y, sample_weight=None):
        """Accuracy over the scored epochs.

        Parameters
        ----------
        X, y
            As for :meth:`fit`.
        sample_weight : array-like of shape (n_epochs,), optional
            Weights of the epochs.

        Returns
        -------
        float
        """
        return checks.scored_accuracy(self.predict(X), y, self.classes_, sample_weight)

    from_module = classmethod(foreign.from_module)
    extract_features = outputs.extract_features
    hypnodensity = outputs.hypnodensity
    predict_pair = outputs.predict_pair
    make_dataset = batches.make_dataset

    @property
    def classes_(self):
        """Labels, in the order of the columns of ``predict_proba``."""
        self.check_is_fitted(["classes_inferred_"])
        return self.classes_inferred_

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags

    def check_is_fitted(self, attributes=None, msg=None, **kwargs):
        """Raise NotFittedError before ``fit``; skorch would advise "initialize" too."""
        msg = msg or "This %(name)s is not fitted yet: call fit first."
        super().check_is_fitted(attributes, msg, **kwargs)

    def _fit(self, X, y, X_source=None, groups=None, go_on=False):
        go_on = (go_on or self.warm_start) and self.initialized_
        needs = dict(source_for=self._check_parameters(go_on), why_labels=self.why_labels)
        pair, y = checks.training_input(X, y, X_source, groups, **needs)
        return self.end_fit(self.begin_fit(pair, y, go_on))

    def _check_parameters(self, go_on):
        """Refuse parameters that do not go together; say for what a source is needed, if it is."""

    def begin_fit(self, pair, y, go_on=False):
        """Do all of a fit of checked input but the passes: what is wrong shows here."""
        parameters.check_kinds(self)
        batches.check_sequences(self)
        batches.check_balance(self)
        if self.checkpoint is not None and self.random_state is None:
            raise ValueError("A training is found again by its seed: give random_state=.")
        # A student and its teacher must not begin at the same weights by accident.
        random_state = check_random_state(self.random_state)
        seed, source_seed = random_state.randint(np.iinfo(np.int32).max, size=2).tolist()
        scored = ~left_unscored(y, self.classes)
        learned = scored | (self.why_labels is None)
        self.held_out_ = labels.draw_held_out(
            self.validation, pair.subject, scored, learned, seed
        )
        self.best_epoch_, self.calibration_ = None, 1.0
        self.seen_epochs_ = seen_epochs(pair, self.seen_epochs_ if go_on else None)
        source = self._begin_source(pair, y, source_seed, go_on)
        classes = self._find_classes(y)
        scored = ~left_unscored(y, classes)
        calibration.check_calibration(self, pair, scored)
        if self.sequence_length_ > 1:
            batches.check_windows(self, pair, scored | learned)
        pair, y = self._select_rows(pair, y, scored)
        codes = labels.encode(y, classes)
        self._remember_input(pair, codes, classes, go_on)
        random = passes.RandomStream(seed, self.device)
        if not go_on:
            with random:
                self.initialize()
        callbacks.check_monitors(self)
        outputs.check_network(self)
        return SimpleNamespace(pair=pair, codes=codes, random=random, source=source)

    def end_fit(self, training):
        """Pass over the training rows of what :meth:`begin_fit` returned."""
        with training.random:
            self._run_step(Step(), training.pair, training.codes)
            calibration.calibrate(self, training.pair, training.codes)
        return self

    def _begin_source(self, pair, y, seed, go_on):
        """Return what is to be fitted on the source before; nothing here."""

    def _select_rows(self, pair, y, scored):
        """Return the rows to train on; here those of the target that somebody scored."""
        if self.sequence_length_ == 1 and not scored.all():
            pair, y = pair[scored], y[scored]
        return pair.target_epochs, y

    def _find_classes(self, y):
        return labels.find_classes(self.classes, y)

    def _remember_input(self, pair, codes, classes, go_on):
        """Remember what the stager is fitted to, which must be as before if it goes on."""
        learned = codes[~self.validates(pair)]
        if self.why_labels is not None and not (learned >= 0).any():
            raise ValueError("No scored epoch is left to train on.")
        signal = input_spec(pair, len(classes))
        if go_on and (signal != self.signal_ or not np.array_equal(classes, self.classes_)):
            raise ValueError(
                "A training goes on with the classes and the signal that it began with, "
                f"{self.classes_.tolist()} and {self.signal_}; given {classes.tolist()} and "
                f"{signal}. Fix the classes with classes=."
            )
        self.classes_inferred_ = classes
        self.class_weight_ = labels.class_weights(self.class_weight, learned, classes)
        self.signal_ = signal
        self.epoch_shape_ = pair.shape[1:]
        self.spread_ = checks.typical_spread(pair)
        self.ch_names_ = pair.ch_names["target"]
        self.drops_channels_ = batches.drops_channels(self)
        self.origin_ = self.origin_ if go_on else None
        self.fitted_on_ = seen_names(pair, self.fitted_on_ if go_on else None)
        before = self.n_scored_ if go_on else 0
        self.n_scored_ = None if before is None else before + int((codes >= 0).sum())

    def _run_step(self, step, pair, codes, columns=None):
        """Train for the passes of a step, on rows that carry further columns."""
        self.step_ = step
        dataset = self.make_dataset(pair, codes, columns)
        self.notify("on_train_begin", X=pair, y=codes)
        self.fit_loop(dataset, codes, step.max_epochs)
        self.notify("on_train_end", X=pair, y=codes)

    def check_predicted(self, X):
        """Take what a user gives for epochs as a checked pair that this stager can predict."""
        pair = checks.predicted_input(X, self)
        warn_of_leakage(pair, self)
        return pair

    # ------------------------------------------------------------ data sets and batches

    @property
    def sequence_length_(self):
        """Consecutive epochs that the network sees at a time."""
        return self.sequence_length

    def validates(self, pair):
        """Mark the rows of the subjects who are held out."""
        if not len(self.held_out_):
            return np.zeros(len(pair), dtype=bool)
        return np.isin(pair.subject, self.held_out_)

    def windows_of(self, pair, codes):
        """Return the windows to train on, (n_windows, sequence_length); none without a stage."""
        windows = batches.training_windows(pair, self.sequence_length_)
        return windows[(codes[windows] >= 0).any(axis=1)]

    def _trains_shared(self):
        """Whether the network may encode an epoch once for all windows of a training batch."""
        return hasattr(self.module_, "encode_epochs")

    def get_dataset(self, X, y=None):
        """Make the data set of what skorch was given."""
        return X if checks.is_ready(X) else self.make_dataset(self.check_predicted(X), y)

    def get_split_datasets(self, X, y=None, **fit_params):
        """Split by subject where subjects are held out, else as ``train_split`` says."""
        if not len(self.held_out_):
            return super().get_split_datasets(X, y, **fit_params)
        return X.split(self.validates(X.pair))

    def get_iterator(self, dataset, training=False):
        """Load batches by one indexed read each; training rows are shuffled."""
        return batches.make_loader(self, dataset, training=training)

    def initialize_module(self):
        """Build the network for the signal that ``fit`` was given."""
        module, options = network_spec(self)
        self.module_ = build_network(module, self.signal_, options)
        return self

    def initialize_criterion(self):
        """Build the criterion with the weights of the classes."""
        options = self.get_params_for("criterion")
        if self.class_weight_ is not None:
            options["weight"] = torch.from_numpy(self.class_weight_)
        self.criterion_ = self.initialized_instance(self.criterion, options)
        return self

    def infer(self, x, **fit_params):
        """Compute the logits of a batch ``{"target": ...}``."""
        target = x["target"].to(self.device, non_blocking=True)
        with self.autocasting():
            if isinstance(target, batches.SharedEpochs):
                logits = target.output_of(self.module_)
            else:
                logits = self.module_(target)
        if self.sequence_length_ > 1 and logits.ndim == 2:  # a window of a single epoch
            logits = logits[..., None]  # (batch, n_classes) -> (batch, n_classes, 1)
        return logits.float()

    def _get_predict_nonlinearity(self):
        nonlinearity, temperature = super()._get_predict_nonlinearity(), self.calibration_
        if temperature == 1:
            return nonlinearity
        return lambda logits: nonlinearity(logits / temperature)

    def autocasting(self):
        """Compute in bfloat16 in the block, if ``autocast`` says so."""
        return torch.autocast(torch.device(self.device).type, torch.bfloat16, self.autocast)

    @property
    def _default_callbacks(self):
        return callbacks.default_callbacks(super()._default_callbacks)

    def initialize_callbacks(self):
        """Initialise the callbacks; skorch's scores are to compare labels."""
        super().initialize_callbacks()
        callbacks.score_by_labels(self.callbacks_)
        return self

    def trained_nets(self):
        """Nets that are trained together."""
        return [self]

    def trained_modules(self):
        """Modules whose best weights are kept together."""
        return [net.module_ for net in self.trained_nets()]

    def resumed_objects(self):
        """Objects beside the networks on which the next pass depends."""
        return [callback for _, callback in self.callbacks_]

    def check_data(self, X, y=None):
        """Do nothing: ``fit`` has checked."""

    def fit_loop(self, X, y=None, epochs=None, **fit_params):
        """Pass over the training rows; with a checkpoint, from its last pass on."""
        loop = partial(super().fit_loop, X, y, **fit_params)
        passes.run_passes(self, loop, X, self.max_epochs if epochs is None else epochs)
        return self

    def notify(self, method_name, **kwargs):
        """Keep or resume the last pass, and let nets that are trained together follow."""
        if method_name == "on_epoch_begin" and self.checkpoint_ is not None:
            self.checkpoint_.between_passes()
        if method_name.startswith(("on_train", "on_epoch")):
            for net in self.trained_nets()[1:]:
                net.notify(method_name, **kwargs)
        super().notify(method_name, **kwargs)

    def run_single_epoch(self, iterator, training, prefix, step_fn, **fit_params):
        """Loop over batches as skorch does, and wait for the losses when the pass ends."""
        if iterator is not None:
            super()._set_training(training)
            passes.run_batches(self, iterator, training, prefix, step_fn, **fit_params)

    def _set_training(self, training=True):
        """Set the mode of networks that are in the other one; skorch sets it each batch."""
        parts = [getattr(self, f"{name}_") for name in self._modules + self._criteria]
        if any(getattr(part, "training", training) != training for part in parts):
            super()._set_training(training)

    # ------------------------------------------------------------ parameters, pickles

    device = parameters.device
    __repr__ = parameters.text_of

    def get_params(self, deep=True, **kwargs):
        """Return the parameters as they were set."""
        params = super().get_params(deep=deep, **kwargs)
        params["device"] = self.__dict__["device"]
        # skorch's own note of which names to validate is among them.
        return {name: value for name, value in params.items() if name[0] != "_"}

    def set_params(self, **params):
        """Set parameters, those of components (``module__*``) too."""
        parameters.refuse_unknown_parameters(self, params, ValueError)
        return super().set_params(**params)

    def __setattr__(self, name, value):
        # A parameter that is a torch module (a loss) is stored as it is; skorch registers
        # fitted components alone.
        if name.endswith("_"):
            super().__setattr__(name, value)
        else:
            object.__setattr__(self, name, value)

    def __getstate__(self):
        # skorch pickles networks apart, by the plain pickle, which cannot send a class
        # of a notebook to a worker; off the GPU there is no need to.
        cuda = torch.device(self.device).type == "cuda"
        return super().__getstate__() if cuda else self.__dict__.copy()

    def __setstate__(self, state):
        parameters.restore(self, state, super().__setstate__)
