"""A student that learns from the wearable what its teacher knows from polysomnography."""

import torch
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from skleepkd.distillation.adapters import check_adapter
from skleepkd.distillation.losses import SoftmaxDistillation
from skleepkd.distillation.teachers import (
    clone_for_student,
    final_stager,
    fit_teacher,
    fit_transformers,
    is_frozen,
    network_spec,
    refuse_half_frozen,
    split_params,
    transformed,
    warn_of_leakage,
)
from skleepkd.epochs.checks import as_pair, check_signal
from skleepkd.estimators.epoch_net import input_spec
from skleepkd.estimators.online import begin_online
from skleepkd.estimators.supervised import SleepStager
from skleepkd.estimators.taught import FEATURE_LOSSES, TaughtStager, copy_weights
from skleepkd.estimators.validation import HeldOut
from skleepkd.networks.build import build_network

STRATEGIES = ("offline", "online", "two-step")


def _goes_on(student):
    """Whether a training can go on, as ``available_if`` asks."""
    if student.strategy == "online":
        raise AttributeError("An online teacher begins anew; partial_fit needs 'offline'.")
    return True


class DistilledSleepStager(TaughtStager):
    """Stage sleep from a wearable signal, taught by a stager of the paired source.

    ``fit`` takes pairs of simultaneous epochs; ``predict`` needs the wearable alone. The
    student's loss is::

        (1 - alpha) * cross-entropy
        + alpha * temperature^2 * KL(teacher || student)
        + feature_weight * feature_loss(student's features, teacher's features)

    Parameters
    ----------
    teacher : estimator
        A stager of the source: a ``SleepStager``, a ``Pipeline`` that ends in one or,
        where only its probabilities are used, any classifier. It is cloned and fitted
        on the source of the rows that ``fit`` is given, so in cross-validation it never
        sees the test subject. ``sklearn.frozen.FrozenEstimator(teacher)`` marks one
        that is fitted already and is used as it is.
    module : str, type, callable or None, default=None
        The student's network, as in :class:`SleepStager`; None for the teacher's own
        architecture.
    strategy : {"offline", "online", "two-step"}, default="offline"
        "offline": the teacher is fitted, then frozen; its answers are computed once.
        "online": both are trained together, the teacher on its own cross-entropy alone;
        the student's losses send it no gradient. Passes and batches are the student's,
        optimiser and class weights the teacher's own.
        "two-step": the teacher is fitted, then frozen; the student learns its features
        alone, without any label, and then from the best weights of that step, with a
        fresh optimiser, all of the loss but the feature term.
    feature_loss : {"mse", "attention"}, None or torch.nn.Module, default="mse"
        Compares features: :class:`~skleepkd.distillation.FeatureMSE`,
        :class:`~skleepkd.distillation.AttentionTransfer` (of layers that keep time), or
        a module that is called with (student, teacher). None: no term.
    feature_weight : float, default=1.0
        Weight of the feature term (of no effect in two steps).
    layers : sequence of str or of (student, teacher) pairs, or None, default=None
        Layers that are compared, the average over several; None for what the networks
        declare, "output" (as a name) for the logits.
    adapter : None, "linear" or callable, default=None
        What projects the student's features to the shape of the teacher's, so that a
        small network may follow a large one: None compares them as they are, "linear" is
        a :class:`~skleepkd.distillation.Projection` for each layer, a callable is given
        the student's and the teacher's shape (without the batch) and returns a module.
        Adapters are trained by the student's optimiser and are no part of what it
        predicts with, saves or exports.
    alpha : float, default=0.0
        Share of the softmax term, from 0 to 1.
    temperature : float, default=1.0
        Temperature of the softmax term.
    feature_max_epochs : int or None, default=None
        Passes of the first of two steps; None for ``max_epochs``.
    start_from_teacher : bool, default=False
        Begin at the fitted teacher's weights (equal architectures and shapes).
    memory : None, str or joblib.Memory, default=None
        Where fitted teachers are kept: one with the same parameters, rows, labels and
        held-out subjects is not fitted again. So is the first of two steps, which
        students share that differ in ``alpha``, ``class_weight`` or ``max_epochs`` alone.
    classes, class_weight, validation, random_state, checkpoint, device, max_epochs, batch_size, lr
        As in :class:`SleepStager`. The teacher holds out the same subjects and, where it
        has none, takes the student's ``random_state`` and ``checkpoint``.
    **kwargs
        Further parameters of :class:`SleepStager` and of skorch.

    Attributes
    ----------
    teacher_ : estimator
        The fitted teacher; it is asked about ``X.source_epochs``.
    adapters_ : torch.nn.ModuleList
        One a layer.
    history_ : skorch.history.History
        With ``train_cross_entropy``, ``train_feature_loss``, ``train_softmax_loss`` and,
        online, ``train_teacher_loss`` of each pass. In two steps the passes of the first
        come first; they have no cross-entropy.

    Notes
    -----
    Rows that nobody scored (y is -1 or "?") have no cross-entropy but keep the teacher's
    terms, so paired nights without labels teach as well (some other nights must have
    them). A teacher that is not frozen has passes, batches and a learning rate of its own
    (``teacher__max_epochs`` and so on). Fit one to be frozen on ``X.source_epochs``. In
    half precision, a frozen
    teacher's features are kept in memory up to 1 GiB a layer, in a temporary memory map
    above that.

    References
    ----------
    Anandakumar et al. (2022), A knowledge distillation framework for enhancing ear-EEG
    based sleep staging with scalp-EEG data (offline
    and online feature distillation, equations 1 and 2); Joshi et al. (2021), A deep
    knowledge distillation framework for EEG assisted enhancement of single-lead ECG
    based sleep staging (attention transfer, equation 3); Hinton et al. (2015), Distilling
    the knowledge in a neural network (the softmax term); Romero et al. (2015), FitNets:
    hints for thin deep nets (adapters).
    """

    __metadata_request__fit = {"X_source": True, "groups": True}  # noqa: RUF012

    def __init__(
        self,
        teacher,
        module=None,
        *,
        strategy="offline",
        feature_loss="mse",
        feature_weight=1.0,
        layers=None,
        adapter=None,
        alpha=0.0,
        temperature=1.0,
        feature_max_epochs=None,
        start_from_teacher=False,
        memory=None,
        **kwargs,
    ):
        self.teacher = teacher
        self.strategy = strategy
        self.feature_loss = feature_loss
        self.feature_weight = feature_weight
        self.layers = layers
        self.adapter = adapter
        self.alpha = alpha
        self.temperature = temperature
        self.feature_max_epochs = feature_max_epochs
        self.start_from_teacher = start_from_teacher
        self.memory = memory
        super().__init__(module, **kwargs)

    def fit(self, X, y, X_source=None, groups=None):
        """Fit the teacher (unless it is frozen) and the student.

        Parameters
        ----------
        X : PairedEpochs, or array of shape (n_epochs, n_channels, n_times)
            The pair or, with ``X_source``, the target alone; in microvolts.
        y : array-like of shape (n_epochs,)
            Stages, codes or names; -1 or "?" where unscored (the teacher still teaches).
        X_source : array of shape (n_epochs, n_channels, n_times), optional
            The source of the same epochs, where X is no pair.
        groups : array-like of shape (n_epochs,), optional
            The person of each epoch, where X does not say.

        Returns
        -------
        DistilledSleepStager
            The stager itself.

        Raises
        ------
        ValueError
            If the pair, y or a parameter is not what is expected.
        """
        self._check_parameters()
        pair = as_pair(X, X_source, groups)
        if not pair.has_source:
            raise ValueError(
                "Distillation needs the teacher's signal: give a PairedEpochs with a source, "
                "or X_source=."
            )
        return self._fit(pair, y)

    @available_if(_goes_on)
    def partial_fit(self, X, y, classes=None, groups=None):
        """Train the student on; a teacher that is not frozen is fitted anew to these rows.

        Parameters
        ----------
        X : PairedEpochs
            The pair.
        y, classes, groups
            As for :meth:`SleepStager.partial_fit`.

        Returns
        -------
        DistilledSleepStager
            The stager itself.

        Raises
        ------
        AttributeError
            If the strategy is "online", whose teacher begins together with its student.
        """
        return super().partial_fit(X, y, classes, groups)

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
            If a frozen teacher was fitted on people or nights of X, and the student was
            not.
        """
        self.check_is_fitted()
        teacher = final_stager(self.teacher_)
        if is_frozen(self.teacher) and teacher is not None:
            warn_of_leakage(X, teacher, self, "teacher")
        return super().predict_proba(X)

    # ------------------------------------------------------------ the teacher

    def _check_parameters(self):
        if self.strategy not in STRATEGIES:
            raise ValueError(
                f"Unknown strategy {self.strategy!r}; the strategies are "
                f"{', '.join(map(repr, STRATEGIES))}."
            )
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha is a share from 0 to 1; given {self.alpha!r}.")
        if isinstance(self.feature_loss, str) and self.feature_loss not in FEATURE_LOSSES:
            raise ValueError(
                f"Unknown feature_loss {self.feature_loss!r}; name one of "
                f"{', '.join(map(repr, FEATURE_LOSSES))}, or give None or an nn.Module."
            )
        check_adapter(self.adapter)
        if self.adapter is not None and self.feature_loss is None:
            raise ValueError(
                f"adapter={self.adapter!r} projects features for a feature_loss, which is "
                'None. Give feature_loss="mse", or leave adapter out.'
            )
        if isinstance(self.teacher, str):
            raise ValueError(
                f"teacher is an estimator; given the name {self.teacher!r}. Write "
                f'teacher=SleepStager("{self.teacher}").'
            )
        refuse_half_frozen(self.teacher, "teacher")
        stager = final_stager(self.teacher)
        needs = {
            "strategy='online'": self.strategy == "online",
            "a feature_loss": self._uses_features,
            "strategy='two-step'": self.strategy == "two-step",
            "start_from_teacher": self.start_from_teacher,
            "module=None": self.module is None,
        }
        needs = [name for name, needed in needs.items() if needed]
        if stager is None and needs:
            raise ValueError(
                f"{needs[0]} needs a teacher that is a SleepStager or a Pipeline that ends in "
                f"one; given {type(self.teacher).__name__}. A teacher of another kind gives "
                "probabilities alone: feature_loss=None, alpha > 0 and a module."
            )
        length = None if stager is None else stager.sequence_length_
        if (
            stager is not None
            and isinstance(stager.classes, str)
            and isinstance(self.classes, str)
            and stager.classes != self.classes
        ):
            raise ValueError(
                f"The teacher's classes are {stager.classes!r}, the student's "
                f"{self.classes!r}: their codes mean other stages. Give both the same scheme."
            )
        window_by_window = self._uses_features or self.strategy == "online"
        if window_by_window and length != self.sequence_length_:
            raise ValueError(
                "Features are compared window by window, and an online teacher sees its "
                f"student's windows: the teacher's sequence_length is {length}, the student's "
                f"{self.sequence_length_}. Give both the same, or feature_loss=None and "
                "alpha > 0."
            )
        if self.feature_loss is None and not (self.alpha or self.start_from_teacher):
            raise ValueError(
                "Nothing of the teacher would reach the student: feature_loss is None and "
                "alpha is 0. Give one of them, or start_from_teacher=True."
            )
        if self.strategy == "two-step" and not self._uses_features:
            raise ValueError(
                "strategy='two-step' learns features first, but feature_loss is None or "
                "feature_weight is 0. Give a feature_loss, or strategy='offline'."
            )
        if self.strategy == "online" and self.warm_start:
            raise ValueError("An online teacher begins anew, so warm_start must be False.")
        if self.strategy == "online" and is_frozen(self.teacher):
            raise ValueError(
                "An online teacher is trained together with the student, so it cannot be a "
                "FrozenEstimator. Give the stager itself, or strategy='offline'."
            )
        if self.strategy == "online" and self.start_from_teacher:
            raise ValueError(
                "start_from_teacher needs a fitted teacher; an online teacher begins together "
                "with the student. Use strategy='offline'."
            )

    def _check_ahead(self, y):
        super()._check_ahead(y)
        SoftmaxDistillation(self.temperature)

    def _check_networks(self, pair, y):
        """Build both networks and compare them, before hours are spent on the teacher."""
        if self.module is not None:
            super()._check_networks(pair, y)
        teacher = self.teacher
        if not (self._uses_features or self.start_from_teacher) or not isinstance(
            teacher, SleepStager
        ):
            return  # a frozen one costs nothing, what a Pipeline makes is not known yet
        n_outputs = len(self._find_classes(y))
        module, options = network_spec(teacher)
        with torch.random.fork_rng(devices=[]):
            taught = build_network(
                module, input_spec(pair.source_epochs, n_outputs), options
            )
            if self.module is not None:
                module, options = self.module, {}
            options = {**options, **self.get_params_for("module")}
            own = build_network(module, input_spec(pair, n_outputs), options)
        if self.start_from_teacher:
            copy_weights(taught, own)
        if self._uses_features:
            layers = self._paired_layers(own, taught)
            epochs = (pair.shape[1:], pair.source_epochs.shape[1:])
            self._make_adapters(layers, (own, taught), epochs)

    def _learn_from_source(self, pair, y, seed, go_on):
        """Fit the teacher, unless it is frozen or trained together with the student."""
        source = pair.source_epochs
        check_signal(source, "target", "source")
        if is_frozen(self.teacher):
            check_is_fitted(self.teacher)
            self.teacher_ = self.teacher
            return pair, y
        teacher = clone_for_student(
            self.teacher, HeldOut(self.held_out_.tolist()), seed, self.checkpoint
        )
        if self.strategy != "online":
            teacher = fit_teacher(teacher, source, y, self.held_out_, self.memory)
        else:
            fit_transformers(teacher, source, y, self.held_out_)
            seen = transformed(teacher, source)
            classes = self._find_classes(y)
            begin_online(final_stager(teacher), seen, y, self.held_out_, classes)
        self.teacher_ = teacher
        return pair, y

    # ------------------------------------------------------------ parameters

    def set_params(self, **params):
        """Set parameters; ``teacher__*`` are the teacher's."""
        inner, own = split_params(params, "teacher", self.teacher)
        super().set_params(**own)
        if inner:
            self.teacher.set_params(**inner)
        return self
