"""Private memory of an eight-fold cross-validation over a memory map of 2 GB.

One pass of a tiny network, offline distillation with features and online distillation,
all in this process. Printed is the highest resident private memory (RssAnon, sampled
every 20 ms) above what the imports take; pages of the memory map are the system's cache
and do not count. Linux only.

Run it with ``python benchmarks/memory.py``; it writes the map into a temporary folder.
"""

import argparse
import re
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.model_selection import GroupKFold, cross_validate

from skleepkd import DistilledSleepStager, PairedEpochs, SleepStager

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from small_network import SmallNetwork

SAMPLES = 30 * 64


def private_bytes():
    """Resident private memory of this process, in bytes."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"RssAnon:\s+(\d+)", status)[1]) * 1024


class Peak:
    """Highest private memory inside a ``with`` block."""

    def __enter__(self):
        self.bytes, self.stop = private_bytes(), threading.Event()
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def watch(self):
        """Sample until the block ends."""
        while not self.stop.wait(0.02):
            self.bytes = max(self.bytes, private_bytes())

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()


def write_pair(folder, n_bytes, n_subjects=8):
    """Write noise of two modalities into memory maps, block by block."""
    n_epochs = n_bytes // (2 * 3 * SAMPLES * 4)
    rng = np.random.default_rng(0)
    arrays = {}
    for name in ("target", "source"):
        out = np.lib.format.open_memmap(
            folder / f"{name}.npy", "w+", np.float32, (n_epochs, 3, SAMPLES)
        )
        for start in range(0, n_epochs, 500):
            block = out[start : start + 500]
            block[:] = 30 * rng.standard_normal(block.shape, np.float32)
        out.flush()
        arrays[name] = np.load(folder / f"{name}.npy", mmap_mode="r")
    subject = np.arange(n_epochs) * n_subjects // n_epochs
    X = PairedEpochs(**arrays, subject=subject, recording=subject, sfreq=64.0)
    return X, rng.integers(0, 5, n_epochs)


def main():
    """Run the cross-validations and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=2.0, help="size of the map (2)")
    parser.add_argument("--bound", type=float, default=1.0, help="GB above the imports (1)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    imports = private_bytes()
    print(f"Private memory after the imports: {imports / 1e9:.2f} GB")
    with tempfile.TemporaryDirectory() as folder:
        X, y = write_pair(Path(folder), int(options.gigabytes * 1e9))
        print(f"Memory map: {2 * X['target'].nbytes / 1e9:.2f} GB, {X}")
        for strategy in ("offline", "online"):
            teacher = SleepStager(SmallNetwork, module__n_filters=4, max_epochs=1)
            student = DistilledSleepStager(
                teacher, strategy=strategy, max_epochs=1, batch_size=128, random_state=0
            )
            began = time.perf_counter()
            with Peak() as peak:
                cross_validate(student, X, y, groups=X.subject, cv=GroupKFold(8))
            above = (peak.bytes - imports) / 1e9
            verdict = "holds" if above < options.bound else "does not hold"
            print(
                f"{strategy}: {above:.2f} GB above the imports at the peak, bound "
                f"{options.bound:g} GB: {verdict} ({time.perf_counter() - began:.0f} s)"
            )


if __name__ == "__main__":
    main()
