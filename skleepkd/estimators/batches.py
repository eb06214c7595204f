"""Batches: rows of a pair as tensors, each read by one indexed read."""

import numpy as np
import torch
from torch.utils.data import Dataset

from skleepkd.stages import UNSCORED


class EpochDataset(Dataset):
    """Epochs of a pair, with what else belongs to their rows.

    Parameters
    ----------
    pair : PairedEpochs
        The epochs.
    y : ndarray of int, shape (n_epochs,), optional
        Codes of the stages, -1 where unscored.
    extras : dict of array of shape (n_epochs, ...), optional
        What the batch carries besides ``"target"``: the online teacher's ``"source"``
        as another pair, a frozen teacher's answers as arrays.
    """

    def __init__(self, pair, y=None, extras=None):
        self.pair = pair
        self.y = np.full(len(pair), UNSCORED) if y is None else np.asarray(y)
        self.extras = extras or {}

    def __len__(self):
        return len(self.pair)

    def __getitem__(self, row):
        x, y = self.__getitems__([row])
        return {name: tensor[0] for name, tensor in x.items()}, y[0]

    def __getitems__(self, rows):
        """Read a whole batch; a loader that finds this method asks it for batches."""
        rows = np.asarray(rows)
        x = {"target": _tensor(self.pair.read("target", rows))}
        for name, values in self.extras.items():
            read = (
                values[rows]
                if isinstance(values, np.ndarray)
                else values.read("target", rows)
            )
            x[name] = _tensor(read)
        return x, torch.from_numpy(self.y[rows])


def _tensor(array):
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


def as_is(batch):
    """Leave a batch as :class:`EpochDataset` made it."""
    return batch
