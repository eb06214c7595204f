"""Batches: epochs of a pair, or windows of consecutive ones, each read by one indexed read."""

import copy
import math
from functools import partial

import numpy as np
import torch
from torch.utils.data import (
    DataLoader,
    Dataset,
    Sampler,
    Subset,
    WeightedRandomSampler,
    default_collate,
)

from skleepkd.distillation.strategy import PerWindow
from skleepkd.epochs import PairedEpochs
from skleepkd.sequences import Fusion, find_runs, make_windows
from skleepkd.stages import UNSCORED
from skleepkd.warn import warn

#: Epochs, or windows, of a night that a network of sequences takes at a time, so that they
#: stay in the processor's cache.
TOGETHER = 192


def check_sequences(stager):
    """Refuse parameters of sequences that mean nothing, or do not go together."""
    for name in ("sequence_length_", "neighbouring_windows"):
        value = getattr(stager, name)
        if not isinstance(value, int | np.integer) or value < 1:
            raise ValueError(
                f"{name.rstrip('_')} is a whole number, 1 at least; given {value!r}."
            )
    Fusion(0, 0, stager.fusion)  # refuses an unknown name
    if stager.sequence_length_ > 1 and stager.train_split is not None:
        raise ValueError("train_split parts rows; windows overlap: give validation=.")
    valid = getattr(stager.train_split, "keywords", {}).get("valid_ds")  # predefined_split
    if valid is not None and not isinstance(valid, EpochDataset):
        raise ValueError(
            f"train_split validates with a {type(valid).__name__} of its own. Join its epochs to X, "
            "with their subjects, and hold these out by name: validation=('s8', 's9')."
        )


def check_balance(stager):
    """Refuse balanced batches beside another order of the rows."""
    if not stager.balanced_batches:
        return
    own = ("sampler", "batch_sampler", "shuffle")
    other = [
        f"iterator_train__{n}" for n in own if n in stager.get_params_for("iterator_train")
    ]
    if stager.neighbouring_windows > 1:
        other.append("neighbouring_windows")
    if stager.class_weight is not None:
        raise ValueError(
            "balanced_batches and class_weight would each make up for rare classes, and so twice: "
            "leave one of the two out."
        )
    if other:
        raise ValueError(
            f"balanced_batches draws rows one by one, and {', '.join(other)} would draw them "
            "otherwise: leave one of the two out."
        )


def check_windows(stager, pair, scored):
    """Refuse sequences where nothing is left to train on, or to validate with."""
    length = stager.sequence_length_
    windows = training_windows(pair, length)
    known = len(np.unique(pair.recording))
    left = known - len(np.unique(pair.recording[windows]))
    if left:
        warn(
            f"{left} of {known} recordings have no {length} consecutive epochs "
            "(sequence_length), and are not learned from."
        )
    begins = windows[scored[windows].any(axis=1), 0]
    validates = stager.validates(pair)[begins]
    held_out = ", ".join(map(str, stager.held_out_))
    if validates.all() or (held_out and not validates.any()):
        who = "to train on" if validates.all() else f"of those held out ({held_out})"
        raise ValueError(
            f"No {length} consecutive epochs (sequence_length), one of them scored, are in the "
            f"subjects {who}. Give whole nights, with y of -1 for unscored epochs."
        )


def training_windows(pair, length):
    """Windows of a pair, (n_windows, length), that a network can be trained on."""
    if pair.recording is None:
        raise ValueError(
            f"sequence_length={length} needs to know which epochs follow one another: give a "
            "PairedEpochs with recording= (and onset=, for the gaps)."
        )
    return make_windows(_runs(pair), length)


def predicted_windows(pair, length):
    """Windows that hold every epoch of a pair, filled up with -1 for short runs."""
    subjects = pair.subject
    if pair.recording is None and subjects is not None and len(np.unique(subjects)) > 1:
        raise ValueError(
            "X holds several subjects and no recordings, so it is not known which epochs "
            "follow one another. Give a PairedEpochs with recording=, or one night at a time."
        )
    return make_windows(_runs(pair), length, short=True)


def _runs(pair):
    """Find the runs of consecutive epochs of a pair, each of one subject."""
    if pair.recording is not None and pair.subject is not None:
        _, first, codes = np.unique(pair.recording, return_index=True, return_inverse=True)
        others = pair.subject != pair.subject[first[codes]]
        if others.any():
            raise ValueError(
                f"The recording {pair.recording[others][0]!s} is of several subjects, so "
                "sequences would run from one to another. Give each a name of its own."
            )
    return find_runs(pair.recording, pair.onset, len(pair))


def make_dataset(stager, pair, codes=None, columns=None, windows=None):
    """Make the data set of a checked pair: of epochs, or of windows of them."""
    if stager.sequence_length_ == 1:
        return EpochDataset(pair.target_epochs, codes, columns)
    share, share_validation = False, False
    if windows is None and codes is None:
        windows = predicted_windows(pair, stager.sequence_length_)
        share = hasattr(stager.module_, "encode_epochs")
    elif windows is None:
        windows = stager.windows_of(pair, codes)
        share_validation = stager._trains_shared()
        share = share_validation and stager.neighbouring_windows > 1
    return WindowDataset(
        pair.target_epochs, windows, codes, columns, share, share_validation
    )


class EpochDataset(Dataset):
    """Epochs of a pair with codes, and extras: further arrays or pairs with an entry a row."""

    def __init__(self, pair, y=None, extras=None):
        self.pair = self.signal = pair
        self.rows = np.arange(len(pair))  # of each entry; of windows (n_windows, length)
        self.y = np.full(len(pair), UNSCORED) if y is None else np.asarray(y)
        self.extras = extras or {}

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, number):
        x, y = self.__getitems__([number])
        return {name: tensor[0] for name, tensor in x.items()}, y[0]

    def __getitems__(self, rows):
        """Read a whole batch, as a torch loader does where this method exists."""
        rows = np.asarray(rows)
        x = {"target": _read(self.signal, rows)}
        x |= {name: _read(values, rows) for name, values in self.extras.items()}
        return x, torch.from_numpy(self.y[rows])

    def split(self, validates):
        """Part the rows to train on from the scored ones of subjects who are held out."""
        train, valid = ~validates, validates & (self.y >= 0)
        return tuple(Subset(self, np.flatnonzero(rows)) for rows in (train, valid))

    def n_bytes(self):
        """Bytes of what is held: pairs in single precision, arrays in their own."""
        parts = [self.pair, *self.extras.values()]
        sizes = [4 if isinstance(p, PairedEpochs) else p.dtype.itemsize for p in parts]
        return sum(n * math.prod(p.shape) for n, p in zip(sizes, parts, strict=True))

    def hold(self, device):
        """Hold the epochs on a device, so that a batch is an indexed read there."""
        self.signal = _held(self.pair, device)
        self.extras = {name: _held(part, device) for name, part in self.extras.items()}


class WindowDataset(EpochDataset):
    """Windows (n_windows, length) of rows of a pair, -1 behind the last of a shorter one."""

    def __init__(
        self, pair, windows, y=None, extras=None, share=False, share_validation=False
    ):
        extras = extras or {}
        per_window = {n: v.values for n, v in extras.items() if isinstance(v, PerWindow)}
        super().__init__(pair, y, {**extras, **per_window})
        self.per_window = set(per_window)
        self.rows = windows
        self.numbers = np.arange(len(windows))  # the windows' entries in what is per window
        # Whether an epoch that several windows of a batch hold is there once.
        self.share, self.share_validation = share, share_validation

    def __getitems__(self, numbers):
        """Read a batch of windows, which must be equally long."""
        numbers = np.asarray(numbers)
        windows = self.rows[numbers]
        windows = windows[:, windows[0] >= 0]  # (batch, length)
        rows, places = np.unique(windows, return_inverse=True)
        places = torch.from_numpy(places.reshape(windows.shape))
        epochs = SharedEpochs(_read(self.signal, rows), places)
        x = {"target": epochs if self.share else epochs.apart()}
        for name, values in self.extras.items():
            if name in self.per_window:
                x[name] = _read(values, self.numbers[numbers])
            elif len(values.shape) == 2:  # of each epoch, by class
                # (batch, length, n_classes) -> (batch, n_classes, length)
                x[name] = _read(values, windows).movedim(1, -1)
            else:
                x[name] = _read(values, rows)[places]
        return x, torch.from_numpy(self.y[windows])

    def split(self, validates):
        """Part the windows to train on from the scored ones of subjects who are held out."""
        validates = validates[self.rows[:, 0]]
        scored = (self.y[self.rows] >= 0).any(axis=1)
        return (
            self._part(~validates, self.share),
            self._part(validates & scored, self.share_validation),
        )

    def _part(self, which, share):
        part = copy.copy(self)
        part.rows, part.numbers = self.rows[which], self.numbers[which]
        part.share = share
        return part


class SharedEpochs:
    """A batch of windows (batch, length) of places in epochs, each of which is there once."""

    def __init__(self, epochs, windows):
        self.epochs, self.windows = epochs, windows

    def to(self, device, non_blocking=False):
        """Move the batch to a device."""
        epochs = self.epochs.to(device, non_blocking=non_blocking)
        return SharedEpochs(epochs, self.windows.to(device, non_blocking=non_blocking))

    def pin_memory(self):
        """Pin the batch, which a loader asks for where there is a GPU."""
        return SharedEpochs(self.epochs.pin_memory(), self.windows.pin_memory())

    def apart(self):
        """Return the windows one by one, shape (batch, length, n_channels, ...)."""
        return self.epochs[self.windows]

    def output_of(self, module):
        """Let a network encode each epoch once, and classify the windows of the features."""
        # (n_epochs, n_features) -> (batch, length, n_features)
        if module.training:
            return module.classify_sequence(module.encode_epochs(self.epochs)[self.windows])
        parts = [module.encode_epochs(part) for part in self.epochs.split(TOGETHER)]
        features = torch.cat(parts)
        parts = self.windows.split(TOGETHER)
        return torch.cat([module.classify_sequence(features[part]) for part in parts])


def _read(values, rows):
    """Read rows of a pair, an array or a held tensor, in single precision."""
    if isinstance(values, torch.Tensor):
        return values[torch.from_numpy(rows).to(values.device)].float()
    read = values.read("target", rows) if isinstance(values, PairedEpochs) else values[rows]
    return torch.from_numpy(np.ascontiguousarray(read, dtype=np.float32))


def _held(values, device):
    """Move all of a pair or of an array to a device; an array keeps its precision."""
    if isinstance(values, PairedEpochs):
        return _read(values, np.arange(len(values))).to(device)
    return torch.as_tensor(np.asarray(values)).to(device)


def make_loader(stager, dataset, *, training):
    """Make a batch loader; training rows are shuffled, and held on a GPU where they fit."""
    prefix = "iterator_train" if training else "iterator_valid"
    on_gpu = torch.device(stager.device).type == "cuda"
    options = {"batch_size": stager.batch_size, "shuffle": training, "pin_memory": on_gpu}
    options |= stager.get_params_for(prefix)
    iterator = getattr(stager, prefix)
    if options["batch_size"] == -1:
        options["batch_size"] = len(dataset)
    base = getattr(dataset, "dataset", dataset)
    if not isinstance(base, EpochDataset):  # the user's own
        return iterator(dataset, **options)
    may_hold = training and base.signal is base.pair and not options.get("num_workers")
    if may_hold and base.n_bytes() <= room_on(stager.device):
        base.hold(stager.device)
    if base.signal is not base.pair:
        options["pin_memory"] = False
    weights, order = None, {}
    if training and stager.balanced_batches and stager.step_.stages:
        codes = base.y[base.rows[getattr(dataset, "indices", slice(None))]]
        weights = balancing_weights(codes.reshape(len(codes), -1))
    if isinstance(dataset, WindowDataset):
        batch_size, shuffle = options.pop("batch_size"), options.pop("shuffle")
        if training and shuffle:
            together = stager.neighbouring_windows if dataset.share else 1
            batches = WindowBatches(dataset, batch_size, together, weights)
        else:
            batches = batches_in_order(dataset, batch_size)
        order = {"batch_sampler": batches}
    else:
        if weights is not None:
            order = {"sampler": WeightedRandomSampler(weights, len(weights))}
            options["shuffle"] = False
        # Batch normalisation cannot learn from a last batch of a single epoch.
        of_torch = isinstance(iterator, type) and issubclass(iterator, DataLoader)
        if training and of_torch and len(dataset) > options["batch_size"]:
            options.setdefault("drop_last", len(dataset) % options["batch_size"] == 1)
    loader = iterator(dataset, **order, **options)
    collate = getattr(loader, "collate_fn", None)
    if collate is not None and "collate_fn" not in options:
        augmented = getattr(getattr(stager, "strategy_", None), "augmented", ())
        own = partial(_collate, collate, augmented)
        loader.collate_fn = as_is if collate is default_collate else own
    return loader


def balancing_weights(codes):
    """Weights (n_rows,) for drawing rows of codes (n_rows, length) with equal classes.

    A row weighs as much as the mean over its scored epochs of the inverse frequency of their
    class, scored rows 1 on average, and a row without a scored epoch 1.
    """
    scored = codes >= 0
    frequency = np.bincount(codes[scored], minlength=1)
    inverse = np.where(scored, 1 / np.maximum(frequency, 1)[codes], 0.0)
    weights, some = np.ones(len(codes)), scored.any(axis=1)
    if some.any():
        of_scored = inverse[some].sum(axis=1) / scored[some].sum(axis=1)
        weights[some] = of_scored / of_scored.mean()
    return weights


def _collate(collate, augmented, batch):
    """Give the epochs of a batch to a loader's own collate, which may change or repeat them."""
    x, y = batch
    # The target, and behind its channels those of signals that are to be changed alike.
    signals = {name: x[name] for name in ("target", *augmented) if name in x}
    if isinstance(signals["target"], SharedEpochs):
        signals["target"] = signals["target"].apart()
    # Of windows, (batch, length, n_channels, n_times) -> (batch * length, n_channels, n_times)
    epochs = torch.cat([s.flatten(0, y.ndim - 1) for s in signals.values()], dim=1)
    epochs, labels = collate(list(zip(epochs, y.flatten(), strict=True)))
    times = len(epochs) // y.numel()
    repeated = torch.cat([y] * times)
    if not torch.is_tensor(labels) or not torch.equal(
        labels.cpu(), repeated.flatten().cpu()
    ):
        raise ValueError(
            "The loader mixes or changes labels, which is not possible here: give augmentations "
            "that change the signals alone."
        )
    x = {name: v if name in signals else torch.cat([v] * times) for name, v in x.items()}
    widths = [signal.shape[y.ndim] for signal in signals.values()]
    parts = epochs.split(widths, dim=1) if len(widths) > 1 else [epochs]
    for name, part in zip(signals, parts, strict=True):
        x[name] = part.unflatten(0, repeated.shape)
    return x, repeated


class WindowBatches(Sampler):
    """Shuffled batches of windows for training, blocks of neighbours together where wanted."""

    def __init__(self, dataset, batch_size, together=1, weights=None):
        self.windows, self.weights = dataset.rows, weights
        self.batch_size = batch_size
        self.together = min(together, batch_size)

    def __len__(self):
        return -(-len(self.windows) // self.batch_size)

    def __iter__(self):
        if self.weights is not None:
            weights = torch.as_tensor(self.weights)
            numbers = torch.multinomial(weights, len(weights), replacement=True).numpy()
        elif self.together == 1:
            numbers = torch.randperm(len(self.windows)).numpy()
        else:
            offset = int(torch.randint(self.together, ()))  # of the first block
            # The next window begins at the second epoch of this one, or else it is elsewhere.
            ends = self.windows[1:, 0] != self.windows[:-1, 1]
            blocks = []
            for run in np.split(np.arange(len(self.windows)), np.flatnonzero(ends) + 1):
                cuts = np.arange(offset or self.together, len(run), self.together)
                blocks.extend(np.split(run, cuts))
            order = torch.randperm(len(blocks)).tolist()
            numbers = np.concatenate([blocks[k] for k in order])
        yield from np.split(numbers, range(self.batch_size, len(numbers), self.batch_size))


def batches_in_order(dataset, batch_size):
    """Batches of windows that are equally long, in order; of shared epochs, whole runs."""
    windows = dataset.rows
    lengths = (windows >= 0).sum(axis=1)
    if dataset.share:
        second = windows[:-1, min(1, windows.shape[1] - 1)]
        ends = (windows[1:, 0] != second) | (np.diff(lengths) != 0)
        return np.split(np.arange(len(windows)), np.flatnonzero(ends) + 1)
    batches = []
    for length in np.unique(lengths):
        numbers = np.flatnonzero(lengths == length)
        batches.extend(np.split(numbers, np.arange(batch_size, len(numbers), batch_size)))
    return batches


def drops_channels(stager):
    """Whether a stager is trained with braindecode's ChannelsDropout."""
    left = [stager.get_params_for("iterator_train").get("transforms")]
    while left:
        one = left.pop()
        if type(one).__name__ == "ChannelsDropout" and one.probability * one.p_drop > 0:
            return True
        # A list of them, or one that applies several.
        left += one if isinstance(one, list | tuple) else getattr(one, "transforms", ())
    return False


def room_on(device):
    """Bytes of a GPU that a training set may take, half of what is free; 0 on the CPU."""
    on_gpu = torch.device(device).type == "cuda"
    return torch.cuda.mem_get_info(device)[0] // 2 if on_gpu else 0


def as_is(batch):
    """Leave a batch as the data set made it."""
    return batch
