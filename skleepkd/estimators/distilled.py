"""A student that learns from the wearable what its teacher knows from polysomnography."""

import copy

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from skorch.utils import is_dataset
from torch import nn

from skleepkd.distillation.features import OUTPUT, capture_features, check_layers
from skleepkd.distillation.losses import (
    FeatureLoss,
    FeatureMSE,
    PlainFeatureLoss,
    SoftmaxDistillation,
)
from skleepkd.distillation.teachers import (
    architecture,
    final_stager,
    fit_teacher,
    fit_transformers,
    is_frozen,
    log_probabilities,
    prepared,
    split_params,
    teacher_features,
    transformed,
    warn_of_leakage,
)
from skleepkd.estimators.batches import EpochDataset
from skleepkd.estimators.online import begin_online, online_step
from skleepkd.estimators.supervised import SleepStager
from skleepkd.estimators.validation import HeldOut
from skleepkd.inputs import as_pair, check_signal
from skleepkd.networks.declared import feature_layers

STRATEGIES = ("offline", "online")

FEATURE_LOSSES = {"mse": FeatureMSE}

#: The statistics of standardised features are learned on about so many training rows.
ROWS_FOR_STATISTICS = 4096

#: What a batch carries of the teacher: logarithms of its probabilities, and features.
_ANSWER = "teacher_answer"
_FEATURE = "teacher_feature_"


class DistilledSleepStager(SleepStager):
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
    strategy : {"offline", "online"}, default="offline"
        "offline": the teacher is fitted, then frozen; its answers are computed once.
        "online": both are trained together, the teacher on its own cross-entropy alone;
        the student's losses send it no gradient. Passes and batches are the student's,
        optimiser and class weights the teacher's own.
    feature_loss : "mse", None or torch.nn.Module, default="mse"
        Compares features; a module is called with (student, teacher). None: no term.
    feature_weight : float, default=1.0
        Weight of the feature term.
    layers : sequence of str or of (student, teacher) pairs, or None, default=None
        Layers that are compared, the average over several; None for what the networks
        declare, "output" (as a name) for the logits.
    alpha : float, default=0.0
        Share of the softmax term, from 0 to 1.
    temperature : float, default=1.0
        Temperature of the softmax term.
    start_from_teacher : bool, default=False
        Begin at the fitted teacher's weights (equal architectures and shapes).
    memory : None, str or joblib.Memory, default=None
        Where fitted teachers are kept: one with the same parameters, rows, labels and
        held-out subjects is not fitted again.
    classes, class_weight, validation, random_state, device, max_epochs, batch_size, lr
        As in :class:`SleepStager`. The teacher holds out the same subjects and, where it
        has none, takes the student's ``random_state``.
    **kwargs
        Further parameters of :class:`SleepStager` and of skorch.

    Attributes
    ----------
    teacher_ : estimator
        The fitted teacher, which predicts from the source.
    history_ : skorch.history.History
        With ``train_cross_entropy``, ``train_feature_loss``, ``train_softmax_loss`` and,
        online, ``train_teacher_loss`` of each pass.

    Notes
    -----
    Rows that nobody scored (y is -1 or "?") have no cross-entropy but keep the teacher's
    terms, so paired nights without labels teach as well. In half precision, a frozen
    teacher's features are kept in memory up to 1 GiB a layer, in a temporary memory map
    above that.

    References
    ----------
    Anandakumar et al. (2022), Knowledge distillation for ear-EEG sleep staging (offline
    and online feature distillation, equations 1 and 2); Hinton et al. (2015),
    Distilling the knowledge in a neural network (the softmax term).
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
        alpha=0.0,
        temperature=1.0,
        start_from_teacher=False,
        memory=None,
        **kwargs,
    ):
        self.teacher = teacher
        self.strategy = strategy
        self.feature_loss = feature_loss
        self.feature_weight = feature_weight
        self.layers = layers
        self.alpha = alpha
        self.temperature = temperature
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
        stager = final_stager(self.teacher)
        needs = {
            "strategy='online'": self.strategy == "online",
            "a feature_loss": self._uses_features,
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
        if self.feature_loss is None and not (self.alpha or self.start_from_teacher):
            raise ValueError(
                "Nothing of the teacher would reach the student: feature_loss is None and "
                "alpha is 0. Give one of them, or start_from_teacher=True."
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

    @property
    def _uses_features(self):
        return self.feature_loss is not None and self.feature_weight != 0

    def _learn_from_source(self, pair, y, seed):
        """Fit the teacher, unless it is frozen or trained together with the student."""
        source = pair.source_epochs
        check_signal(source, "target", "source")
        if is_frozen(self.teacher):
            check_is_fitted(self.teacher)
            self.teacher_ = self.teacher
            return pair, y
        teacher = prepared(self.teacher, HeldOut(self.held_out_.tolist()), seed)
        if self.strategy == "offline":
            teacher = fit_teacher(teacher, source, y, self.held_out_, self.memory)
        else:
            fit_transformers(teacher, source, y, self.held_out_)
            seen = transformed(teacher, source)
            classes = self._find_classes(y)
            begin_online(final_stager(teacher), seen, y, self.held_out_, classes)
        self.teacher_ = teacher
        return pair, y

    def trained_modules(self):
        """Networks whose best weights are kept together: online, the teacher's too."""
        if self.strategy == "online":
            return [self.module_, final_stager(self.teacher_).module_]
        return [self.module_]

    # ------------------------------------------------------------ skorch's small methods

    def _network(self):
        if self.module is not None:
            return super()._network()
        module, options = architecture(final_stager(self.teacher_))
        return module, {**options, **self.get_params_for("module")}

    def initialize_module(self):
        """Build the student and, if asked to, give it the teacher's weights."""
        super().initialize_module()
        if self.start_from_teacher:
            self._need_equal_classes("start_from_teacher")
            copy_weights(final_stager(self.teacher_).module_, self.module_)
        if self._uses_features:
            self.layers_ = self._paired_layers()
            if any(OUTPUT in pair for pair in self.layers_):
                self._need_equal_classes("layers='output'")
        return self

    def _need_equal_classes(self, name):
        teacher = final_stager(self.teacher_).classes_
        if not np.array_equal(teacher, self.classes_):
            raise ValueError(
                f"{name} needs the same classes in the same order: the teacher has "
                f"{teacher.tolist()}, the student {self.classes_.tolist()}. Give both the "
                "same classes=."
            )

    def _paired_layers(self):
        """Pairs of the names of a student's and a teacher's layer."""
        teacher = final_stager(self.teacher_).module_
        if self.layers is None:
            own, taught = feature_layers(self.module_), feature_layers(teacher)
            if len(own) != len(taught):
                raise ValueError(
                    f"The student declares the feature layers {own} and the teacher {taught}; "
                    "pair them with layers=[(student's, teacher's), ...]."
                )
            pairs = list(zip(own, taught, strict=True))
        else:
            names = [self.layers] if isinstance(self.layers, str) else self.layers
            pairs = [
                (name, name) if isinstance(name, str) else tuple(name) for name in names
            ]
        if not pairs:
            raise ValueError("layers is empty; name a layer, or give feature_loss=None.")
        check_layers(self.module_, [own for own, _ in pairs])
        check_layers(teacher, [taught for _, taught in pairs])
        return pairs

    def initialize_criterion(self):
        """Build the criterion and the teacher's terms."""
        super().initialize_criterion()
        self.softmax_loss_ = SoftmaxDistillation(self.temperature)
        if self._uses_features:
            loss = self.feature_loss
            loss = FEATURE_LOSSES[loss]() if isinstance(loss, str) else loss
            if not isinstance(loss, FeatureLoss):
                loss = PlainFeatureLoss(loss)
            # One for each layer, since each may learn statistics of its own.
            self.feature_losses_ = nn.ModuleList(copy.deepcopy(loss) for _ in self.layers_)
        return self

    def get_dataset(self, X, y=None):
        """Make the data set of a batch loader; with ``y``, the teacher's part is in it."""
        if y is None or is_dataset(X):
            return super().get_dataset(X, y)
        source = X.source_epochs
        if self.strategy == "online":
            return EpochDataset(
                X.target_epochs, y, {"source": transformed(self.teacher_, source)}
            )
        extras = {}
        if self.alpha:
            extras[_ANSWER] = log_probabilities(self.teacher_, source, self.classes_)
        if self._uses_features:
            features = teacher_features(
                final_stager(self.teacher_),
                transformed(self.teacher_, source),
                [taught for _, taught in self.layers_],
                [loss.summarise for loss in self.feature_losses_],
            )
            self._learn_statistics(features, np.flatnonzero(~self._validates(X)))
            extras.update((f"{_FEATURE}{k}", array) for k, array in enumerate(features))
        return EpochDataset(X.target_epochs, y, extras)

    def _learn_statistics(self, features, rows):
        """Show each loss the teacher's features of (some of) the training rows."""
        some = rows[:: max(1, len(rows) // ROWS_FOR_STATISTICS)]
        for loss, array in zip(self.feature_losses_, features, strict=True):
            values = torch.from_numpy(array[some].astype(np.float32))
            loss.learn_statistics(values.to(self.device))

    def train_step(self, batch, **fit_params):
        """Train on a batch; online, the teacher's own step comes first."""
        return super().train_step(self._with_online_answers(batch, training=True))

    def validation_step(self, batch, **fit_params):
        """Judge a batch of the subjects who are held out."""
        return super().validation_step(self._with_online_answers(batch, training=False))

    def _with_online_answers(self, batch, training):
        """Let the online teacher take its step; its answers join the batch."""
        x, y = batch
        if "source" not in x:
            return batch
        stager = final_stager(self.teacher_)
        layers = [teacher for _, teacher in self.layers_] if self._uses_features else []
        loss, logits, features = online_step(stager, x["source"], y, layers, training)
        self.note_term("teacher_loss", loss, training, int((y >= 0).sum()))
        x = {"target": x["target"]}
        if self.alpha:
            x[_ANSWER] = logits
        for k, feature in enumerate(features):
            x[f"{_FEATURE}{k}"] = self.feature_losses_[k].summarise(feature)
        return x, y

    def infer(self, x, **fit_params):
        """Answer a batch; where a teacher's features are in it, with the student's own."""
        if f"{_FEATURE}0" not in x:
            return super().infer(x)
        names = [student for student, _ in self.layers_]
        with capture_features(self.module_, names) as seen:
            logits = super().infer(x)
        return logits, [seen[name] for name in names]

    def get_loss(self, y_pred, y_true, X=None, training=False):
        """Return cross-entropy and the teacher's terms, weighted."""
        logits, features = y_pred if isinstance(y_pred, tuple) else (y_pred, [])
        cross_entropy = super().get_loss(logits, y_true, X=X, training=training)
        self.note_term("cross_entropy", cross_entropy, training, int((y_true >= 0).sum()))
        loss = (1 - self.alpha) * cross_entropy
        if _ANSWER in X:
            term = self.softmax_loss_(logits, X[_ANSWER].to(self.device))
            self.note_term("softmax_loss", term, training, len(y_true))
            loss = loss + self.alpha * term
        if features:
            term = self._feature_term(features, X)
            self.note_term("feature_loss", term, training, len(y_true))
            loss = loss + self.feature_weight * term
        return loss

    def _feature_term(self, features, X):
        """Average of the feature loss over the layers."""
        total = 0.0
        for k, (loss, own) in enumerate(zip(self.feature_losses_, features, strict=True)):
            taught = X[f"{_FEATURE}{k}"].to(self.device)
            total = total + loss.compare(loss.summarise(own), taught)
        return total / len(features)

    # The online teacher hears of each pass, so its own callbacks (a schedule of its
    # learning rate) work.

    def on_train_begin(self, net, X=None, y=None, **kwargs):
        """Begin, the online teacher too."""
        super().on_train_begin(net, X=X, y=y, **kwargs)
        self._tell_online("on_train_begin", X=X, y=y)

    def on_epoch_begin(self, net, **kwargs):
        """Begin a pass, the online teacher too."""
        super().on_epoch_begin(net, **kwargs)
        self._tell_online("on_epoch_begin", **kwargs)

    def on_epoch_end(self, net, **kwargs):
        """End a pass, the online teacher too."""
        super().on_epoch_end(net, **kwargs)
        self._tell_online("on_epoch_end", **kwargs)

    def on_train_end(self, net, X=None, y=None, **kwargs):
        """End, the online teacher too."""
        super().on_train_end(net, X=X, y=y, **kwargs)
        if self.strategy == "online":
            final_stager(self.teacher_).best_epoch_ = self.best_epoch_
        self._tell_online("on_train_end", X=X, y=y)

    def _tell_online(self, event, **kwargs):
        if self.strategy == "online":
            final_stager(self.teacher_).notify(event, **kwargs)

    # ------------------------------------------------------------ parameters

    def set_params(self, **params):
        """Set parameters; ``teacher__*`` are the teacher's."""
        inner, own = split_params(params, "teacher", self.teacher)
        super().set_params(**own)
        self.teacher.set_params(**inner)
        return self


def copy_weights(teacher, student):
    """Give a student its teacher's weights.

    Parameters
    ----------
    teacher, student : torch.nn.Module
        Of equal architecture and shapes.

    Raises
    ------
    ValueError
        If they are not.
    """
    try:
        student.load_state_dict(teacher.state_dict())
    except RuntimeError as error:
        raise ValueError(
            "The student cannot begin at the teacher's weights: the networks differ "
            f"(as many channels and samples, and the same module, are needed). {error}"
        ) from error
