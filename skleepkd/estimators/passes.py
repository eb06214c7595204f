"""Passes over the training rows: stopped by callbacks, resumed from what is kept on disk."""

import contextlib
import hashlib
import io
from pathlib import Path

import numpy as np
import torch
from skorch.callbacks import EarlyStopping

from skleepkd.distillation.teacher import final_stager
from skleepkd.estimators.callbacks import TrainingStopped
from skleepkd.estimators.progress import Progress
from skleepkd.memory import key_of, replace_file
from skleepkd.warn import warn


class RandomStream:
    """Random numbers of torch that go on where they stopped, apart from the program's own."""

    def __init__(self, seed, device):
        self.seed, self.device, self._state = seed, device, None

    def __enter__(self):
        self._outer = random_state(self.device)
        if self._state is None:
            # Who seeds all devices keeps a traceback for each kind that has not begun.
            on_cpu = torch.device(self.device).type == "cpu"
            (torch.default_generator if on_cpu else torch).manual_seed(self.seed)
        else:
            set_random_state(self._state)

    def __exit__(self, *_):
        self._state = random_state(self.device)
        set_random_state(self._outer)


def random_state(device):
    """State of torch's random numbers: of the CPU and, where it is used, of all GPUs."""
    cuda = torch.device(device).type == "cuda"
    return [torch.get_rng_state(), torch.cuda.get_rng_state_all() if cuda else None]


def set_random_state(state):
    """Put back what :func:`random_state` returned."""
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state_all(state[1])


def run_passes(net, loop, dataset, epochs):
    """Run skorch's ``loop(epochs=...)``; with a checkpoint, from its last pass on."""
    if net.checkpoint is None:
        _run_until_stopped(net, loop, epochs)
        return
    teacher = final_stager(getattr(net, "teacher_", None))
    about = (dataset.pair, dataset.y, dataset.extras, net.held_out_, epochs, net.step_)
    key = key_of(net, teacher, *about, torch.initial_seed())
    checkpoint = net.checkpoint_ = Checkpoint(net, key, epochs)
    try:
        left = checkpoint.kept["left"] if checkpoint.kept else epochs
        if left:
            _run_until_stopped(net, loop, left)
        if not checkpoint.resume():
            checkpoint.keep(finished=True)
    finally:
        del net.checkpoint_


def _run_until_stopped(net, loop, epochs):
    try:
        with Progress(net, epochs) as net.progress_:
            loop(epochs=epochs)
    except TrainingStopped as stopped:
        # Callbacks at the end of a pass expect it to have been validated.
        (datasets,) = stopped.args
        valid = datasets["dataset_valid"]
        iterator = None if valid is None else net.get_iterator(valid, training=False)
        net.run_single_epoch(iterator, False, "valid", net.validation_step)
        net.notify("on_epoch_end", **datasets)
    except KeyboardInterrupt:
        # So does skorch's EarlyStopping end a training; a user's Ctrl-C ends the program.
        callbacks = [c for each in net.trained_nets() for _, c in each.callbacks_]
        early = [c for c in callbacks if isinstance(c, EarlyStopping)]
        if not any(c.misses_ >= c.patience for c in early):
            raise
    finally:
        del net.progress_


def run_batches(net, iterator, training, prefix, step_fn, **fit_params):
    """Loop over batches as skorch does, and wait for the losses when the pass ends."""
    losses = []
    try:
        for batch in iterator:
            net.notify("on_batch_begin", batch=batch, training=training)
            step = step_fn(batch, **fit_params)
            losses.append(step["loss"].detach())
            net.history.record_batch(f"{prefix}_loss", losses[-1])
            net.history.record_batch(f"{prefix}_batch_size", len(batch[1]))
            net.notify("on_batch_end", batch=batch, training=training, **step)
            if training and net.progress_ is not None:
                net.progress_.step(iterator, net.history)
    finally:
        batches = net.history[-1]["batches"]
        own = [entry for entry in batches if f"{prefix}_loss" in entry]
        values = torch.stack(losses).tolist() if losses else []
        for entry, value in zip(own, values, strict=True):
            entry[f"{prefix}_loss"] = value
    net.history.record(f"{prefix}_batch_count", len(losses))
    if training and not np.isfinite(values).all():
        raise FloatingPointError(
            f"The training diverged: the loss is NaN or infinite in pass {len(net.history)}. "
            f"Lower the learning rate (lr is {net.lr!r}), or look for extreme values in X."
        )


class Checkpoint:
    """The file of one training, named after all that it depends on."""

    def __init__(self, net, key, epochs):
        self.net, self.epochs, self.kept = net, epochs, None
        self.passes_before = len(net.history)
        self.path = Path(net.checkpoint) / f"{key}.pt"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            data = self.path.read_bytes()
            if hashlib.sha256(data[32:]).digest() == data[:32]:
                file = io.BytesIO(data[32:])  # read without running code
                self.kept = torch.load(file, map_location="cpu", weights_only=True)
            else:
                warn(f"{self.path} is damaged, training begins anew")

    def between_passes(self):
        """Put back what was kept, the first time; else keep what there is now."""
        if not self.resume() and len(self.net.history) > self.passes_before:
            self.keep()

    def resume(self):
        """Put back what was kept, once, and tell whether there was anything."""
        if self.kept is None:
            return False
        for net, state in zip(self.net.trained_nets(), self.kept["nets"], strict=True):
            _put_back(net, state)
        set_random_state(self.kept["random_state"])
        self.kept = None
        return True

    def keep(self, finished=False):
        """Write the state of now; the file is that of before until the new one is whole."""
        passes = len(self.net.history) - self.passes_before
        state = {
            "left": 0 if finished else self.epochs - passes,
            "nets": [_state_of(net) for net in self.net.trained_nets()],
            "random_state": random_state(self.net.device),
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        data = buffer.getbuffer()
        replace_file(self.path, hashlib.sha256(data).digest(), data)


def _state_of(net):
    """Collect what a net's next pass depends on, as tensors, numbers, text and lists of them."""
    parts = net._modules + net._criteria + net._optimizers
    state = {
        "parts": {name: getattr(net, f"{name}_").state_dict() for name in parts},
        "trainable": [parameter.requires_grad for parameter in _parameters(net)],
        "objects": [_state_of_object(thing) for thing in net.resumed_objects()],
        "history": list(net.history),
        "best_epoch": net.best_epoch_,
    }
    return _plain(state)


def _put_back(net, state):
    for name, own in state["parts"].items():
        # Statistics of a teacher's features have no place before they are learned, which
        # a finished training has no need of.
        strict = {"strict": False} if name in net._criteria else {}
        getattr(net, f"{name}_").load_state_dict(own, **strict)
    for parameter, trainable in zip(_parameters(net), state["trainable"], strict=True):
        parameter.requires_grad_(trainable)
    for thing, own in zip(net.resumed_objects(), state["objects"], strict=True):
        _put_back_object(thing, own)
    net.history[:] = state["history"]
    net.best_epoch_ = state["best_epoch"]


def _parameters(net):
    return [p for name in net._modules for p in getattr(net, f"{name}_").parameters()]


def _state_of_object(thing):
    """Collect what a callback or strategy has learned: what has a state, or is plain."""
    if hasattr(thing, "state_dict"):
        return thing.state_dict()
    state = {}
    for name, value in vars(thing).items():
        if name.endswith("_") and not isinstance(value, type):
            # What is neither (data sets) is made anew when a training begins.
            with contextlib.suppress(TypeError):
                has_state = hasattr(value, "state_dict")
                state[name] = value.state_dict() if has_state else _plain(value)
    return state


def _put_back_object(thing, state):
    if hasattr(thing, "load_state_dict"):
        thing.load_state_dict(state)
        return
    for name, value in state.items():
        inner = getattr(thing, name, None)
        if hasattr(inner, "load_state_dict"):
            inner.load_state_dict(value)
        else:
            setattr(thing, name, value)


def _plain(value):
    """Return a value as what torch reads back without running code."""
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str | torch.Tensor):
        return value
    if type(value) in (list, tuple):
        return type(value)(map(_plain, value))
    if isinstance(value, dict):
        plain = {key: _plain(item) for key, item in value.items()}
        # A state dict of torch knows the versions of its layers.
        return plain if type(value) is dict else value
    raise TypeError(f"{type(value).__name__} is neither a tensor nor plain.")
