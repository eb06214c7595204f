"""The runs of ``real_nights.py`` on ten people: networks, features, trainings."""

import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import study
import tables
from joblib import Memory
from sklearn.frozen import FrozenEstimator
from torch import nn

from skleepkd import DistilledSleepStager, FineTunedSleepStager, PairedEpochs, SleepStager
from skleepkd.datasets import load_sleep_edf
from skleepkd.preprocessing import BandPowers
from skleepkd.sequences import find_runs

TEACHER, ALONE, TWICE = "teacher", "alone", "alone, twice the passes"
NO_LABEL, CONTROL = "no label", "teacher's people's own Pz-Oz"
FOLLOWED, UNSCORED = "with the teacher", "with the teacher and unscored people"
ALL = "all of it"
OWN = "with an own teacher and unscored people"


class FiveEpochs(nn.Module):
    """Two hidden layers on the numbers of an epoch and its neighbours."""

    feature_layers = ("features",)
    parameter_groups = {  # noqa: RUF012
        name: (name,) for name in ("first", "second", "head")
    }

    def __init__(self, n_chans, n_times, n_outputs, n_bins, width=64):
        super().__init__()
        self.first = nn.Linear(n_chans * n_times * n_bins, width)
        self.second = nn.Linear(width, width)
        self.features = nn.Identity()
        self.dropout = nn.Dropout(0.25)
        self.head = nn.Linear(width, n_outputs)

    def forward(self, x):
        """Compute the logits of epochs, (batch, n_chans, neighbours, numbers)."""
        x = self.second(self.first(x.flatten(1)).relu()).relu()
        return self.head(self.dropout(self.features(x)))


class Recurrent(nn.Module):
    """A recurrent network in both directions over consecutive epochs."""

    feature_layers = ("features",)
    parameter_groups = FiveEpochs.parameter_groups

    def __init__(self, n_chans, n_times, n_outputs, n_bins, width=24):
        super().__init__()
        self.first = nn.Linear(n_chans * n_times * n_bins, 2 * width)
        self.second = nn.GRU(2 * width, width, batch_first=True, bidirectional=True)
        self.features = nn.Identity()
        self.dropout = nn.Dropout(0.25)
        self.head = nn.Conv1d(2 * width, n_outputs, 1)

    def forward(self, x):
        """Compute the logits of windows, (batch, sequence, n_chans, neighbours, numbers)."""
        x, _ = self.second(self.first(x.flatten(2)).relu())
        # (batch, sequence, 2 * width) -> (batch, 2 * width, sequence)
        return self.head(self.dropout(self.features(x.mT)))


# ---------------------------------------------------------------- the ten people


def read_features(folder):
    """Read the features of both derivations as a pair, and the stages.

    Epochs are numbered without the few that nobody scored, which are no gaps here.
    """
    with np.load(Path(folder) / "sleep_edf_features" / "features.npz") as file:
        features, night = file["features"].astype(float), file["night"]
        onset, y = 30.0 * file["epoch"], file["stage"].astype(np.int64)
    # Their mobility was computed with 100 square microvolts added to the variance.
    features[..., 6] *= np.sqrt(1 + 100 / 10 ** features[..., 5])
    return make_pair(features, np.char.ljust(night, 5).astype("U5"), night, onset), y


def compute_features(folder):
    """Compute the same from the recordings themselves."""
    channels = {"target": ["EEG Pz-Oz"], "source": ["EEG Fpz-Cz", "EEG Pz-Oz"]}
    there = [k for k in range(10) if any(Path(folder).rglob(f"SC4{k:02d}*-PSG.edf"))]
    cohort = load_sleep_edf(folder, subjects=there, channels=channels, crop=30)
    X = BandPowers().transform(cohort.X)
    names = (np.char.replace(of, "sleep-edf-", "") for of in (X.subject, X.recording))
    return make_pair(X["source"][:, :, 0], *names, X.onset), cohort.y


def make_pair(features, subject, night, onset):
    """Scale features (n_epochs, 2, 7) by night, and put each epoch's neighbours beside it."""
    nearby = np.empty((len(features), 2, 5, 7), np.float32)
    for name in np.unique(night):
        rows = night == name
        features[rows] -= features[rows].mean(axis=0)
        features[rows] /= np.maximum(features[rows].std(axis=0), 1e-6)
    for run in find_runs(night, onset, len(night)):
        # At the ends of a run its last epoch stands for those that are missing.
        places = np.arange(len(run))[:, None] + np.arange(-2, 3)
        beside = features[run[places.clip(0, len(run) - 1)]]
        nearby[run] = beside.swapaxes(1, 2)  # (n, 5, 2, 7) -> (n, 2, 5, 7)
    return PairedEpochs(
        nearby[:, 1:], source=nearby, subject=subject, recording=night, onset=onset
    )


def training(settings, sequences=False, passes=1):
    """Return what all trainings have in common."""
    length, n_rows, steps = (20, 32, "sequence_steps") if sequences else (1, 256, "steps")
    n_passes = passes * settings["passes"]
    how = study.training(n_passes, settings["lr"], n_rows, settings[steps])
    return how | {"sequence_length": length, "iterator_valid__batch_size": 4096}


def run_fold(settings, X, y, person, seed, sequences, only=None):
    """Train methods, all but for those not among ``only``, on all people but one."""
    test = X.subject == person
    network = Recurrent if sequences else FiveEpochs
    how, twice = (training(settings, sequences, passes) for passes in (1, 2))
    plain = SleepStager(network, **how)
    features, softmax = study.terms(settings)
    features["alpha"] = 0.0
    # The transferred network has one channel: Fpz-Cz.
    single = X.replace(source=X["source"][:, :1])
    with tempfile.TemporaryDirectory() as folder:
        shared = {"memory": Memory(folder, verbose=0), "random_state": seed, **how}
        taught = {"start_from_teacher": False, **shared}
        stagers = {
            ALONE: SleepStager(network, random_state=seed, **how),
            TWICE: SleepStager(network, random_state=seed, **twice),
            "transfer": FineTunedSleepStager(plain, **shared),
            "offline": DistilledSleepStager(plain, **features, **taught),
            "online": DistilledSleepStager(plain, strategy="online", **features, **taught),
            "softmax": DistilledSleepStager(plain, **softmax, **taught),
        }
        if only is not None:
            stagers = {name: stagers[name] for name in only}
        for name, stager in stagers.items():
            pair = single if name == "transfer" else X
            stager.fit(pair[~test], y[~test])
    inputs = dict.fromkeys(stagers, X[test].target_epochs)
    if "softmax" in stagers:
        stagers[TEACHER] = stagers["softmax"].teacher_
        inputs[TEACHER] = X[test].source_epochs
    return {"rows": tables.judge_all(stagers, inputs, y[test], scored=9)}


def draw_people(subject, person, seed):
    """Part the others into the teacher's people and own ones, the first of whom are scored."""
    everybody = np.unique(subject)
    place = int(np.searchsorted(everybody, person))
    others = np.random.default_rng([seed, place]).permutation(np.delete(everybody, place))
    return np.split(others, [(len(others) + 1) // 2])


def run_few(settings, X, y, person, seed, only=None):
    """Train with few scored people or none, and a teacher of about half of the others.

    ``only`` names methods, all by default.
    """
    theirs, own = draw_people(X.subject, person, seed)
    others = np.concatenate([theirs, own])
    test, (_, softmax) = X.subject == person, study.terms(settings)
    both, target = X.source_epochs, X.target_epochs
    single = target.replace(target=X["source"][:, :1])
    found = []

    def fit(stager, people, scored, of=X):
        rows = np.isin(X.subject, people)
        return stager.fit(of[rows], np.where(np.isin(X.subject, scored), y, -1)[rows])

    def how(passes=1):
        return training(settings, passes=passes) | {"random_state": seed}

    def plain(people, of=target, passes=1):
        return fit(SleepStager(FiveEpochs, **how(passes)), people, people, of)

    def follow(teacher, people, scored=(), of=X, passes=1):
        way = {"start_from_teacher": False, **softmax, **how(passes)}
        if not len(scored):
            way["alpha"] = 1
        student = DistilledSleepStager(FrozenEstimator(teacher), FiveEpochs, **way)
        return fit(student, people, scored, of)

    def score(name, n, make, of=target):
        if only is None or name in only:
            about = {"method": name, "scored": n}
            found.extend(tables.judge(make(), of[test], y[test], **about))

    def follow_stages():
        rows = np.isin(X.subject, own)
        stager = SleepStager(FiveEpochs, **how())
        return stager.fit(target[rows], teacher.predict(both[rows]))

    def tune(part, scored):
        stager = FineTunedSleepStager(FrozenEstimator(other), trainable=part, **how())
        return fit(stager, scored, scored, target)

    teacher, control, other = plain(theirs, both), plain(theirs), plain(theirs, single)
    few, many = np.split(others, [2])
    no, on_itself = f"{NO_LABEL}, ", X.replace(source=X["target"])
    score(TEACHER, 0, lambda: teacher, both)
    score(CONTROL, 0, lambda: control)
    score("direct", 0, lambda: other)
    score(NO_LABEL, 0, lambda: follow(teacher, own))
    score(f"{no}twice the passes", 0, lambda: follow(teacher, own, passes=2))
    score(f"{no}taught by {CONTROL}", 0, lambda: follow(control, own, of=on_itself))
    score(f"{no}the teacher's stages", 0, follow_stages)
    score(f"{no}teacher of 2, the others", 0, lambda: follow(plain(few, both), many))
    score(f"{CONTROL}, 2 people", 0, lambda: plain(few))
    score(ALL, 0, lambda: follow(teacher, others, theirs))
    for n in settings["scored"]:
        scored, joined = own[:n], [*theirs, *own[:n]]
        score(ALONE, n, partial(plain, scored))
        score(TWICE, n, partial(plain, scored, passes=2))
        score(f"{CONTROL} too", n, partial(plain, joined))
        score(FOLLOWED, n, partial(follow, teacher, scored, scored))
        if n < len(own):
            score(UNSCORED, n, partial(follow, teacher, own, scored))
        score(ALL, n, partial(follow, teacher, others, joined))
        score(OWN, n, lambda: follow(plain(scored, both), joined, scored))  # noqa: B023
        for part in ("all", "first", "head"):
            score(f"fine-tuned: {part}", n, partial(tune, part, scored))
    return {"rows": found}
