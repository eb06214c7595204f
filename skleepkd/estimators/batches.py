"""Batches: rows of a pair as tensors, each read by one indexed read."""

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, Subset

from skleepkd.distillation.strategy import PerWindow
from skleepkd.stages import UNSCORED

#: Epochs, or windows, of a night that a network of sequences takes at a time, so that they
#: stay in the processor's cache.
TOGETHER = 192


class EpochDataset(Dataset):
    """Epochs of a pair and what else belongs to their rows; a device may hold them.

    Parameters
    ----------
    pair : PairedEpochs
        The epochs: its target.
    y : ndarray of int, shape (n_epochs,), optional
        Codes of the stages, -1 where unscored.
    extras : dict of array of shape (n_epochs, ...), optional
        What the batch carries besides ``"target"``: an online teacher's source as another
        pair, a frozen teacher's output as arrays.
    """

    def __init__(self, pair, y=None, extras=None):
        self.pair = self.signal = pair
        self.y = np.full(len(pair), UNSCORED) if y is None else np.asarray(y)
        self.extras = extras or {}

    def __len__(self):
        return len(self.pair)

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
        """Bytes of the epochs, in single precision, and of what has an entry for each."""
        parts = [self.pair, *self.extras.values()]
        return sum(_n_bytes(part) for part in parts)

    def hold(self, device):
        """Hold the epochs on a device, so that a batch is an indexed read there."""
        self.signal = _held(self.pair, device)
        self.extras = {name: _held(part, device) for name, part in self.extras.items()}

    def hold_where_it_fits(self, device):
        """Hold the epochs on a GPU, if they take at most half of what is free there."""
        if self.signal is self.pair and self.n_bytes() <= room_on(device):
            self.hold(device)


class WindowDataset(EpochDataset):
    """Windows of consecutive epochs, with what else belongs to them.

    Parameters
    ----------
    pair : PairedEpochs
        The epochs.
    windows : ndarray of int, shape (n_windows, length)
        Rows of each window, -1 behind the last of a shorter one.
    y, extras
        As for :class:`EpochDataset`: one entry an epoch. A class axis comes before the
        axis of the sequence, as in logits. What belongs to a window as a whole, as a
        teacher's features do, is a :class:`~skleepkd.distillation.strategy.PerWindow`.
    share, share_validation : bool, default=False
        Whether epochs that several windows of a batch hold are given once, as
        :class:`SharedEpochs`; and whether those of the validation part are.
    """

    def __init__(
        self,
        pair,
        windows,
        y=None,
        extras=None,
        *,
        share=False,
        share_validation=False,
    ):
        extras = extras or {}
        self.window_extras = {
            name: extras[name].values
            for name in extras
            if isinstance(extras[name], PerWindow)
        }
        of_epochs = {
            name: extras[name] for name in extras if name not in self.window_extras
        }
        super().__init__(pair, y, of_epochs)
        self.windows = windows
        self.share = share
        self.share_validation = share_validation

    def __len__(self):
        return len(self.windows)

    def __getitems__(self, numbers):
        """Read a batch of windows, which must be equally long."""
        numbers = np.asarray(numbers)
        windows = self.windows[numbers]
        windows = windows[:, windows[0] >= 0]  # (batch, length)
        rows, places = np.unique(windows, return_inverse=True)
        places = torch.from_numpy(places.reshape(windows.shape))
        epochs = SharedEpochs(_read(self.signal, rows), places)
        x = {"target": epochs if self.share else epochs.apart()}
        for name, values in self.extras.items():
            if len(values.shape) == 2:  # of each epoch, by class
                # (batch, length, n_classes) -> (batch, n_classes, length)
                x[name] = _read(values, windows).movedim(1, -1)
            else:
                x[name] = _read(values, rows)[places]
        x |= {name: _read(array, numbers) for name, array in self.window_extras.items()}
        return x, torch.from_numpy(self.y[windows])

    def split(self, validates):
        """Part the windows to train on from the scored ones of subjects who are held out."""
        validates = validates[self.windows[:, 0]]
        scored = (self.y[self.windows] >= 0).any(axis=1)
        return (
            self._select(np.flatnonzero(~validates), self.share),
            self._select(np.flatnonzero(validates & scored), self.share_validation),
        )

    def _select(self, numbers, share):
        of_windows = {
            name: PerWindow(Rows(array, numbers))
            for name, array in self.window_extras.items()
        }
        extras, windows = {**self.extras, **of_windows}, self.windows[numbers]
        return WindowDataset(self.pair, windows, self.y, extras, share=share)


class Rows:
    """Some rows of an array, read when they are asked for."""

    def __init__(self, array, rows):
        self.array, self.rows = array, rows

    def __getitem__(self, which):
        return self.array[self.rows[which]]


class SharedEpochs:
    """A batch of windows (batch, length) of places in epochs, each of which is there once."""

    def __init__(self, epochs, windows):
        self.epochs, self.windows = epochs, windows

    def __len__(self):
        return len(self.windows)

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


class WindowBatches(Sampler):
    """Shuffled batches of windows for training, blocks of neighbours together where asked."""

    def __init__(self, dataset, batch_size, together=1):
        self.windows = dataset.windows
        self.batch_size = batch_size
        self.together = min(together, batch_size)

    def _split(self, offset):
        """Cut the windows into blocks of neighbours, beginning with a shorter one."""
        numbers = np.arange(len(self.windows))
        # The next window begins at the second epoch of this one, or else it is elsewhere.
        ends = self.windows[1:, 0] != self.windows[:-1, 1]
        blocks = []
        for run in np.split(numbers, np.flatnonzero(ends) + 1):
            cuts = np.arange(offset or self.together, len(run), self.together)
            blocks.extend(np.split(run, cuts))
        return blocks

    def __len__(self):
        return -(-len(self.windows) // self.batch_size)

    def __iter__(self):
        if self.together == 1:
            numbers = torch.randperm(len(self.windows)).numpy()
        else:
            offset = int(torch.randint(self.together, ()))
            blocks = self._split(offset)
            order = torch.randperm(len(blocks)).tolist()
            numbers = np.concatenate([blocks[k] for k in order])
        for start in range(0, len(numbers), self.batch_size):
            yield numbers[start : start + self.batch_size]


def batches_in_order(dataset, batch_size):
    """Batches of windows that are equally long, in order; of shared epochs, whole runs."""
    windows = dataset.windows
    if not len(windows):
        return []
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


def _read(values, rows):
    """Read rows of a pair, an array or a held tensor, in single precision."""
    if isinstance(values, torch.Tensor):
        return values[torch.from_numpy(rows).to(values.device)].float()
    read = values.read("target", rows) if hasattr(values, "read") else values[rows]
    return torch.from_numpy(np.ascontiguousarray(read, dtype=np.float32))


def _n_bytes(values):
    size = 4 if hasattr(values, "read") else values.dtype.itemsize
    return size * int(np.prod(values.shape))


def _held(values, device):
    """Move all of a pair or of an array to a device; an array keeps its precision."""
    if hasattr(values, "read"):
        return _read(values, np.arange(len(values))).to(device)
    return torch.as_tensor(np.asarray(values)).to(device)


def make_loader(iterator, dataset, options, *, training, device, together):
    """Make a batch loader; training rows are shuffled, and held on a GPU where they fit.

    ``options`` go to ``iterator``, ``together`` neighbouring windows stay together.
    """
    options = {"shuffle": training, "pin_memory": _is_cuda(device), **options}
    if options["batch_size"] == -1:
        options["batch_size"] = len(dataset)
    base = getattr(dataset, "dataset", dataset)
    if not isinstance(base, EpochDataset):
        return iterator(dataset, **options)
    if training and not options.get("num_workers"):
        base.hold_where_it_fits(device)
    if base.signal is not base.pair:
        options["pin_memory"] = False
    options.setdefault("collate_fn", as_is)
    if isinstance(dataset, WindowDataset):
        batch_size, shuffle = options.pop("batch_size"), options.pop("shuffle")
        if training and shuffle:
            batches = WindowBatches(dataset, batch_size, together if dataset.share else 1)
        else:
            batches = batches_in_order(dataset, batch_size)
        return iterator(dataset, batch_sampler=batches, **options)
    # Batch normalisation cannot learn from a last batch of a single epoch.
    if training and iterator is DataLoader and len(dataset) > options["batch_size"]:
        options.setdefault("drop_last", len(dataset) % options["batch_size"] == 1)
    return iterator(dataset, **options)


def room_on(device):
    """Bytes of a GPU that a training set may take, half of what is free; 0 on the CPU."""
    return torch.cuda.mem_get_info(device)[0] // 2 if _is_cuda(device) else 0


def _is_cuda(device):
    return torch.device(device).type == "cuda"


def as_is(batch):
    """Leave a batch as the data set made it."""
    return batch
