"""A bar for long trainings, where somebody looks."""

import multiprocessing
import sys

from tqdm import tqdm

#: Trainings that are shorter, in seconds, show no bar.
PATIENCE = 2.0


class Progress:
    """A bar over the training batches of so many passes, of what ``verbose=None`` says."""

    def __init__(self, net, passes):
        self.name, self.passes, self.bar = type(net).__name__, passes, None
        self.shown = net.verbose is None and _is_watched()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.bar is not None:
            self.bar.close()

    def step(self, iterator, history):
        """Move on by one of the batches of ``iterator``."""
        if not self.shown:
            return
        if self.bar is None:
            total = self.passes * len(iterator) if hasattr(iterator, "__len__") else None
            self.bar = tqdm(total=total, delay=PATIENCE, leave=False, unit="batch")
            self.before = len(history) - 1
        number = len(history) - self.before
        text = f"{self.name}, pass {number} of {self.passes}"
        self.bar.set_description(text, refresh=False)
        self.bar.update()


def _is_watched():
    """Whether this is the main process of a terminal or a notebook."""
    main = multiprocessing.current_process().name == "MainProcess"
    # A program without a console has no such stream.
    is_terminal = getattr(sys.stderr, "isatty", bool)
    return main and (is_terminal() or "ipykernel" in sys.modules)
