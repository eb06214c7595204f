"""How a student is trained: its teacher's part of the batches and of the loss."""

import copy

import numpy as np
import torch
from skorch.utils import is_dataset
from torch import nn

from skleepkd.distillation.adapters import feature_shapes, make_adapters
from skleepkd.distillation.features import OUTPUT, check_layers
from skleepkd.distillation.losses import (
    AttentionTransfer,
    FeatureLoss,
    FeatureMSE,
    PlainFeatureLoss,
    SoftmaxDistillation,
)
from skleepkd.distillation.teachers import (
    final_stager,
    log_probabilities,
    network_spec,
    teacher_features,
    teacher_input,
    transformed,
)
from skleepkd.estimators.batches import WindowDataset
from skleepkd.estimators.online import online_step
from skleepkd.estimators.supervised import SleepStager
from skleepkd.estimators.two_step import learn_features
from skleepkd.networks.build import feature_layers, uncompiled

FEATURE_LOSSES = {"mse": FeatureMSE, "attention": AttentionTransfer}

#: The statistics of standardised features are learned on about so many training rows.
ROWS_FOR_STATISTICS = 4096

#: What a batch carries of the teacher: logarithms of its probabilities, and features.
_ANSWER = "teacher_answer"
_FEATURE = "teacher_feature_"


class TaughtStager(SleepStager):
    """The small methods of skorch that a distilled stager overrides.

    A subclass has the parameters ``strategy``, ``feature_loss``, ``feature_weight``,
    ``layers``, ``adapter``, ``alpha``, ``temperature``, ``feature_max_epochs``, ``memory``
    and ``start_from_teacher``, and sets ``teacher_`` before the network is initialised.
    """

    #: What is learned: all terms of the loss at once or, in two steps, features alone
    #: and then all but the features.
    phase_ = "together"

    #: What nobody scored has the teacher's terms.
    _skips_unscored = False

    @property
    def _uses_features(self):
        return self.feature_loss is not None and self.feature_weight != 0

    @property
    def _layer_losses(self):
        """The loss of each layer; skorch compiles losses too."""
        return uncompiled(self.feature_losses_)

    @property
    def _compares_features(self):
        """Whether the features are part of the loss now."""
        return self._uses_features and self.phase_ != "stages"

    def _trains_shared(self):
        # A teacher's features are those of a window, and so are an online teacher's steps.
        apart = self._compares_features or self.strategy == "online"
        return super()._trains_shared() and not apart

    def train(self, X, y):
        """Train; in two steps, the features come first."""
        two_steps = self.strategy == "two-step"
        first = learn_features(self, X, y) if two_steps and not self.history else []
        self.phase_ = "stages" if two_steps else "together"
        try:
            return super().train(X, y)
        finally:
            self._put_before(first)

    def _put_before(self, first):
        """Put the history of the first step before that of the second."""
        for row in self.history:
            row["epoch"] += len(first)
        self.history[:0] = first
        if self.best_epoch_ is not None:
            self.best_epoch_ += len(first)

    def trained_nets(self):
        """Nets that are trained together: online, the teacher too."""
        if self.strategy == "online":
            return [self, final_stager(self.teacher_)]
        return [self]

    def _network(self):
        if self.module is not None:
            return super()._network()
        module, options = network_spec(final_stager(self.teacher_))
        return module, {**options, **self.get_params_for("module")}

    def initialize_module(self):
        """Build the student and, if asked to, give it the teacher's weights."""
        super().initialize_module()
        if self.start_from_teacher:
            self._need_equal_classes("start_from_teacher")
            teacher = uncompiled(final_stager(self.teacher_).module_)
            copy_weights(teacher, self.module_)
        if self._uses_features:
            teacher = final_stager(self.teacher_).module_
            self.layers_ = self._paired_layers(self.module_, teacher)
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

    def _paired_layers(self, student, teacher):
        """Pairs of the names of a student's and a teacher's layer."""
        if self.layers is None:
            own, taught = feature_layers(student), feature_layers(teacher)
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
        check_layers(student, [own for own, _ in pairs])
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
        # Beside the losses they are trained by the student's optimiser and resumed, and
        # are no part of the network.
        self.adapters_ = nn.ModuleList()
        if self._uses_features:
            nets = (self, final_stager(self.teacher_))
            networks = [uncompiled(net.module_) for net in nets]
            epochs = [net.epoch_shape_ for net in nets]
            self.adapters_ = self._make_adapters(self.layers_, networks, epochs)
        return self

    def _make_adapters(self, layers, networks, epochs):
        """Make an adapter for each pair of layers, of networks that see such epochs."""
        if self.adapter is None:
            return nn.ModuleList(nn.Identity() for _ in layers)
        window = (self.sequence_length_,) if self.sequence_length_ > 1 else ()
        sides = zip(networks, zip(*layers, strict=True), epochs, strict=True)
        # Drawn apart, so that the batches are those of a student without adapters.
        with torch.random.fork_rng(devices=[]):
            shapes = [feature_shapes(net, own, window + epoch) for net, own, epoch in sides]
            return make_adapters(self.adapter, *shapes, self.sequence_length_)

    def trained_modules(self):
        """Networks whose best weights are kept together, and the adapters."""
        return [*super().trained_modules(), self.adapters_]

    def get_dataset(self, X, y=None):
        """Make the data set of a batch loader; with ``y``, the teacher's part is in it."""
        if y is None or is_dataset(X):
            return super().get_dataset(X, y)
        source = X.source_epochs
        if self.strategy == "online":
            seen = transformed(self.teacher_, source)
            return self._dataset(X.target_epochs, y, {"source": seen})
        extras, taught = {}, {}
        if self._compares_features:
            features, answers = self._ask_for_features(source, y)
            taught = {f"{_FEATURE}{k}": array for k, array in enumerate(features)}
            self._learn_statistics(X, y, features)
            if self.alpha and self.phase_ == "features":
                self.answers_ = answers  # for the second step
            elif self.alpha:
                extras[_ANSWER] = answers
        elif self.alpha:
            answers = self.__dict__.pop("answers_", None)  # of the first of two steps
            extras[_ANSWER] = self.ask_for_answers(source) if answers is None else answers
        if self.sequence_length_ > 1:
            return self._dataset(X.target_epochs, y, extras, taught)
        return self._dataset(X.target_epochs, y, extras | taught)

    def _ask_for_features(self, source, y):
        """Ask the teacher once for its features and, where they count, its answers."""
        stager = final_stager(self.teacher_)
        layers = [taught for _, taught in self.layers_]
        summaries = [loss.summarise for loss in self._layer_losses]
        seen = transformed(self.teacher_, source)
        if self.sequence_length_ > 1:
            # Features belong to windows, the answers of all of them to an epoch.
            windows = WindowDataset(seen.target_epochs, self._windows(source, y))
            answers = self.ask_for_answers(source) if self.alpha else None
            return teacher_features(stager, windows, layers, summaries), answers
        if not self.alpha:
            return teacher_features(stager, seen, layers, summaries), None
        nonlinearity = stager._get_predict_nonlinearity()
        *features, answers = teacher_features(
            stager,
            seen,
            [*layers, OUTPUT],
            [*summaries, nonlinearity],
        )
        return features, self._in_own_columns(answers)

    def ask_for_answers(self, source):
        """Ask the teacher for the logarithms of its probabilities, by own classes."""
        answers = self.teacher_.predict_proba(teacher_input(self.teacher_, source))
        return self._in_own_columns(answers)

    def _in_own_columns(self, probabilities):
        return log_probabilities(probabilities, self.teacher_.classes_, self.classes_)

    def _learn_statistics(self, X, y, features):
        """Show each loss the teacher's features of (some of) the training rows."""
        validates = self._validates(X)
        if self.sequence_length_ > 1:
            validates = validates[self._windows(X, y)[:, 0]]
        rows = np.flatnonzero(~validates)
        some = rows[:: max(1, len(rows) // ROWS_FOR_STATISTICS)]
        for loss, array in zip(self._layer_losses, features, strict=True):
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
            x[f"{_FEATURE}{k}"] = self._layer_losses[k].summarise(feature)
        return x, y

    def infer(self, x, **fit_params):
        """Answer a batch; where a teacher's features are in it, with the student's own."""
        if f"{_FEATURE}0" not in x:
            return super().infer(x)
        names = [student for student, _ in self.layers_]
        with self.capture(names) as seen:
            logits = super().infer(x)
        with self.autocasting():
            features = [
                adapter(seen[name])
                for adapter, name in zip(uncompiled(self.adapters_), names, strict=True)
            ]
        return logits, [feature.float() for feature in features]

    def get_loss(self, y_pred, y_true, X=None, training=False):
        """Return cross-entropy and the teacher's terms, weighted."""
        logits, features = y_pred if isinstance(y_pred, tuple) else (y_pred, [])
        if self.phase_ == "features":
            loss = self._feature_term(features, X)
            self.note_term("feature_loss", loss, training, len(y_true))
            return loss
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
        for k, (loss, own) in enumerate(zip(self._layer_losses, features, strict=True)):
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
