"""Rows of the speed benchmark about signals: making them, and reading them from a disk."""

import os
import re
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from _runs import resume
from _speed_setup import BATCH_SIZE, measure, noise, stager_of, stages, training_pass
from memory import Peak, private_bytes
from scipy import signal
from scipy.signal.windows import hamming

from skleepkd import PairedEpochs
from skleepkd.preprocessing import LogSpectrogram

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from small_network import SmallNetwork


def recording(fast, seconds):
    """Filter, resample and cut a recording, as Phan et al. (2019) did with MASS."""
    import mne

    hours, sfreq, band = 0.05 if fast else 8, 256, (0.3, 40)
    # As an EEG has it, less power the higher the frequency: a first-order low-pass.
    signals = signal.lfilter([1], [1, -0.98], noise(6, round(hours * 3600 * sfreq)))
    signals *= 3e-5 / signals.std()
    raw = mne.io.RawArray(signals, mne.create_info(6, sfreq, "eeg"), verbose="error")

    def cut(raw):
        return mne.make_fixed_length_epochs(raw, 30, preload=True, proj=False)

    def by_default():
        return cut(raw.copy().filter(*band).resample(100))

    def faster():
        return cut(raw.copy().resample(100, method="polyphase").filter(*band))

    with mne.use_log_level("error"):
        ours, theirs = (make().get_data(copy=False) for make in (faster, by_default))
        apart = (ours - theirs) / theirs.std()
        off, most = np.sqrt(np.mean(apart**2)), abs(apart[1:-1]).max()
        line = measure(
            fast,
            seconds,
            f"{hours:g} h, six channels: recording to epochs, resampled first, by polyphase",
            "MNE's defaults, filtered first",
            faster,
            by_default,
            at_most=0.35,
            note="0.3 to 40 Hz, 256 to 100 Hz, noise with an EEG's slope; they differ by "
            f"{off:.2g} of a standard deviation (root mean square, bound 0.01: "
            f"{'holds' if off <= 0.01 else 'does not hold'}), by {most:.3g} at most but in "
            "the first and the last epoch",
        )
    yield line


def spectrogram(fast, seconds):
    """Make the log spectrograms of a night."""
    X = noise(64 if fast else 960, 1, 3000)
    ours = LogSpectrogram().fit(X)
    window = hamming(200).astype(np.float32)
    mean, scale = (
        values[:, :, None].astype(np.float32) for values in (ours.mean_, ours.scale_)
    )

    def by_scipy():
        spectra = []
        for start in range(0, len(X), BATCH_SIZE):
            batch = X[start : start + BATCH_SIZE]
            _, _, amplitude = signal.spectrogram(
                batch, 100.0, window, noverlap=100, nfft=256, detrend=False,
                scaling="spectrum", mode="magnitude",
            )  # fmt: skip
            # scipy divides by the window's sum, and has frequencies before frames.
            decibels = 20 * np.log10(np.maximum(amplitude * window.sum(), 1e-3))
            spectra.append(((decibels - mean) / scale).swapaxes(2, 3))
        return np.concatenate(spectra)

    np.testing.assert_allclose(ours.transform(X), by_scipy(), atol=1e-2)
    yield measure(
        fast,
        seconds,
        f"LogSpectrogram of {len(X)} epochs",
        "scipy, 32 epochs at a time",
        lambda: ours.transform(X),
        by_scipy,
    )


def memmap(fast, seconds):
    """Train from a memory map, none of whose pages is in memory. Linux alone."""
    n = BATCH_SIZE * (2 if fast else 128)
    X, y = PairedEpochs(noise(n, 3, 1920), sfreq=64.0), stages(n)
    stager = stager_of(SmallNetwork)
    in_memory = training_pass(stager, X, y)
    with tempfile.TemporaryDirectory() as folder:
        X.to_memmap(folder)

        def from_the_disk():
            drop_from_cache(folder)
            # A new map: pages that a process still maps would not be dropped.
            mapped = PairedEpochs.from_memmap(folder)
            stager.fit_loop(stager.get_dataset(mapped, y), epochs=1)

        before = bytes_read()
        from_the_disk()
        read = bytes_read() - before
        ways = {name: {"folder": folder, "way": name} for name in ("mapped", "in memory")}
        done = resume(private_memory, ways, Path(folder), preload=["_speed_signals"])
        above = {name: found["private_mb"] for name, found, _ in done}
        yield measure(
            fast,
            seconds,
            "A small network: a training pass from a memory map, not in the page cache",
            "the same in memory",
            from_the_disk,
            in_memory,
            clock=time.perf_counter,
            note=f"by the clock on the wall; {read / 1e6:.0f} MB read from the disk for a map "
            f"of {X['target'].nbytes / 1e6:.0f} MB; private memory (RssAnon) of a fit above "
            f"the imports {above['mapped']:.0f} MB, in memory {above['in memory']:.0f} MB",
        )


def drop_from_cache(folder):
    """Drop the files of a folder from the system's page cache."""
    for path in Path(folder).iterdir():
        file = os.open(path, os.O_RDONLY)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)


def bytes_read():
    """Bytes that this process has read from the disk."""
    return int(re.search(r"read_bytes: (\d+)", Path("/proc/self/io").read_text())[1])


def private_memory(folder, way):
    """Fit for a pass, from the map or a copy, and return the private memory it took."""
    imports = private_bytes()
    with Peak() as peak:
        X = PairedEpochs.from_memmap(folder)
        if way == "in memory":
            X = PairedEpochs(np.array(X), sfreq=64.0)
        stager_of(SmallNetwork).fit(X, stages(len(X)))
    return {"private_mb": (peak.bytes - imports) / 1e6}
