"""Valid files, as small as they come, and the library's readers of them."""

from functools import partial
from pathlib import Path

import numpy as np
from braindecode.preprocessing import Preprocessor
from sklearn.pipeline import make_pipeline

from skleepkd import PairedEpochs, RecordingStager, SleepStager, load, save
from skleepkd.datasets import (
    load_boas,
    load_cinc2018,
    load_mass,
    load_sleep_edf,
)
from skleepkd.preprocessing import EpochScaler
from tests import test_boas, test_cinc2018, test_mass, test_sleep_edf
from tests.edf import write_edf
from tests.fuzz import Seed
from tests.tiny import TinyNetwork


def make_seeds(folder):
    """Write the files, where they are not there yet, and list them.

    Parameters
    ----------
    folder : pathlib.Path
        Each seed gets a folder of its own name in it.

    Returns
    -------
    list of Seed
    """
    seeds = []
    makers = (sleep_edf, mass, boas, cinc2018, models, wholes, pairs, recordings)
    for maker in makers:
        seeds += maker(folder)
    return seeds


def once(folder, name, write):
    """Write a folder unless it is there."""
    root = folder / name
    if not root.exists():
        root.mkdir(parents=True)
        write(root)
    return root


# ---------------------------------------------------------------- EDF


def sleep_edf(folder):
    """Two channels of 1 Hz, eight epochs; the scoring as EDF+ annotations."""
    psg, hypnogram = "SC4001E0-PSG.edf", "SC4001EC-Hypnogram.edf"

    def write(root):
        rng = np.random.default_rng(0)
        payload = rng.integers(-900, 900, (8, 60)).astype("<i2").tobytes()
        names, start = ["EEG Fpz-Cz", "EOG horizontal"], ("24.04.89", "16.13.00")
        write_edf(root / psg, names, payload, 30, [30, 30], ["uV", "uV"], start=start)
        rows = [(0, 60, "Sleep stage W"), (60, 90, "Sleep stage 2")]
        rows += [(150, 30, "Movement time"), (180, 60, "Sleep stage ?")]
        test_sleep_edf.write_hypnogram(root / hypnogram, rows, 16 * 3600 + 13 * 60)

    once(folder, "sleep-edf", write)
    read = partial(load_sleep_edf, sfreq=1.0, crop=None)
    in_bed = partial(load_sleep_edf, sfreq=1.0, crop=1.0)
    return [
        Seed("EDF", "sleep-edf", psg, "edf", read, ["SC4001"]),
        Seed("EDF+ annotations", "sleep-edf", hypnogram, "edf", in_bed, ["SC4001"]),
    ]


def mass(folder):
    number = "01-03-0001"

    def write(root):
        signal = np.random.default_rng(0).integers(-900, 900, 130 * 4) / 10
        records = np.round(10 * signal).astype("<i2").reshape(130, 4)
        write_edf(
            test_mass.path_of(root, number, "PSG"),
            ["EEG C3-CLE", "EEG C4-CLE"],
            np.concatenate([records, records], axis=1).tobytes(),
            1,
            [4, 4],
            ["uV", ""],
        )
        onsets = 5.0 + 30 * np.arange(4)
        texts = ["Sleep stage W", "Sleep stage 2", "Sleep stage ?", "Sleep stage R"]
        base = test_mass.path_of(root, number, "Base")
        test_mass.write_base(base, onsets, [30.0] * 4, texts)

    once(folder, "mass", write)
    channels = {"source": ["EEG C3-CLE"], "target": ["EEG C4-CLE"]}
    read = partial(load_mass, sfreq=4.0, channels=channels, subsets=[3])
    return [
        Seed("EDF", "mass", f"SS3_EDF/{number} PSG.edf", "edf", read, [number]),
        Seed(
            "EDF+ annotations", "mass", f"SS3_EDF/{number} Base.edf", "edf", read, [number]
        ),
    ]


def boas(folder):
    """One epoch of two devices, with five tables."""

    def write(root):
        test_boas.write_tables(root, "sub-1", [2], channels=["PSG_C3"])
        rows = [("participant_id", "pid"), ("sub-1", 7)]
        test_boas.write_table(root / "participants.tsv", rows)
        for device, names in (("psg", ["PSG_C3"]), ("headband", test_boas.HEADBAND)):
            path = test_boas.path_of(root, "sub-1", device, "eeg.edf")
            test_boas.write_edf(path, names, 31, [(names[0], 300, 55)])

    once(folder, "boas", write)
    read = partial(load_boas, source=["C3"], target=["HB_1"])
    words = ["sub-1", "participants.tsv"]
    tables = ["participants.tsv"] + [
        str(test_boas.path_of(Path(), "sub-1", device, table))
        for device in ("psg", "headband")
        for table in ("events.tsv", "channels.tsv")
    ]
    signals, sidecar = (
        str(test_boas.path_of(Path(), "sub-1", "psg", what))
        for what in ("eeg.edf", "eeg.json")
    )
    return [
        Seed("EDF", "boas", signals, "edf", read, words),
        *(Seed("events", "boas", table, "text", read, words) for table in tables),
        Seed("events", "boas", sidecar, "json", read, words),
    ]


# ---------------------------------------------------------------- WFDB


def cinc2018(folder):
    number = "tr03-0005"

    def write(root):
        rng = np.random.default_rng(0)
        signals = {
            "C3-M2": (rng.normal(0, 30, 64 * 4), 20, "uV"),
            "ECG": (rng.normal(0, 300, 64 * 4), 1000, "mV"),
        }
        notes = [(0, "W"), (10, "(arousal_rera"), (30, "N2"), (40, "arousal_rera)")]
        place = root / "training" / number
        test_cinc2018.write_record(place, signals, notes, sfreq=4, fs=4)

    once(folder, "cinc2018", write)
    stem = f"training/{number}/{number}"
    read = partial(load_cinc2018, sfreq=4.0)
    return [
        Seed("WFDB", "cinc2018", stem + suffix, forge, read, [number])
        for suffix, forge in ((".hea", "text"), (".mat", "plain"), (".arousal", "plain"))
    ]


# ---------------------------------------------------------------- what the library wrote


def models(folder):
    """A network of each kind, trained for a pass on noise."""
    small = {
        "UTime": {"module__filters": (3, 4), "module__pools": (4,)},
        "EpochCrossModalTransformer": {},
        "SeqSleepNet": {"sequence_length": 3},
        "EEGNet": {},
        TinyNetwork: {},
    }
    seeds = []
    for network, options in small.items():
        name = getattr(network, "__name__", network)

        def write(root, network=network, options=options):
            rng = np.random.default_rng(0)
            shape = (12, 1, 29, 129) if network == "SeqSleepNet" else (12, 1, 600)
            X = PairedEpochs(
                rng.normal(0, 30, shape).astype(np.float32),
                recording=np.repeat(["a", "b"], 6),
                subject=np.repeat(["a", "b"], 6),
                onset=np.tile(30.0 * np.arange(6), 2),
                sfreq=20.0,
            )
            stager = SleepStager(
                network, max_epochs=1, device="cpu", random_state=0, **options
            )
            save(stager.fit(X, np.tile([0, 2, 4], 4)), root / "stager.safetensors")

        once(folder, f"model-{name}", write)
        file = "stager.safetensors"
        seeds.append(Seed("model", f"model-{name}", file, "model", _load, [file]))
    return seeds


def wholes(folder):
    """A pipeline, and a stager of recordings with its preprocessing."""
    seeds = []
    for name in ("pipeline", "recording-stager"):

        def write(root, name=name):
            X = np.random.default_rng(0).normal(0, 30, (12, 1, 600)).astype(np.float32)
            small = {"module__filters": (3, 4), "module__pools": (4,)}
            stager = SleepStager(
                "UTime", max_epochs=1, device="cpu", random_state=0, **small
            )
            if name == "pipeline":
                stager = make_pipeline(EpochScaler(), stager)
            stager.fit(X, np.tile([0, 2, 4], 4))
            if name == "recording-stager":
                steps = [Preprocessor("filter", l_freq=0.3, h_freq=None)]
                steps += [Preprocessor("resample", sfreq=20)]
                stager = RecordingStager(stager, steps, ch_names=["Fpz-Cz"])
            save(stager, root / "stager.safetensors")

        once(folder, f"model-{name}", write)
        file = "stager.safetensors"
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

    def write(root):
        values = np.random.default_rng(0).normal(size=(6, 1, 30)).astype(np.float32)
        onset, names = 30.0 * np.arange(6), np.repeat("night", 6)
        PairedEpochs(values, source=values, recording=names, onset=onset).to_memmap(root)
        about = root / "pair.json"
        for path in root.glob("*.np?"):  # names that are no accident
            name = path.name.partition("-")[0] + path.suffix
            about.write_text(about.read_text().replace(path.name, name))
            path.rename(root / name)

    root = once(folder, "pair", write)
    forges = {".json": "json", ".npy": "npy", ".npz": "plain"}
    return [
        Seed("pair", "pair", path.name, forges[path.suffix], _open, ["pair"])
        for path in sorted(root.iterdir())
    ]


def recordings(folder):
    """An EDF file, and what stages it."""

    def write(root):
        rng = np.random.default_rng(0)
        X = rng.normal(0, 30, (8, 1, 300)).astype(np.float32)
        stager = SleepStager(TinyNetwork, max_epochs=1, device="cpu", random_state=0)
        save(stager.fit(X, np.tile([0, 2], 4)), root / "stager.safetensors")
        payload = rng.integers(-900, 900, (70, 20)).astype("<i2").tobytes()
        write_edf(root / "night.edf", ["Fpz-Cz", "EOG"], payload, 1, [10, 10], ["uV", "uV"])

    root = once(folder, "recording", write)
    stager = load(root / "stager.safetensors", TinyNetwork)
    read = partial(_stage, RecordingStager(stager, ch_names=["Fpz-Cz"]), "night.edf")
    words = ["recording", "night"]
    return [Seed("recording", "recording", "night.edf", "edf", read, words)]


def _stage(stager, file, root):
    return stager.stage(root / file)


def _open(root):
    pair = PairedEpochs.from_memmap(root)
    for modality in ("target", "source"):
        if modality == "target" or pair.has_source:
            pair[modality].sum()
    return pair
