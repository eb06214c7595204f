"""A sleep stager: skorch's classifier that knows nights, people and unscored epochs."""

import numpy as np
import torch
from sklearn.metrics import accuracy_score
from sklearn.utils import check_random_state
from skorch.utils import is_dataset

from skleepkd.epochs.checks import as_pair, check_signal
from skleepkd.estimators.cross_entropy import StageCrossEntropy
from skleepkd.estimators.epoch_net import EpochNet, input_spec
from skleepkd.estimators.hypnodensity import hypnodensity
from skleepkd.estimators.labels import check_labels, class_weights, encode, find_classes
from skleepkd.estimators.net import seeded
from skleepkd.estimators.sequential import (
    centred_features,
    fused_probabilities,
)
from skleepkd.estimators.validation import draw_held_out
from skleepkd.networks.build import (
    build_network,
    check_takes_sequences,
    feature_layers,
    find_network,
)
from skleepkd.stages import is_unscored, left_unscored


def softmax(logits):
    """Turn logits of shape (batch, n_classes) into probabilities."""
    return logits.softmax(dim=1)


class SleepStager(EpochNet):
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
        The columns of ``predict_proba``: None for the labels that ``y`` holds; a
        scheme or a list fixes them, so that a fold without N1 keeps five columns.
        Labels are never mapped (``skleepkd.stages.to_scheme`` does).
    class_weight : None, "balanced" or dict, default=None
        Weights of the classes in the cross-entropy.
    sequence_length : int, default=1
        Consecutive epochs that the network sees at a time. Above 1 it is given windows of
        shape (batch, sequence, n_channels, n_times) and answers logits of shape (batch,
        n_classes, sequence); windows are one step apart, within a recording, and end at a
        gap of ``onset``. ``fit`` then needs recordings (``PairedEpochs``). Unscored epochs
        are seen, not judged.
    fusion : {"product", "mean", "centre"}, default="product"
        How the answers of all windows that hold an epoch become its own; see
        :class:`skleepkd.sequences.Fusion`.
    neighbouring_windows : int, default=1
        Neighbouring windows that a training batch holds together. Above 1 a network that
        encodes epochs one by one (SeqSleepNet) encodes those that they share once: a
        faster step on batches that are less mixed.
    validation : "auto", None, int, float or callable, default="auto"
        Subjects held out of the training set; the weights of the pass with the highest
        kappa on them are kept. "auto": 10 % where at least ten subjects are known, else
        nobody, and the last weights are kept. An int is a number of subjects, a float
        below 1 their fraction, a callable is given the training subjects and returns
        those to hold out.
    random_state : int, RandomState or None, default=None
        Seeds the weights, the order of the rows, dropout and the draw of subjects.
    checkpoint : None or path-like, default=None
        A folder in which the training is kept after every pass, so that ``fit``, called
        again with the same parameters and data after the program was stopped or killed,
        goes on from there (see Notes).
    device : str or torch.device, default="auto"
        "auto" is CUDA where there is a device, else the CPU.
    autocast : bool, default=False
        Compute in bfloat16 where ``torch.autocast`` does; weights and losses stay in
        single precision. ``compile=True`` (skorch's) compiles the network; where features
        are compared, it answers uncompiled.
    max_epochs : int, default=100
        Passes over the training rows.
    batch_size : int, default=32
        Epochs in a batch.
    lr : float, default=0.001
        Learning rate.
    optimizer : type, default=torch.optim.Adam
        The optimiser; ``optimizer__*`` are its arguments.
    criterion : type, default=StageCrossEntropy
        The loss of logits and codes, -1 being unscored.
    train_split : None or callable, default=None
        skorch's own way to split; leave it alone unless you know that it does not
        split nights.
    verbose : int, default=0
        1 prints a line a pass.
    **kwargs
        Further parameters of skorch's classifier.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Labels, in the order of the columns of ``predict_proba``.
    held_out_ : ndarray
        Subjects that chose the weights.
    fitted_on_ : dict
        "subject" and "recording": what ``fit`` was given, None where not known.
    best_epoch_ : int or None
        The pass whose weights were kept; None for the last.
    module_ : torch.nn.Module
        The network.
    history_ : skorch.history.History
        Losses, their terms and the validation kappa, pass by pass.

    Notes
    -----
    With ``checkpoint`` and a seed (``random_state``, an error without), a training that was
    stopped and resumed ends at the weights of one that was never stopped: networks,
    optimiser, random numbers of torch, history, best weights and the state of callbacks
    are kept (of a callback its attributes that end in an underscore, if they are numbers,
    text, tensors, lists or dicts of those, or have a ``state_dict``; or what its own
    ``state_dict`` says). Each training has a file of its own, named after its parameters,
    data and first weights. It is read without running code, and a damaged one leads to a
    warning and a new training. The file of a training that is finished stays, and is
    read in its place; delete the folder when it is no longer needed.

    ``cross_val_predict(method="predict_proba")`` encodes ``y`` before a stager sees it, so
    that unscored rows become a class of their own: leave them out there.

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

    __metadata_request__fit = {"groups": True}  # noqa: RUF012 (scikit-learn's convention)

    def __init__(
        self,
        module,
        *,
        classes=None,
        class_weight=None,
        sequence_length=1,
        fusion="product",
        neighbouring_windows=1,
        validation="auto",
        random_state=None,
        checkpoint=None,
        device="auto",
        autocast=False,
        max_epochs=100,
        batch_size=32,
        lr=1e-3,
        optimizer=torch.optim.Adam,
        criterion=StageCrossEntropy,
        train_split=None,
        predict_nonlinearity=softmax,
        verbose=0,
        **kwargs,
    ):
        self.class_weight = class_weight
        self.sequence_length = sequence_length
        self.fusion = fusion
        self.neighbouring_windows = neighbouring_windows
        self.validation = validation
        self.random_state = random_state
        self.checkpoint = checkpoint
        self.autocast = autocast
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

    # ------------------------------------------------------------ the contract

    def fit(self, X, y, groups=None):
        """Train the network.

        Parameters
        ----------
        X : PairedEpochs, mne.Epochs or array of shape (n_epochs, n_channels, n_times)
            Epochs in microvolts (of a pair, the target). A 2-D array is one channel.
        y : array-like of shape (n_epochs,)
            Stages, codes or names; -1 or "?" where unscored (such rows are skipped).
        groups : array-like of shape (n_epochs,), optional
            The person of each epoch, where X does not say.

        Returns
        -------
        SleepStager
            The stager itself.

        Raises
        ------
        ValueError
            If X or y is not what is expected; the message says what to do.
        """
        return self._fit(as_pair(X, groups=groups), y)

    def predict_proba(self, X):
        """Probability of each stage.

        Parameters
        ----------
        X : PairedEpochs, mne.Epochs or array of shape (n_epochs, n_channels, n_times)
            Epochs in microvolts (of a pair, the target).

        Returns
        -------
        ndarray of shape (n_epochs, n_classes)
            Columns in the order of ``classes_``.

        Raises
        ------
        FloatingPointError
            If the network answers NaN, as after a training that diverged in its last step.
        """
        self.check_is_fitted()
        if self.sequence_length_ == 1 or is_dataset(X):
            answers = super().predict_proba(X)
        else:
            answers = fused_probabilities(self, self._check_predicted(X), self._can_share())
        n_failed = np.isnan(answers).reshape(len(answers), -1).any(axis=1).sum()
        if n_failed:
            raise FloatingPointError(
                f"The network answers NaN for {n_failed} of {len(answers)} epochs: its "
                f"training diverged. Fit it anew with a lower learning rate (lr is "
                f"{self.lr!r}), or look for extreme values in the signal."
            )
        return answers

    def predict(self, X):
        """Stage of each epoch, in the labels that ``fit`` was given.

        Parameters
        ----------
        X : PairedEpochs, mne.Epochs or array of shape (n_epochs, n_channels, n_times)
            Epochs in microvolts (of a pair, the target).

        Returns
        -------
        ndarray of shape (n_epochs,)
        """
        stages = self.predict_proba(X).argmax(axis=1)
        return self.classes_[stages]

    def score(self, X, y, sample_weight=None):
        """Accuracy over the scored epochs.

        Parameters
        ----------
        X : PairedEpochs, mne.Epochs or array of shape (n_epochs, n_channels, n_times)
            Epochs in microvolts.
        y : array-like of shape (n_epochs,)
            Stages; -1 or "?" where unscored.
        sample_weight : array-like of shape (n_epochs,), optional
            Weights of the epochs.

        Returns
        -------
        float
        """
        predicted = self.predict(X)
        y = check_labels(y, len(predicted))
        scored = ~is_unscored(y) | np.isin(y, self.classes_)
        weight = None if sample_weight is None else np.asarray(sample_weight)[scored]
        return accuracy_score(y[scored], predicted[scored], sample_weight=weight)

    def extract_features(self, X, layer=None):
        """Return what a layer of the network answers.

        Parameters
        ----------
        X : PairedEpochs, mne.Epochs or array of shape (n_epochs, n_channels, n_times)
            Epochs in microvolts (of a pair, the target).
        layer : str, optional
            Dotted name of the layer; by default the (first) layer that the network
            declares in ``feature_layers``.

        Returns
        -------
        ndarray of shape (n_epochs, ...)
            With a ``sequence_length`` above 1, of each epoch what the window answers in
            which it is nearest to the middle.
        """
        self.check_is_fitted()
        if layer is None:
            layer = feature_layers(self.module_)[0]
        if self.sequence_length_ > 1:
            return centred_features(self, self._check_predicted(X), layer)
        parts = []
        for batch in self.get_iterator(self.get_dataset(X), training=False):
            with self.capture([layer]) as seen:
                self.evaluation_step(batch)
            parts.append(seen[layer].cpu().numpy())
        return np.concatenate(parts)

    def hypnodensity(self, X, resolution=30.0, return_onset=False):
        """Probability of each stage every ``resolution`` seconds.

        Parameters
        ----------
        X : PairedEpochs, mne.Epochs or array of shape (n_epochs, n_channels, n_times)
            Epochs in microvolts (of a pair, the target).
        resolution : float, default=30.0
            Seconds for each answer, a whole number of samples. Where it divides 30 s,
            each epoch is answered by itself, in the order of X. Where it does not (20 s),
            consecutive epochs of a recording are joined: X is a ``PairedEpochs`` that
            knows ``recording`` and ``onset``, and is answered recording by recording in
            the order of their names and of time.
        return_onset : bool, default=False
            Whether to return the onsets too.

        Returns
        -------
        probabilities : ndarray of shape (n_answers, n_classes)
            Columns in the order of ``classes_``; at 30 s, those of ``predict_proba``.
        onset : ndarray of shape (n_answers,)
            Only if ``return_onset``: when each answer's time begins, in seconds from the
            recording's start. Where X has no onsets, from its first row, epochs following
            one another.

        Raises
        ------
        ValueError
            If the network answers whole epochs alone ("UTime", braindecode's "USleep" and
            networks with a method ``segment`` do not), if the resolution is no whole
            number of samples, or if epochs are to be joined and X does not say which
            follow one another, or they overlap.

        Notes
        -----
        A gap in the onsets ends a joined signal; what remains there and is shorter than
        ``resolution`` has no answer. Joined epochs are read in pieces of about 35, beyond
        whose ends convolutions see zeros. A stager of sequences joins epochs at every
        resolution but 30 s. In a pipeline the stager is asked about what the steps before
        it make of X: ``pipeline[-1].hypnodensity(pipeline[:-1].transform(X))``.
        """
        probabilities, onset = hypnodensity(self, X, resolution)
        return (probabilities, onset) if return_onset else probabilities

    @property
    def classes_(self):
        """Labels, in the order of the columns of ``predict_proba``."""
        try:
            return self.classes_inferred_
        except AttributeError:
            raise AttributeError(
                f"This {type(self).__name__} is not fitted yet, so it has no classes_."
            ) from None

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags

    # ------------------------------------------------------------ fitting

    def _fit(self, pair, y, go_on=False):
        """Train on a pair; ``go_on`` with the weights and the optimiser that are there."""
        y = check_labels(y, len(pair))
        check_signal(pair, "target")
        self._check_ahead(y)
        self._check_networks(pair, y)
        go_on = (go_on or self.warm_start) and self.initialized_
        if self.checkpoint is not None and self.random_state is None:
            raise ValueError(
                "A training that resumes needs a seed, so that it is found again and begins "
                "alike: give random_state=, or leave checkpoint out."
            )
        seed, source_seed = self._draw_seeds()
        subjects = (
            None if pair.subject is None else pair.subject[~left_unscored(y, self.classes)]
        )
        self.held_out_ = draw_held_out(self.validation, subjects, check_random_state(seed))
        if self.sequence_length_ > 1:
            self._check_windows(pair, y)
        pair, y = self._learn_from_source(pair, y, source_seed, go_on)
        codes = self._take_data(pair, y, go_on)
        with seeded(seed, self.device):
            if not go_on:
                self.initialize()
            return self.train(pair, codes)

    def _check_ahead(self, y):
        """Find mistakes before a teacher is fitted, which may take hours."""
        self._check_sequences()
        class_weights(self.class_weight, np.array([], int), self._find_classes(y))
        if isinstance(self.module, str):
            find_network(self.module)

    def _check_networks(self, pair, y):
        """Find mistakes that show when networks are built, before hours are spent."""
        if self.sequence_length_ == 1:
            return
        module, options = self._network()
        n_outputs = len(self._find_classes(y))
        with torch.random.fork_rng(devices=[]):
            network = build_network(module, input_spec(pair, n_outputs), options)
            window = (self.sequence_length_, *pair.shape[1:])
            check_takes_sequences(network, window, n_outputs)

    def _draw_seeds(self):
        """Draw a seed for this network, and one for a network that learns from the source.

        A student and its teacher must not begin at the same weights by accident.
        """
        random_state = check_random_state(self.random_state)
        return random_state.randint(np.iinfo(np.int32).max, size=2).tolist()

    def _learn_from_source(self, pair, y, seed, go_on):
        """Return the rows to train on; here the scored ones of the target."""
        scored = ~left_unscored(y, self._find_classes(y))
        if not scored.all() and self.sequence_length_ == 1:
            pair, y = pair[scored], y[scored]
        return pair.target_epochs, y

    def _take_data(self, pair, y, go_on=False):
        """Remember what the target is, and return the codes of ``y``."""
        classes = self._find_classes(y)
        codes = encode(y, classes)
        training = ~self._validates(pair)
        if not (codes[training] >= 0).any():
            raise ValueError("No scored epoch is left to train on.")
        signal = input_spec(pair, len(classes))
        fitted_on = {
            name: None if getattr(pair, name) is None else np.unique(getattr(pair, name))
            for name in ("subject", "recording")
        }
        if go_on:
            if signal != self.signal_ or not np.array_equal(classes, self.classes_):
                raise ValueError(
                    "A training goes on with the classes, channels, samples and sampling "
                    f"rate that it began with: {self.classes_.tolist()}, {self.signal_}; "
                    f"given {classes.tolist()}, {signal}. Fix the classes with classes=."
                )
            for name, before in self.fitted_on_.items():
                known = before is not None and fitted_on[name] is not None
                fitted_on[name] = np.union1d(before, fitted_on[name]) if known else None
        self.classes_inferred_ = classes
        self.class_weight_ = class_weights(self.class_weight, codes[training], classes)
        self.signal_ = signal
        self.epoch_shape_ = pair.shape[1:]
        self.ch_names_ = pair.ch_names["target"]
        self.fitted_on_ = fitted_on
        return codes

    def _find_classes(self, y):
        """Find the labels of the network's outputs, in order."""
        return find_classes(self.classes, y)

    # ------------------------------------------------------------ skorch's small methods

    def partial_fit(self, X, y, classes=None, groups=None):
        """Train on, with the weights and the optimiser that are there.

        Parameters
        ----------
        X, y, groups
            As for ``fit``; classes, channels and samples must be those of ``fit``.
        classes : object
            Ignored; it is there for scikit-learn.

        Returns
        -------
        SleepStager
            The stager itself.
        """
        return self._fit(as_pair(X, groups=groups), y, go_on=True)

    def initialize_module(self):
        """Build the network for the signal that ``fit`` was given."""
        if not hasattr(self, "signal_"):
            raise ValueError(
                "The network is built by fit, which knows the number of channels and samples."
            )
        module, options = self._network()
        self.module_ = build_network(module, self.signal_, options)
        return self

    def _network(self):
        """Return what to build and the options that were given for it."""
        return self.module, self.get_params_for("module")
