"""A student that learns from the wearable what its teacher knows from polysomnography."""

from functools import partial

import numpy as np
import torch
from sklearn.base import clone
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_memory
from torch import nn

from skleepkd.distillation.features import OUTPUT, capture_of
from skleepkd.distillation.fold import begin_teacher
from skleepkd.distillation.layers import check_adapter, match_layers, name_pairs
from skleepkd.distillation.objective import (
    check_objective,
    feature_loss_of,
    losses_in,
    losses_of,
    make_loss,
    set_temperature,
    weights_at,
)
from skleepkd.distillation.output_losses import call_loss
from skleepkd.distillation.strategies import kind_of
from skleepkd.distillation.strategy import (
    TEACHER_FEATURE,
    TEACHER_OUTPUT,
    Strategy,
    begins_at_teacher,
    check_stager,
    needs_features,
    needs_stager,
    note_term,
)
from skleepkd.distillation.teacher import (
    check_classes,
    check_given,
    extracted_features,
    final_stager,
    final_stagers,
    inner_params,
    known_classes,
    most_probable,
    needs_labels,
    set_inner_params,
)
from skleepkd.estimators.batches import training_windows
from skleepkd.estimators.calibration import calibrate
from skleepkd.estimators.labels import unscored_like
from skleepkd.estimators.parameters import refuse_unknown
from skleepkd.estimators.supervised import SleepStager
from skleepkd.networks.build import copy_weights, uncompiled
from skleepkd.stages import is_unscored

#: Epochs from which the shape of a teacher's features is seen, if it is no stager.
FEW = 20


def _goes_on(student):
    """Whether a training can go on, as ``available_if`` asks."""
    if not student.strategy_kind.goes_on:
        raise AttributeError("An online teacher begins anew; partial_fit needs 'offline'.")
    return True


class DistilledSleepStager(SleepStager):
    """Stage sleep from a wearable signal with what a stager of the paired source knows.

    ``fit`` takes pairs of simultaneous epochs; ``predict`` needs the wearable alone. The
    student's loss is::

        (1 - alpha) * cross-entropy
        + alpha * output_loss(student's logits, teacher's)
        + feature_weight * feature_loss(student's features, teacher's features)

    Parameters
    ----------
    teacher : estimator, list of estimators or None
        A stager of the source: a ``SleepStager``, a ``Pipeline`` that ends in one or,
        where only its probabilities are used, any classifier. It is cloned and fitted
        on the source of the rows that ``fit`` is given, so in cross-validation it never
        sees the test subject. ``sklearn.frozen.FrozenEstimator(teacher)`` marks one
        that is fitted already and is used as it is. Whatever has ``extract_features(X)``,
        (n_epochs, ...), teaches one layer of features. A list teaches the mean of its
        probabilities (:class:`~skleepkd.distillation.TeacherEnsemble`). A student, unfrozen,
        is an assistant: it learns from the same pairs, and teaches from their target.
        None where a strategy of your own needs no teacher.
    module : str, type, callable or None, default=None
        The student's network, as in :class:`SleepStager`; None for the teacher's own
        architecture.
    strategy : {"offline", "online", "two-step"} or Strategy, default="offline"
        "offline": the teacher is fitted, then frozen; its output is computed once.
        "online": both are trained together, the teacher on its own cross-entropy alone;
        the student's losses send it no gradient. Passes and batches are the student's,
        optimiser and class weights the teacher's own.
        "two-step": the teacher is fitted, then frozen; the student learns its features
        alone, without any label, and then from the best weights of that step, with a
        fresh optimiser, all of the loss but the feature term.
        One of your own is a :class:`~skleepkd.distillation.Strategy`; a copy of it is
        fitted, ``strategy_``.
    feature_loss : {"auto", "mse", "attention", "relational", "contrastive"}, None, torch.nn.Module or its class, default="auto"
        Compares features: :class:`~skleepkd.distillation.FeatureMSE`,
        :class:`~skleepkd.distillation.AttentionTransfer` (of layers that keep time),
        :class:`~skleepkd.distillation.RelationalDistillation` (of any two widths),
        :class:`~skleepkd.distillation.ContrastiveDistillation`, or a module that is called
        with (student, teacher) or (student, teacher, y). None: no term. "auto": "mse" where
        the strategy is "online" or "two-step", or ``layers`` or an adapter are named, else none.
    feature_weight : float or callable, default=1.0
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
    alpha : float or callable, default=0.5
        Share of the teacher's output, where there is any, from 0 to 1; Joshi et al. have 0.5
        too. It, ``temperature`` and ``feature_weight`` may be functions of the share of
        training done, from 0 to 1, such as :class:`~skleepkd.distillation.Fade`, and then
        change from pass to pass.
    output_loss : {"softmax", "dkd", "dist"}, torch.nn.Module or its class, default="softmax"
        Compares outputs: :class:`~skleepkd.distillation.SoftmaxDistillation`,
        :class:`~skleepkd.distillation.DecoupledDistillation`,
        :class:`~skleepkd.distillation.CorrelationDistillation`, or a module that is called
        with logits, as for ``feature_loss``. ``output_loss__*`` and ``feature_loss__*`` are
        the losses' own parameters.
    temperature : float, callable or None, default=None
        Of all losses that have one, unless it is given as ``output_loss__temperature``, say.
        None: the losses' own (1 of outputs).
    feature_max_epochs : int or None, default=None
        Passes of the first of two steps; None for ``max_epochs``.
    start_from_teacher : bool or "auto", default="auto"
        Begin at the fitted teacher's weights; "auto": where both networks have equal shapes,
        and both stagers equal classes.
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
        The fitted teacher; it predicts ``X.source_epochs``, an assistant X.
    strategy_ : Strategy
        What was done with it.
    feature_shape_ : tuple of int or None
        Shape of an epoch's features, of a teacher that is no stager.
    matched_layers_ : torch.nn.ModuleList
        One for each pair of layers, with its loss and its adapter.
    adapters_ : torch.nn.ModuleList
        One a layer.
    history_ : skorch.history.History
        With ``train_cross_entropy``, ``train_feature_loss``, ``train_softmax_loss`` and,
        online, ``train_teacher_loss`` of each pass. In two steps the passes of the first
        come first; they have no cross-entropy.

    Notes
    -----
    Rows that nobody scored (y is -1 or "?") have no cross-entropy but keep the teacher's
    terms, so paired nights without labels teach as well. **No label at all** is needed
    where the teacher is a ``FrozenEstimator`` and ``alpha=1``; or features alone, where
    ``start_from_teacher`` or ``layers="output"`` gives the student its last layer. The
    classes are then the teacher's, and ``validation`` chooses the pass that agrees best
    with the teacher (``valid_kappa``). A teacher that is not frozen has passes, batches and
    a learning rate of its own (``teacher__max_epochs`` and so on). Fit one to be frozen on
    ``X.source_epochs``. In half precision, a frozen teacher's features are kept in memory
    up to 1 GiB a layer, in a temporary memory map above that.

    References
    ----------
    Anandakumar et al. (2022), A knowledge distillation framework for enhancing ear-EEG
    based sleep staging with scalp-EEG data (offline
    and online feature distillation, equations 1 and 2); Joshi et al. (2021), A deep
    knowledge distillation framework for EEG assisted enhancement of single-lead ECG based
    sleep staging (attention transfer, equation 3; alpha, equation 4); Hinton et al. (2015),
    Distilling the knowledge in a neural network (the softmax term); Romero et al. (2015),
    FitNets: hints for thin deep nets (adapters); Mirzadeh et al. (2020), Improved knowledge
    distillation via teacher assistant.
    """

    __metadata_request__fit = {"X_source": True, "groups": True}  # noqa: RUF012
    prefixes_ = [*SleepStager.prefixes_, "feature_loss"]  # noqa: RUF012 (feature_loss__*)

    def __init__(
        self,
        teacher,
        module=None,
        *,
        strategy="offline",
        feature_loss="auto",
        feature_weight=1.0,
        layers=None,
        adapter=None,
        alpha=0.5,
        output_loss="softmax",
        temperature=None,
        feature_max_epochs=None,
        start_from_teacher="auto",
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
        self.output_loss = output_loss
        self.temperature = temperature
        self.feature_max_epochs = feature_max_epochs
        self.start_from_teacher = start_from_teacher
        self.memory = memory
        super().__init__(module, **kwargs)

    # ------------------------------------------------------------ the contract

    def fit(self, X, y=None, X_source=None, groups=None, **unknown):
        """Fit the teacher (unless it is frozen) and the student.

        Parameters
        ----------
        X : PairedEpochs, or array of shape (n_epochs, n_channels, n_times)
            The pair or, with ``X_source``, the target alone; in microvolts.
        y : array-like of shape (n_epochs,)
            Stages, codes or names; -1 or "?" where unscored (the teacher's terms remain).
            None where nobody scored anything (see Notes).
        X_source : array of shape (n_epochs, n_channels, n_times), optional
            The source of the same epochs, where X is no pair.
        groups : array-like of shape (n_epochs,), optional
            The person of each epoch, where X does not say.

        Returns
        -------
        DistilledSleepStager

        Raises
        ------
        ValueError
            If the pair, y or a parameter is not what is expected.
        """
        refuse_unknown(unknown, ("X_source", "groups"), "DistilledSleepStager.fit")
        return self._fit(X, y, X_source, groups)

    partial_fit = available_if(_goes_on)(SleepStager.partial_fit)

    def get_params(self, deep=True, **kwargs):
        """Return the parameters; of several teachers with their numbers, ``teacher__0__lr``."""
        params = super().get_params(deep=deep, **kwargs)
        return {**params, **inner_params(self, "teacher")} if deep else params

    def set_params(self, **params):
        """Set parameters; ``teacher__*`` and ``strategy__*`` are theirs."""
        for name in ("teacher", "strategy"):
            params = set_inner_params(self, name, params)
        # Losses are made in fit; skorch would make the criterion anew at once.
        own = losses_in(params)
        vars(self).update(own)
        self._params_to_validate |= {name for name in own if "__" in name}
        return super().set_params(**{n: v for n, v in params.items() if n not in own})

    @property
    def adapters_(self):
        """Adapters of the matched layers, one a layer."""
        return nn.ModuleList(layer.adapter for layer in self.matched_layers)

    def _check_parameters(self, go_on):
        own = isinstance(self.strategy, Strategy)
        check_objective(self)
        check_adapter(self.adapter)
        if self.teacher is not None or not own:
            check_given(self.teacher, "teacher")
        if self.uses_features:
            needs_features(self, "a feature_loss")
        if self.start_from_teacher is True:
            needs_stager(self, "start_from_teacher=True")
        if self.module is None:
            needs_stager(self, "module=None")
        self.strategy_ = clone(self.strategy) if own else self.strategy_kind()
        self.strategy_.check(self)
        for stager in final_stagers(self.teacher):
            check_stager(self, stager)
        return None if self.teacher is None else "Distillation"

    @property
    def strategy_kind(self):
        """The strategy, or the class of one that is named."""
        return kind_of(self.strategy)

    @property
    def why_labels(self):
        """Why scored epochs are needed; None where they are not."""
        if needs_labels(self.teacher):
            return "A fitted teacher teaches without: FrozenEstimator(teacher), alpha=1."
        logits = self.adapter is None and final_stager(self.teacher) is not None
        logits &= (OUTPUT, OUTPUT) in name_pairs(self.layers or ())
        has_last = self.uses_features and (self.start_from_teacher is True or logits)
        if self.alpha == 1 or (has_last and not self.strategy_kind.ends_without_features):
            return None
        return "To learn from the teacher's output alone, without a label, give alpha=1."

    @property
    def uses_features(self):
        """Whether features of the teacher are compared."""
        wanted = feature_loss_of(self) is not None and self.feature_weight != 0
        return wanted and self.teacher is not None

    # ------------------------------------------------------------ fitting

    def begin_fit(self, pair, y, go_on=False):
        """Do all of a fit of checked input but the passes; y is None where nothing is scored."""
        if y is None:
            if self.train_split is not None:
                raise ValueError(
                    "Without a label the teacher judges subjects who are held out: give "
                    "validation=, a number of them or their names, in place of train_split."
                )
            y = unscored_like(known_classes(self.teacher), len(pair))
        self.losses_ = losses_of(self, self.losses_ if go_on else None)
        return super().begin_fit(pair, y, go_on)

    def _find_classes(self, y):
        if self.classes is None and is_unscored(y).all():
            found = known_classes(self.teacher)
            if is_unscored(found).any():
                raise ValueError(
                    f"The teacher's classes are {found.tolist()}, of which one means unscored "
                    "here. Fit it to other labels."
                )
            return found
        return super()._find_classes(y)

    def _begin_source(self, pair, y, seed, go_on):
        """Build the teacher's network, and refuse a teacher that the student cannot follow."""
        self.feature_shape_ = None
        if self.teacher is None:
            self.teacher_ = None
            return None
        classes = self._find_classes(y)
        params = self.strategy_.teacher_params(self, classes)
        params = {"checkpoint": self.checkpoint, "memory": self.memory, **params}
        teacher = begin_teacher(self.teacher, pair, y, self.held_out_, seed, **params)
        self.teacher_ = teacher.estimator
        if self.uses_features and final_stager(self.teacher_) is None:
            self.teacher_ = teacher.fit(self.memory)
            some = pair.source_epochs[:FEW]
            self.feature_shape_ = extracted_features(self.teacher_, some).shape[1:]
        if self.alpha:
            check_classes(self.teacher, classes)
        return teacher

    def _select_rows(self, pair, y, scored):
        return pair, y  # what nobody scored has the teacher's terms

    def windows_of(self, pair, codes):
        """Return the windows to train on, (n_windows, sequence_length)."""
        return training_windows(pair, self.sequence_length_)

    def end_fit(self, training):
        """Fit the teacher and pass over the training rows, step by step."""
        strategy, pair, codes = self.strategy_, training.pair, training.codes
        fits_first = strategy.fits_teacher_first and not self.feature_shape_
        if self.teacher is not None and fits_first:
            self.teacher_ = training.source.fit(self.memory)
            if begins_at_teacher(self) and not self.history:  # else it goes on
                copy_weights(self._teacher_module(), uncompiled(self.module_))
        before = []
        with training.random:
            columns = strategy.prepare(self, pair, codes)
            validates = self.validates(pair)
            if validates.any() and (codes[validates] < 0).all():  # the teacher judges
                codes[validates] = most_probable(self, pair[validates])
            for number, step in enumerate(strategy.steps(self, pair, codes)):
                if number:
                    before += self.history
                    self.history.clear()
                    self.initialize_optimizer()
                    torch.manual_seed(torch.initial_seed() + 1)
                self.passes_before_ = len(before)
                n_features = 0 if step.features else len(self.matched_layers)
                left_out = [TEACHER_FEATURE.format(number) for number in range(n_features)]
                own = {name: columns[name] for name in columns if name not in left_out}
                self._run_step(step, pair, codes, own)
            calibrate(self, pair, codes)
        self.history[:0] = before
        if self.best_epoch_ is not None:
            self.best_epoch_ += len(before)
        return self

    def _run_step(self, step, pair, codes, columns=None):
        """Train for a step, or take what ``memory`` keeps of an equal one."""
        run = partial(super()._run_step, step, pair, codes, columns)
        epochs = self.max_epochs if step.max_epochs is None else step.max_epochs
        self.span_ = len(self.history), epochs  # passes before, and those of this step
        if step.key is None:
            run()
            return
        learn = check_memory(self.memory).cache(_learn, ignore=["student", "run"])
        weights, self.history[:] = learn(step.key, epochs, student=self, run=run)
        for module, own in zip(self.trained_modules(), weights, strict=True):
            uncompiled(module).load_state_dict(own)

    def _trains_shared(self):
        # A teacher's features are those of a window; what a strategy does with a batch is its own.
        whole = type(self.strategy_).before_step is not Strategy.before_step
        compares = self.uses_features and self.step_.features
        return super()._trains_shared() and not compares and not whole

    # ------------------------------------------------------------ the networks

    @property
    def matched_layers(self):
        """Matched layers, uncompiled; empty where no features are compared."""
        return uncompiled(self.matched_layers_)

    def _teacher_module(self):
        return uncompiled(final_stager(self.teacher_).module_)

    def initialize_module(self):
        """Build the student, which may begin at the teacher's weights."""
        super().initialize_module()
        if begins_at_teacher(self):
            self._need_equal_classes("start_from_teacher")
            copy_weights(self._teacher_module(), self.module_)
        return self

    def initialize_criterion(self):
        """Build the criterion and the teacher's terms."""
        super().initialize_criterion()
        self.output_loss_ = make_loss(self, "output_loss")
        # Beside the losses, adapters are trained by the student's optimiser and resumed, and
        # are no part of the network.
        self.matched_layers_ = nn.ModuleList()
        if self.uses_features:
            if any(OUTPUT in names for names in name_pairs(self.layers or ())):
                self._need_equal_classes("layers='output'")
            window = (self.sequence_length_,) if self.sequence_length_ > 1 else ()
            stager, teacher = final_stager(self.teacher_), None
            shapes = [window + self.epoch_shape_, window + (self.feature_shape_ or ())]
            if stager is not None:
                shapes[1], teacher = window + stager.epoch_shape_, self._teacher_module()
            options = (self.layers, make_loss(self, "feature_loss"), self.adapter)
            networks = (uncompiled(self.module_), teacher)
            length = self.sequence_length_
            self.matched_layers_ = match_layers(*options, *networks, shapes, length)
        return self

    def _need_equal_classes(self, name):
        teacher = self.teacher_.classes_
        if not np.array_equal(teacher, self.classes_):
            raise ValueError(
                f"{name} needs the same classes= in the same order: the teacher has "
                f"{teacher.tolist()}, the student {self.classes_.tolist()}."
            )

    def trained_nets(self):
        """Nets that are trained together."""
        return [self, *self.strategy_.trained_nets(self)]

    def trained_modules(self):
        """Modules whose best weights are kept together: networks and adapters."""
        kept = self.strategy_.kept_modules(self)
        return [*super().trained_modules(), self.adapters_, *kept]

    def resumed_objects(self):
        """Objects beside the networks on which the next pass depends."""
        return [*super().resumed_objects(), self.strategy_]

    # ------------------------------------------------------------ passes, batches, the loss

    def on_epoch_begin(self, net, **kwargs):
        """Forget the terms of the loss of the last pass; set the weights of this one."""
        super().on_epoch_begin(net, **kwargs)
        self.history[-1]["epoch"] += self.passes_before_  # counted on, for who draws it
        self.terms_ = {}
        before, passes = self.span_
        self.share_ = (len(self.history) - 1 - before) / passes
        *self.weights_, temperature = weights_at(self, self.share_)
        set_temperature(self, temperature)

    def on_epoch_end(self, net, **kwargs):
        """Record the means of the loss's terms, as ``train_<term>`` and ``valid_<term>``."""
        self.strategy_.after_pass(self)
        for name, (total, count) in self.terms_.items():
            if count:
                self.history.record(name, float(total) / count)

    def train_step(self, batch, **fit_params):
        """Train on a batch, between the strategy's two hooks."""
        batch = self.strategy_.before_step(self, batch, training=True)
        step = super().train_step(batch, **fit_params)
        self.strategy_.after_step(self)
        return step

    def validation_step(self, batch, **fit_params):
        """Judge a batch of the subjects who are held out."""
        batch = self.strategy_.before_step(self, batch, training=False)
        return super().validation_step(batch, **fit_params)

    def infer(self, x, **fit_params):
        """Compute the logits of a batch and, where a teacher's features are in it, features."""
        if TEACHER_FEATURE.format(0) not in x:
            return super().infer(x)
        with capture_of(self, [m.student_layer for m in self.matched_layers]) as seen:
            logits = super().infer(x)
        with self.autocasting():
            features = [m.adapter(seen[m.student_layer]) for m in self.matched_layers]
        return logits, [feature.float() for feature in features]

    def get_loss(self, y_pred, y_true, X=None, training=False):
        """Return cross-entropy and the teacher's terms, weighted."""
        logits, features = y_pred if isinstance(y_pred, tuple) else (y_pred, [])
        stages, (alpha, feature_weight) = self.step_.stages, self.weights_
        share = alpha if TEACHER_OUTPUT in X else 0.0
        codes, terms = y_true.to(self.device), {}
        if stages:
            term = super().get_loss(logits, y_true, X=X, training=training)
            terms["cross_entropy"] = (1 - share), term
            if TEACHER_OUTPUT in X:
                teacher = X[TEACHER_OUTPUT].to(self.device)
                name = self.output_loss if isinstance(self.output_loss, str) else "output"
                term = call_loss(self.output_loss_, logits, teacher, codes)
                terms[f"{name}_loss"] = alpha, term
        if features:
            summaries = [
                X[TEACHER_FEATURE.format(n)].to(self.device) for n in range(len(features))
            ]
            matched = zip(self.matched_layers, features, summaries, strict=True)
            term = sum(layer(own, other, codes) for layer, own, other in matched)
            weight = feature_weight if stages else 1.0
            terms["feature_loss"] = weight, term / len(features)
        terms |= self.strategy_.further_terms(self, logits, X, y_true)
        if alpha == 1 and stages and len(terms) == 1:
            raise ValueError(
                f"Nothing would be learned: alpha is 1, and {type(self.strategy_).__name__} gives "
                "no TEACHER_OUTPUT. Return it from prepare or before_step, or lower alpha."
            )
        n_scored = int((y_true >= 0).sum())
        for name, (_, term) in terms.items():
            of = n_scored if name == "cross_entropy" else len(y_true)
            note_term(self, name, term, training, of)
        return sum(weight * term for weight, term in terms.values())


def _learn(key, epochs, student, run):
    """Run a step; ``key`` stands for everything but its passes in the cache."""
    run()
    weights = [
        {name: v.cpu().clone() for name, v in uncompiled(module).state_dict().items()}
        for module in student.trained_modules()
    ]
    return weights, list(student.history)
