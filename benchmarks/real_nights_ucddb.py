"""The part of ``real_nights.py`` on two whole nights of UCDDB.

Ready-made teachers stage the two nights; students of a raw signal, ``LogPowerNet``, are
trained on one of them and tested on the other: from labels, or from what GSSC predicts,
without a label. The signal is as it was recorded, or scaled by night, or as the simulated
electrodes between the ears would record it.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import tables
from scipy.signal import resample_poly
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.frozen import FrozenEstimator
from study import tasks_of, training

from skleepkd import DistilledSleepStager, PairedEpochs, SleepStager
from skleepkd.datasets import wear_electrode
from skleepkd.metrics import staging_report
from skleepkd.teachers import GsscStager, YasaStager

WHOLE = "018", "022"
SFREQ = 64
#: R&K's codes of the files as AASM codes: wake, REM, stages 1 to 4.
_CODES = np.array([0, 4, 1, 2, 3, 3])
_FROM_LABELS, _WITH_OTHERS = "labels", "labels, other people's epochs too"
_FROM_TEACHER = "GSSC, no label"
_SIGNALS = {
    "raw": (False, False),
    "scaled by night": (True, False),
    "simulated electrode": (False, True),
    "simulated electrode, scaled": (True, True),
}


class Known(ClassifierMixin, BaseEstimator):
    """A teacher whose predictions are its source: computed once, for all students."""

    classes_ = np.arange(5)

    def fit(self, X, y=None):
        """Do nothing."""
        return self

    def __sklearn_is_fitted__(self):
        return True

    def predict_proba(self, X):
        """Return what it is given, (n_epochs, 1, 1, 5)."""
        return np.asarray(X)[:, 0, 0]


def read_night(path):
    """Read a night's epochs in microvolts, their numbers and stages."""
    with np.load(path) as file:
        signal = 100 * float(file["step"]) * file["signal"].astype(float)
        epoch, sfreq = file["epoch"], float(file["sfreq"])
        scores = file["scores"][epoch]
    known = (scores >= 0) & (scores < len(_CODES))
    y = np.where(known, _CODES[np.where(known, scores, 0)], -1)
    return signal, epoch, y, sfreq


def pair_of(signal, epoch, name, sfreq, source=None):
    """Name the rows of a night's only channel, (n_epochs, n_times)."""
    about = {"subject": name, "recording": name, "onset": 30.0 * epoch, "sfreq": sfreq}
    return PairedEpochs(signal[:, None], source=source, **about)


def ask_teachers(path):
    """Stage a night by the ready-made stagers; probabilities of each."""
    signal, epoch, _, sfreq = read_night(path)
    X = pair_of(signal.astype(np.float32), epoch, path.stem, sfreq)
    stagers = {"YASA": YasaStager(), "GSSC": GsscStager()}
    found = {name: stager.predict_proba(X) for name, stager in stagers.items()}
    return {"probabilities": found}


def student_signal(path, scaled, worn):
    """Give a night as the student sees it: one channel at 64 Hz, and the stages."""
    signal, epoch, y, sfreq = read_night(path)
    signal = resample_poly(signal, SFREQ, round(sfreq), axis=1).astype(np.float32)
    if worn:
        signal = wear_electrode(signal, y, SFREQ, random_state=int(path.stem[-3:]))
    if scaled:  # to the size of a usual EEG
        signal *= 20 / np.median(signal.std(axis=1))
    return signal, epoch, y


def run_student(folder, way, signal, test, seed, answers, passes):
    """Train a student on one night, and test it on the other."""
    (train,) = (number for number in WHOLE if number != test)
    scaled, worn = _SIGNALS[signal]
    numbers = [train]
    if way == _WITH_OTHERS:
        files = sorted(folder.glob("ucddb*.npz"))
        numbers += [file.stem[-3:] for file in files if file.stem[-3:] not in WHOLE]
    nights = [student_signal(folder / f"ucddb{n}.npz", scaled, worn) for n in numbers]
    how = training(passes, lr=0.003, steps=25) | {"random_state": seed}
    X = PairedEpochs.concatenate(
        [pair_of(x, e, n, SFREQ) for (x, e, _), n in zip(nights, numbers, strict=True)]
    )
    if way == _FROM_TEACHER:
        X = X.replace(source=answers[train][:, None, None].astype(np.float32))
        stager = DistilledSleepStager(
            FrozenEstimator(Known()), "LogPowerNet", alpha=1, feature_loss=None, **how
        ).fit(X)
    else:
        y = np.concatenate([y for _, _, y in nights])
        stager = SleepStager("LogPowerNet", **how).fit(X, y)
    x, epoch, y = student_signal(folder / f"ucddb{test}.npz", scaled, worn)
    predicted = stager.predict(pair_of(x, epoch, test, SFREQ))
    return {"kappa": staging_report(y, predicted).pooled["kappa"]}


def two_nights(study, folder):
    """Train and test all students; return the table of the page, and rows."""
    folder = Path(folder) / "ucddb"
    settings, rows = study.options.settings, []
    files = {number: folder / f"ucddb{number}.npz" for number in WHOLE}
    asked = study.run(ask_teachers, {n: {"path": path} for n, path in files.items()})
    answers = {number: of["probabilities"] for number, of in asked.items()}
    for name in ("YASA", "GSSC"):
        for number, path in files.items():
            predicted = answers[number][name].argmax(axis=1)
            kappa = staging_report(read_night(path)[2], predicted).pooled["kappa"]
            rows.append(
                {"method": name, "scored": "raw", "subject": number, "kappa": kappa}
            )
    ways = _FROM_LABELS, _WITH_OTHERS, _FROM_TEACHER
    tasks = tasks_of(way=ways, signal=_SIGNALS, test=WHOLE, seed=settings["seeds"])
    shared = {"folder": folder, "passes": settings["night_passes"]}
    shared["answers"] = {number: of["GSSC"] for number, of in answers.items()}
    for (way, signal, test, _), fit in study.run(run_student, tasks, **shared).items():
        about = {"method": f"student: {way}", "scored": signal, "subject": test}
        rows.append(about | fit)
    names = ["method", "scored", "subject"]
    kappas = pd.DataFrame(rows).groupby(names, sort=False)["kappa"].agg(list)
    lines = {}
    for (method, signal, number), of in kappas.items():
        line = lines.setdefault((method, signal), {"stager": method, "signal": signal})
        span = f" ({min(of):.3f} to {max(of):.3f})" * method.startswith("student")
        line[f"kappa on {number}"] = f"{np.mean(of):.3f}{span}"
    means = kappas.map(np.mean).reset_index().to_dict("records")
    return tables.markdown_table(list(lines.values())), [
        {"run": "ucddb"} | m for m in means
    ]
