"""skorch's classifier, with the small methods that every stager overrides."""

import inspect
import traceback
from contextlib import contextmanager

import numpy as np
import torch
from skorch import NeuralNetClassifier
from skorch.callbacks import EarlyStopping, EpochTimer, PassthroughScoring, PrintLog
from torch import nn
from torch.utils.data import DataLoader

from skleepkd.distillation.features import capture_features
from skleepkd.distillation.teachers import final_stager
from skleepkd.estimators.batches import (
    EpochDataset,
    SharedEpochs,
    WindowBatches,
    WindowDataset,
    as_is,
    batches_in_order,
)
from skleepkd.estimators.callbacks import BestWeights, LossTerms, TrainingStopped
from skleepkd.estimators.checkpoint import Checkpoint
from skleepkd.memory import key_of
from skleepkd.networks.build import uncompiled

#: Epochs, or windows, of a night that a network of sequences answers at a time.
TOGETHER = 192


class Net(NeuralNetClassifier):
    """Batches of epochs, terms of the loss, a device that may be "auto", pickles that travel.

    A subclass sets ``class_weight_`` before the network is initialised.
    """

    #: What is learned now, where a training has several steps.
    phase_ = None

    def check_data(self, X, y=None):
        """Do nothing: ``fit`` has checked."""

    def check_is_fitted(self, attributes=None, msg=None, **kwargs):
        """Raise NotFittedError before ``fit``; skorch would advise "initialize" too."""
        msg = msg or "This %(name)s is not fitted yet: call fit first."
        super().check_is_fitted(attributes, msg, **kwargs)

    def train(self, X, y):
        """Loop over the passes.

        As skorch's ``partial_fit``, but an interrupt ends the program: skorch goes on
        with the half-trained network, and cross-validation would score it.
        """
        self.notify("on_train_begin", X=X, y=y)
        self.fit_loop(X, y)
        self.notify("on_train_end", X=X, y=y)
        return self

    def fit_loop(self, X, y=None, epochs=None, **fit_params):
        """Pass over the training rows; with a checkpoint, from its last pass on."""
        epochs = self.max_epochs if epochs is None else epochs
        if self.checkpoint is None:
            return self._passes(X, y, epochs, **fit_params)
        self.checkpoint_ = Checkpoint(
            self.checkpoint, self._training_key(X, y, epochs), self
        )
        try:
            left = self.checkpoint_.passes_left(epochs)
            if left:
                self._passes(X, y, left, **fit_params)
            if not self.checkpoint_.resume():
                self.checkpoint_.keep(finished=True)
        finally:
            del self.checkpoint_
        return self

    def _passes(self, X, y, epochs, **fit_params):
        """Run skorch's loop until its end, or until a callback stops it within a pass."""
        try:
            return super().fit_loop(X, y, epochs, **fit_params)
        except TrainingStopped as stopped:
            # Callbacks that hear of the end expect the pass to have been validated.
            valid = stopped.datasets["dataset_valid"]
            iterator = None if valid is None else self.get_iterator(valid, training=False)
            self.run_single_epoch(iterator, False, "valid", self.validation_step)
            self.notify("on_epoch_end", **stopped.datasets)
            return self
        except KeyboardInterrupt as interrupt:
            if _is_early_stopping(interrupt):
                return self
            raise

    def run_single_epoch(self, iterator, training, prefix, step_fn, **fit_params):
        """Loop over batches as skorch does, and wait for the losses when the pass ends."""
        if iterator is None:
            return
        super()._set_training(training)
        losses = []
        try:
            for batch in iterator:
                self.notify("on_batch_begin", batch=batch, training=training)
                step = step_fn(batch, **fit_params)
                losses.append(step["loss"].detach())
                self.history.record_batch(f"{prefix}_loss", losses[-1])
                self.history.record_batch(f"{prefix}_batch_size", len(batch[1]))
                self.notify("on_batch_end", batch=batch, training=training, **step)
        finally:
            batches = self.history[-1]["batches"]
            own = [entry for entry in batches if f"{prefix}_loss" in entry]
            values = torch.stack(losses).tolist() if losses else []
            for entry, value in zip(own, values, strict=True):
                entry[f"{prefix}_loss"] = value
        self.history.record(f"{prefix}_batch_count", len(losses))
        if training and not np.isfinite(values).all():
            raise FloatingPointError(
                f"The training diverged: the loss is NaN or infinite in pass "
                f"{len(self.history)}. Lower the learning rate (lr is {self.lr!r}), or look "
                "for extreme values in the signal."
            )

    def _set_training(self, training=True):
        """Set the mode of networks that are in the other one; skorch sets it each batch."""
        parts = [getattr(self, f"{name}_") for name in self._modules + self._criteria]
        if any(getattr(part, "training", training) != training for part in parts):
            super()._set_training(training)

    def _training_key(self, X, y, epochs):
        """Tell what a training depends on: weights, data, parameters, random numbers."""
        taught = final_stager(getattr(self, "teacher_", None))
        seed = torch.initial_seed()
        return key_of(self, taught, X, y, self.held_out_, epochs, self.phase_, seed)

    def on_epoch_begin(self, net, **kwargs):
        """Keep the last pass, or put it back."""
        if hasattr(self, "checkpoint_"):
            self.checkpoint_.between_passes()
        super().on_epoch_begin(net, **kwargs)

    def trained_nets(self):
        """Nets that are trained together."""
        return [self]

    def initialize_criterion(self):
        """Build the criterion with the weights of the classes."""
        options = self.get_params_for("criterion")
        if self.class_weight_ is not None:
            options["weight"] = torch.from_numpy(self.class_weight_)
        self.criterion_ = self.initialized_instance(self.criterion, options)
        return self

    @contextmanager
    def capture(self, layers):
        """Catch what layers answer in the block.

        A compiled network does not tell, so it answers uncompiled meanwhile.

        Parameters
        ----------
        layers : sequence of str
            Dotted names; "output" is the network's own answer.

        Yields
        ------
        dict
            The layer's name and its tensor.
        """
        module = self.module_
        object.__setattr__(self, "module_", uncompiled(module))
        try:
            with capture_features(self.module_, layers) as seen:
                yield seen
        finally:
            object.__setattr__(self, "module_", module)

    def trained_modules(self):
        """Networks whose best weights are kept together."""
        return [net.module_ for net in self.trained_nets()]

    @property
    def _default_callbacks(self):
        return [
            ("epoch_timer", EpochTimer()),
            ("train_loss", PassthroughScoring(name="train_loss", on_train=True)),
            ("valid_loss", PassthroughScoring(name="valid_loss")),
            ("loss_terms", LossTerms()),
            ("best_weights", BestWeights()),
            ("print_log", PrintLog()),
        ]

    def note_term(self, name, value, training, weight):
        """Add a batch's term of the loss to the history's mean of this pass.

        ``weight`` is the number of epochs that the term averages.
        """
        name = f"{'train' if training else 'valid'}_{name}"
        total, count = self.terms_.get(name, (0.0, 0))
        self.terms_[name] = (total + weight * value.detach(), count + weight)

    def infer(self, x, **fit_params):
        """Answer a batch ``{"target": ...}``."""
        target = x["target"].to(self.device, non_blocking=True)
        with self.autocasting():
            logits = self._ask(target)
        return logits.float()

    def autocasting(self):
        """Compute in bfloat16 in the block, if ``autocast`` says so."""
        kind = torch.device(self.device).type
        return torch.autocast(kind, dtype=torch.bfloat16, enabled=self.autocast)

    def _ask(self, target):
        if isinstance(target, SharedEpochs):
            # (n_epochs, n_features) -> (batch, sequence, n_features)
            module = self.module_
            if module.training:
                return module.classify_sequence(
                    module.encode_epochs(target.epochs)[target.windows]
                )
            # Whole nights, in parts that stay in the processor's cache.
            parts = [module.encode_epochs(part) for part in target.epochs.split(TOGETHER)]
            features = torch.cat(parts)
            parts = target.windows.split(TOGETHER)
            return torch.cat([module.classify_sequence(features[part]) for part in parts])
        logits = self.module_(target)
        if self.sequence_length_ > 1:
            return self._as_sequence(logits, target)
        # With a loss of the user's own, what a network answers is theirs too.
        if isinstance(uncompiled(self.criterion_), nn.CrossEntropyLoss):
            self._check_logits(logits, (len(target), len(self.classes_)))
        return logits

    def _check_logits(self, logits, expected):
        """Check that a network answers each epoch with a logit for each class."""
        answers = tuple(logits.shape) if torch.is_tensor(logits) else type(logits).__name__
        if answers != expected:
            raise ValueError(
                f"{type(uncompiled(self.module_)).__name__} answers {answers} for "
                f"{expected[0]} epochs; {expected}, (batch, n_classes), is expected: a tensor "
                "with a logit for each epoch and each of n_outputs classes."
            )

    def _as_sequence(self, logits, windows):
        """Check that a network answers each epoch of its windows."""
        batch, length = windows.shape[:2]
        if length == 1 and logits.ndim == 2:
            logits = logits[..., None]  # (batch, n_classes) -> (batch, n_classes, 1)
        expected = (batch, len(self.classes_), length)
        if tuple(logits.shape) != expected:
            raise ValueError(
                f"With sequence_length={self.sequence_length_} a network is given windows of "
                f"shape {tuple(windows.shape)} (batch, sequence, channels, times) and answers "
                "(batch, classes, sequence); "
                f"{type(self.module_).__name__} answered {tuple(logits.shape)} instead of "
                f"{expected}."
            )
        return logits

    def get_iterator(self, dataset, training=False):
        """Load batches by one indexed read each; training rows are shuffled."""
        prefix = "iterator_train" if training else "iterator_valid"
        options = {
            "batch_size": self.batch_size,
            "shuffle": training,
            "pin_memory": torch.device(self.device).type == "cuda",
            **self.get_params_for(prefix),
        }
        if options["batch_size"] == -1:
            options["batch_size"] = len(dataset)
        iterator = getattr(self, prefix)
        base = getattr(dataset, "dataset", dataset)
        if isinstance(base, EpochDataset | WindowDataset) and self._holds(
            base, training, options
        ):
            options["pin_memory"] = False
        if isinstance(dataset, WindowDataset):
            return self._window_iterator(iterator, dataset, training, options)
        if isinstance(base, EpochDataset):
            options.setdefault("collate_fn", as_is)
            # Batch normalisation cannot learn from a last batch of a single epoch.
            if training and iterator is DataLoader and len(dataset) > options["batch_size"]:
                options.setdefault("drop_last", len(dataset) % options["batch_size"] == 1)
        return iterator(dataset, **options)

    def _holds(self, dataset, training, options):
        """Hold a training set on the GPU where it fits, and tell whether it is there."""
        held = dataset.signal is not dataset.pair
        if training and not held and not options.get("num_workers"):
            held = dataset.n_bytes() <= room_on(self.device)
            if held:
                dataset.hold(self.device)
        return held

    def _window_iterator(self, iterator, dataset, training, options):
        batch_size, shuffle = options.pop("batch_size"), options.pop("shuffle")
        options.setdefault("collate_fn", as_is)
        batches = (
            WindowBatches(
                dataset, batch_size, self.neighbouring_windows if dataset.share else 1
            )
            if training and shuffle
            else batches_in_order(dataset, batch_size)
        )
        return iterator(dataset, batch_sampler=batches, **options)

    # ------------------------------------------------------------ parameters, device

    @property
    def device(self):
        """The device in use; ``get_params`` gives it as it was set ("auto")."""
        device = self.__dict__["device"]
        if isinstance(device, str) and device == "auto":
            return "cuda" if torch.cuda.is_available() else "cpu"
        return device

    @device.setter
    def device(self, device):
        self.__dict__["device"] = device

    def get_params(self, deep=True, **kwargs):
        """Return the parameters as they were set."""
        params = super().get_params(deep=deep, **kwargs)
        params["device"] = self.__dict__["device"]
        # skorch lists a book of its own among them, "_params_to_validate".
        return {name: value for name, value in params.items() if name[0] != "_"}

    def __setattr__(self, name, value):
        if not name.endswith("_") and "__" not in name:
            # A parameter that is a torch module (a loss) is stored as it is; skorch
            # keeps books of fitted components alone.
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def __repr__(self):
        # skorch lists the whole network; scikit-learn would list all of skorch's defaults.
        own = inspect.signature(type(self).__init__).parameters
        given = [
            f"{name}={value!r}"
            for name, value in self.get_params(deep=False).items()
            if name in self._params_to_validate
            or (name in own and repr(value) != repr(own[name].default))
        ]
        return f"{type(self).__name__}({', '.join(given)})"

    def __getstate__(self):
        if torch.device(self.device).type == "cuda":
            return super().__getstate__()
        # skorch pickles networks apart, by the plain pickle, which cannot send a class
        # of a notebook to a worker; off the GPU there is no need to.
        return self.__dict__.copy()

    def __setstate__(self, state):
        wanted = state["device"]
        self.__dict__["device"] = wanted
        if "__cuda_dependent_attributes__" in state:
            super().__setstate__({**state, "device": self.device})
            # A device that is not here has become the CPU, with a warning.
            wanted = "auto" if wanted == "auto" else self.__dict__["device"]
        else:
            self.__dict__.update(state)
        self.__dict__["device"] = wanted
        for name in self._modules + self._criteria:
            getattr(self, f"{name}_").to(self.device)


def room_on(device):
    """Bytes of a GPU that a training set may take, half of what is free; 0 on the CPU."""
    if torch.device(device).type != "cuda":
        return 0
    return torch.cuda.mem_get_info(device)[0] // 2


def _is_early_stopping(interrupt):
    """Tell skorch's ``EarlyStopping``, which ends the training so, from a user's Ctrl-C."""
    *_, (frame, _) = traceback.walk_tb(interrupt.__traceback__)
    return isinstance(frame.f_locals.get("self"), EarlyStopping)


@contextmanager
def seeded(seed, device):
    """Seed torch inside the block and leave its state as it was."""
    cuda = torch.device(device).type == "cuda"
    with torch.random.fork_rng(devices=None if cuda else []):
        torch.manual_seed(seed)
        yield
