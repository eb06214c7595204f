"""The stagers of ``methods.py``, one line each, and the fits of its three parts."""

from functools import lru_cache
from pathlib import Path
from time import perf_counter

import numpy as np
import tables
from braindecode.augmentation import AugmentedDataLoader, ChannelsDropout, FTSurrogate
from real_nights_runs import draw_people
from real_nights_ucddb import SFREQ, WHOLE, pair_of, student_signal
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from study import SomeBatches, terms, training

from skleepkd import DistilledSleepStager, FineTunedSleepStager, PairedEpochs, SleepStager
from skleepkd.datasets import make_cohort
from skleepkd.distillation import Fade, MeanTeacher, TeacherEnsemble, WarmUp
from skleepkd.preprocessing import RecordingScaler, SourceSelector
from skleepkd.stages import is_unscored

ALONE, TWICE, SCALP = "alone", "alone, twice the passes", "PSG (the ceiling)"
SCALED_SCALP = "PSG, recordings scaled"
DEFAULTS = "the defaults"
AVERAGE, SMOOTHED = "alone, own moving average", "alone, label smoothing"
#: Not distilled: whoever distils must beat them.
CONTROLS = [TWICE, AVERAGE, SMOOTHED]
_START = ", teacher's weights"
#: Without unscored epochs these are the stager alone.
UNSCORED_ONLY = ["mean teacher"]
#: What asks for a raw signal, or for more than one frozen teacher's people.
SIGNALS_ONLY = ["alone, augmented", "alone, recordings scaled", "two steps, attention"]
SIGNALS_ONLY += [f"softmax{_START}, {what}" for what in ("augmented", "recordings scaled")]
SIGNALS_ONLY += [f"features{_START}, recordings scaled", SCALED_SCALP, "an assistant"]


class Augmented(SomeBatches, AugmentedDataLoader):
    """A pass of a fixed number of augmented batches."""


class OwnAverage(DistilledSleepStager):
    """A stager alone that predicts with its own moving average, for a control."""

    def fit(self, X, y):
        """Fit to the scored epochs, as a stager alone is."""
        scored = ~is_unscored(y)
        return super().fit(X[scored], y[scored])


def make_methods(settings, seed, network="LogPowerNet", memory=None):
    """Make every method's unfitted estimator, by name; ``memory`` keeps fitted teachers."""
    n_rows = settings.get("batch_size", 32)

    def of(passes=1.0):
        """Give the parameters of a training of so many times the passes."""
        n_passes = round(passes * settings["passes"])
        common = training(n_passes, settings["lr"], n_rows, settings["steps"])
        return common | {"iterator_valid__batch_size": 16 * n_rows, "verbose": 0}

    def plain(passes=1.0, **how):
        return SleepStager(network, **of(passes) | how)

    def taught(teacher="one", kind=DistilledSleepStager, passes=1.0, **how):
        # A teacher without a random_state takes the student's: one serves all of a fold.
        teacher = plain() if teacher == "one" else teacher
        named = {"alpha": 0.0, "temperature": None, "start_from_teacher": False}
        how = named | {"memory": memory, "random_state": seed} | how
        return kind(teacher, network, **of(passes) | how)

    def scaled(*steps):
        return make_pipeline(RecordingScaler(), *steps)

    drawn = {"random_state": seed}
    mse, softmax = terms(settings)
    both, start, half = softmax | mse, {"start_from_teacher": True}, {"alpha": 0.5}
    first, as_they_are = softmax | start, {"feature_loss": "mse", "feature_weight": 1.0}
    halves = {"passes": 0.5, "strategy": "two-step"}
    attention = {"feature_loss": "attention", "layers": ["seconds"]}
    unheated, decay = {"temperature": None}, settings.get("decay", 0.99)
    own_average = MeanTeacher(decay, weight=0.0, predicts="average")
    average = {"strategy": MeanTeacher(decay, weight=WarmUp(10.0)), "feature_loss": None}
    augment = {
        "iterator_train": Augmented,
        "iterator_train__transforms": [
            FTSurrogate(0.5, phase_noise_magnitude=0.5, random_state=seed),
            ChannelsDropout(0.5, random_state=seed),
        ],
    }
    more = [plain(random_state=seed + 1000 * k) for k in range(3)]
    by_confidence = TeacherEnsemble(more, weighting="confidence")
    faded = {"feature_weight": Fade(settings["feature_weight"])}
    methods = {
        ALONE: plain(**drawn),
        SCALP: make_pipeline(SourceSelector(), plain(**drawn)),
        SCALED_SCALP: scaled(SourceSelector(), plain(**drawn)),
        TWICE: plain(2, **drawn),
        AVERAGE: taught(None, OwnAverage, strategy=own_average, feature_loss=None),
        SMOOTHED: plain(criterion__label_smoothing=0.1, **drawn),
        "alone, augmented": plain(**drawn, **augment),
        "alone, balanced batches": plain(balanced_batches=True, **drawn),
        "alone, recordings scaled": scaled(plain(**drawn)),
        DEFAULTS: DistilledSleepStager(plain(), network, memory=memory, **drawn, **of()),
        "transfer": FineTunedSleepStager(plain(), memory=memory, **drawn, **of()),
        "features, not standardised": as_they_are,
        "features": mse,
        f"features{_START}": mse | start,
        f"features that fade{_START}": mse | start | faded,
        "softmax": softmax,
        "softmax, half of the loss": softmax | half,
        f"softmax{_START}": first,
        f"softmax, half of the loss{_START}": first | half,
        f"softmax, half of the loss, temperature 1{_START}": first | half | unheated,
        f"softmax that fades{_START}": first | {"alpha": Fade(softmax["alpha"])},
        "softmax and features": both,
        f"softmax and features{_START}": both | start,
        "online": as_they_are | {"strategy": "online"},
        "two steps, features": both | halves,
        "two steps, attention": softmax | attention | halves,
        f"DKD{_START}": first | {"output_loss": "dkd"},
        f"DIST{_START}": first | {"output_loss": "dist"},
        f"softmax and relational{_START}": first | {"feature_loss": "relational"},
        f"softmax and contrastive{_START}": first | {"feature_loss": "contrastive"},
        "mean teacher": average | {"teacher": None},
        f"softmax and mean teacher{_START}": first | average,
        "softmax, two teachers": softmax | {"teacher": more[:2]},
        "softmax, three teachers by confidence": softmax | {"teacher": by_confidence},
        "an assistant": softmax | {"teacher": taught(**softmax)},
        f"softmax{_START}, augmented": first | augment,
        f"softmax{_START}, balanced batches": first | {"balanced_batches": True},
        f"features{_START}, recordings scaled": scaled(taught(**mse, **start)),
        f"softmax{_START}, recordings scaled": scaled(taught(**first)),
    }
    return {
        name: taught(**method) if isinstance(method, dict) else method
        for name, method in methods.items()
    }


def judge(stager, X, y, y_train, train, test):
    """Fit to training rows, and score each person of the test rows."""
    began = perf_counter()
    stager = clone(stager).fit(X[train], y_train[train])
    seconds = perf_counter() - began
    return {"rows": tables.judge(stager, X[test], y[test], fit_seconds=seconds)}


# ---------------------------------------------------------------- simulated people


@lru_cache(1)
def cohort_of(people, epochs, noise, seed):
    """Simulate people; a process keeps the last ones."""
    return make_cohort(people, n_epochs=epochs, noise=noise, random_state=seed)


def folds_of(cohort, n_folds, few):
    """Split by person; return folds, and the stages to train with.

    With ``few`` one person of each fold is scored, so that each training has as many scored
    people as there are other folds.
    """
    folds = list(GroupKFold(n_folds).split(cohort.X, cohort.y, cohort.groups))
    scored = [np.unique(cohort.groups[test])[0] for _, test in folds]
    rows = np.isin(cohort.groups, scored) | (not few)
    return folds, np.where(rows, cohort.y, -1)


def run_simulated(stager, people, epochs, cohort_seed, n_folds, fold, noise, few):
    """Fit and judge a stager on a fold of a simulated cohort."""
    cohort = cohort_of(people, epochs, noise, cohort_seed)
    folds, y_train = folds_of(cohort, n_folds, few)
    return judge(stager, cohort.X, cohort.y, y_train, *folds[fold])


def run_calibration(stager, people, epochs, cohort_seed, n_folds, fold, noise, held_out):
    """Calibrate a student; return probabilities with its temperature and without."""
    cohort = cohort_of(people, epochs, noise, cohort_seed)
    folds, y_train = folds_of(cohort, n_folds, few=False)
    train, test = folds[fold]
    stager = clone(stager).set_params(calibrate=True, validation=held_out)
    stager.fit(cohort.X[train], y_train[train])
    found = {"calibrated": stager.predict_proba(cohort.X[test])}
    stager.calibration_ = 1.0
    found["as trained"] = stager.predict_proba(cohort.X[test])
    return found | {"y": cohort.y[test], "subject": cohort.groups[test]}


# ---------------------------------------------------------------- real people


def frozen(stager, fit):
    """Clone a student, and freeze its teachers, which ``fit`` fits."""
    stager = clone(stager)
    name = "pretrained" if isinstance(stager, FineTunedSleepStager) else "teacher"
    teacher = getattr(stager, name, None)
    if teacher is None:
        return stager
    if isinstance(teacher, TeacherEnsemble):
        frozen_ones = [FrozenEstimator(fit(one)) for one in teacher.teachers]
        return stager.set_params(**{name: clone(teacher).set_params(teachers=frozen_ones)})
    several = isinstance(teacher, list)
    found = [FrozenEstimator(fit(one)) for one in (teacher if several else [teacher])]
    return stager.set_params(**{name: found if several else found[0]})


def run_real(stager, X, y, person, seed, few):
    """Fit and judge a stager on a person of Sleep-EDF.

    With ``few`` five others are scored in their Fpz-Cz alone, which teaches, and four others
    wore both, one of them scored; else all nine others are scored.
    """
    test = X.subject == person
    if not few:
        return judge(stager, X, y, y, ~test, test)
    theirs, own = draw_people(X.subject, person, seed)
    of_teacher, of_own = (np.isin(X.subject, people) for people in (theirs, own))
    if isinstance(stager, Pipeline):
        return judge(stager, X, y, y, of_teacher, test)
    source = X.source_epochs

    def fit(teacher):
        teacher = clone(teacher)
        if teacher.random_state is None:
            teacher.set_params(random_state=seed)
        return teacher.fit(source[of_teacher], y[of_teacher])

    y_train = np.where(X.subject == own[0], y, -1)
    return judge(frozen(stager, fit), X, y, y_train, of_own, test)


@lru_cache(1)
def ucddb_pairs(folder):
    """Read UCDDB: what a simulated electrode would record, beside the EEG itself."""
    parts, stages = [], []
    for path in sorted(Path(folder).glob("ucddb*.npz")):
        signal, epoch, y = student_signal(path, scaled=False, worn=False)
        worn, _, _ = student_signal(path, scaled=False, worn=True)
        source = signal[:, None].astype(np.float32)
        parts.append(pair_of(worn.astype(np.float32), epoch, path.stem[-3:], SFREQ, source))
        stages.append(y)
    return PairedEpochs.concatenate(parts), np.concatenate(stages)


def run_ucddb(stager, folder, person):
    """Train on one scored night and others' unscored epochs; test on the other night."""
    X, y = ucddb_pairs(folder)
    test = X.subject == person
    y_train = np.where(np.isin(X.subject, WHOLE), y, -1)
    return judge(stager, X, y, y_train, ~test, test)
