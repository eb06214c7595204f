"""Valid files, as small as they come, and the library's readers of them."""

from functools import partial

import numpy as np
from braindecode.preprocessing import Preprocessor
from sklearn.pipeline import make_pipeline

from skleepkd import (
    PairedEpochs,
    RecordingStager,
    SleepStager,
    load,
    read_hypnogram,
    save,
)
from skleepkd.edf import open_edf, read_annotations, read_header
from skleepkd.preprocessing import EpochScaler
from tests.files import write_edf
from tests.fuzz.campaign import Seed
from tests.hypnogram.test_reading import CLOCKED, PLAIN
from tests.tiny import TinyNetwork

SMALL_UTIME = {"module__filters": (3, 4), "module__pools": (4,)}


def make_seeds(folder):
    """Write the files, each in a folder of its own name, and list them."""
    return [*edfs(folder), *scorings(folder), *models(folder), *pairs(folder)]


def stager_of(network, X, **options):
    stager = SleepStager(network, max_epochs=1, device="cpu", random_state=0, **options)
    return stager.fit(X, np.tile([0, 2, 4], len(X) // 3))


def noise(*shape):
    return np.random.default_rng(0).normal(0, 30, shape).astype(np.float32)


# ---------------------------------------------------------------- EDF


def edfs(folder):
    """A recording as a loader reads it and as a stager does, and a scorer's annotations."""
    signals = dict(zip(["Fpz-Cz", "EOG"], noise(2, 700), strict=True))
    write_edf(folder / "edf" / "night.edf", signals, 70)
    notes = [(0, 60, "Sleep stage W"), (60, 90, "Sleep stage 2")]
    notes += [(150, 30, "Movement time"), (180, 60, "Sleep stage ?")]
    write_edf(folder / "edf" / "scored.edf", {}, 1, 0, notes=notes, reserved="EDF+C")
    starts = np.arange(70) + 0.5
    write_edf(folder / "edf" / "plus.edf", signals, 70, starts=starts, reserved="EDF+D")
    stager = RecordingStager(stager_of(TinyNetwork, noise(9, 1, 300)), ch_names=["Fpz-Cz"])
    readers = {
        "EDF": ("night.edf", _open_edf),
        "EDF+": ("plus.edf", _open_edf),
        "recording": ("night.edf", stager.stage),
        "EDF+ annotations": ("scored.edf", read_annotations),
    }
    # A stager names the recording's channel, where a damaged header has another.
    words = [".edf", "recording", "Fpz-Cz"]
    return [
        Seed(kind, "edf", file, "edf", partial(_read_file, read, file), words)
        for kind, (file, read) in readers.items()
    ]


def _read_file(read, file, root):
    return read(root / file)


def _open_edf(path):
    read_header(path, whole=True)
    return open_edf(path, ["Fpz-Cz"])


def scorings(folder):
    """What programs of laboratories write of ten epochs."""
    texts = {name: PLAIN[name][1] for name in ("BIDS", "Profusion", "NSRR", "Visbrain")}
    texts |= {name: CLOCKED[name] for name in ("RemLogic", "Domino")}
    for encoding in (
        "utf-16",
        "utf-16-le",
        "cp1252",
    ):  # Python imports them at the first use
        "".encode(encoding)
    seeds = []
    for name, text in texts.items():
        (folder / name).mkdir()
        (folder / name / "scoring.txt").write_text(text, encoding="utf-8")
        read = partial(_read_file, read_hypnogram, "scoring.txt")
        read(folder / name)
        seeds.append(Seed("scoring", name, "scoring.txt", "plain", read, ["scoring.txt"]))
    return seeds


# ---------------------------------------------------------------- what the library wrote


def models(folder):
    """Networks of each kind, a pipeline, and a stager of recordings with its steps."""
    X = PairedEpochs(
        noise(12, 1, 600),
        recording=np.repeat(["a", "b"], 6),
        onset=np.tile(30.0 * np.arange(6), 2),
        sfreq=20.0,
    )
    spectra = X.replace(target=noise(12, 1, 29, 129))
    utime = stager_of("UTime", X, **SMALL_UTIME)
    steps = [Preprocessor("filter", l_freq=0.3, h_freq=None)]
    steps += [Preprocessor("resample", sfreq=20)]
    pipeline = make_pipeline(
        EpochScaler(), SleepStager("UTime", max_epochs=1, device="cpu", **SMALL_UTIME)
    )
    wholes = {
        "utime": utime,
        "transformer": stager_of("EpochCrossModalTransformer", X),
        "seqsleepnet": stager_of("SeqSleepNet", spectra, sequence_length=3),
        "eegnet": stager_of("EEGNet", X),
        "own": stager_of(TinyNetwork, X),
        "pipeline": pipeline.fit(X, np.tile([0, 2, 4], 4)),
        "recording": RecordingStager(utime, steps, ch_names=["Fpz-Cz"]),
    }
    file, seeds = "stager.safetensors", []
    for name, whole in wholes.items():
        (folder / f"model-{name}").mkdir(parents=True)
        save(whole, folder / f"model-{name}" / file)
        seeds.append(Seed("model", f"model-{name}", file, "model", _load, [file]))
    return seeds


def _load(root):
    try:
        return load(root / "stager.safetensors")
    except ValueError as error:
        if "no file holds module=" not in str(error):
            raise
        return load(root / "stager.safetensors", TinyNetwork)


def pairs(folder):
    """A folder of memory maps."""
    root, onset = folder / "pair", 30.0 * np.arange(6)
    X = PairedEpochs(
        noise(6, 1, 30), source=noise(6, 1, 30), recording="night", onset=onset
    )
    X.to_memmap(root)
    about = root / "pair.json"
    for path in root.glob("*.np?"):  # names that are no accident
        name = path.name.partition("-")[0] + path.suffix
        about.write_text(about.read_text().replace(path.name, name))
        path.rename(root / name)
    return [
        Seed("pair", "pair", path.name, "plain", _open_pair, ["pair"])
        for path in sorted(root.iterdir())
    ]


def _open_pair(root):
    pair = PairedEpochs.from_memmap(root)
    for modality in ("target", "source"):
        if modality == "target" or pair.has_source:
            pair[modality].sum()
