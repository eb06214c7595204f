"""What every stager predicts, kept as numbers: a refactoring must not move one.

Each case is a stager and its data, both with a fixed seed, on the CPU with one thread.
Kept are some rows of `predict_proba`, each term of the loss in each pass (of the student
and of its teacher), the held-out subjects and the pass whose weights were kept. Of
skleepkd only public names are used, so that whatever lies inside it can be moved.

    python -m tests.test_golden                  writes golden.json anew
    python -m tests.test_golden exact PATH       writes all of it, unrounded, to an .npz
    python -m tests.test_golden compare A B      compares two such files bit for bit

Write golden.json anew only where numbers are meant to change, and note it in the changelog.
"""

import json
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer
from skorch.callbacks import LRScheduler
from torch import nn

from skleepkd import DistilledSleepStager, FineTunedSleepStager, SleepStager, load, save
from skleepkd.datasets import make_cohort
from skleepkd.distillation import AttentionTransfer, FeatureMSE
from skleepkd.model_selection import cross_validate
from skleepkd.networks import SeqSleepNet
from skleepkd.preprocessing import EpochScaler, LogSpectrogram, PairedTransformer
from skleepkd.recipes import anandakumar2022, joshi2021, phan2019
from tests.tiny import (
    NAMES,
    Stop,
    TinyNetwork,
    TinySequenceNetwork,
    make_pair,
    make_spectra,
)

#: The version of torch that the numbers were written with.
TORCH = "2.14"
GOLDEN = Path(__file__).with_name("golden.json")
N_ROWS = 6  # of the probabilities, in the JSON

# ---------------------------------------------------------------- networks and data


class Golden(TinyNetwork):
    """The tiny network, with dropout."""

    def __init__(self, n_chans, n_times, n_outputs, n_filters=4, dropout=0.1):
        super().__init__(n_chans, n_times, n_outputs, n_filters=n_filters, dropout=dropout)


small = partial(make_pair, every=True, name="s{:02}")
pair_of = partial(small, 4, 20)


def unscored():
    """One subject without any stage, and others with gaps."""
    X, y = pair_of()
    y[::7] = -1
    y[X.subject == "s01"] = -1
    return X, y


def gaps():
    """Nights in which epochs are missing, in another order."""
    X, y = pair_of()
    rows = np.flatnonzero(np.arange(len(X)) % 20 != 8)
    rows = np.random.default_rng(1).permutation(rows)
    return X[rows], y[rows]


def cohort(**options):
    made = make_cohort(2, n_epochs=20, sfreq=32.0, random_state=0, **options)
    return made.X, made.y


DATA = {
    "pair": pair_of,
    "crowd": partial(small, 12, 8),
    "one channel": partial(small, 3, 16, n_chans=1, classes=4),
    "three stages": partial(small, 3, 16, n_chans=1, classes=3),
    "spectra": partial(make_spectra, 4, 12, name="s{:02}"),
    "unscored": unscored,
    "named": lambda: (pair_of()[0], NAMES[pair_of()[1]]),
    "gaps": gaps,
    "cohort": cohort,
    "one derivation": partial(cohort, source=["C4-A1"], target=["ECG"], classes="wldr"),
}

# ---------------------------------------------------------------- stagers

FAST = {"max_epochs": 2, "device": "cpu", "random_state": 0, "classes": "aasm"}
AS_PRETRAINED = {"max_epochs": 2, "device": "cpu", "random_state": 0}
TEACHER = SleepStager(Golden, max_epochs=2, device="cpu", classes="aasm")
WIDE = clone(TEACHER).set_params(module__n_filters=9)
UTIME = {"module__filters": (2, 4, 8), "module__pools": (3, 2)}
SEQSLEEPNET = {
    "module__n_filters": 4,
    "module__hidden_size": 3,
    "module__attention_size": 4,
}
SEQUENCES = {**FAST, "sequence_length": 4, "batch_size": 16}


def log_power(X):
    return np.log(np.asarray(X).var(axis=2))


def tenth(X):
    return X / 10


PLAIN = make_pipeline(FunctionTransformer(log_power), LogisticRegression(max_iter=500))
SCALED = make_pipeline(EpochScaler(), TEACHER)


def supervised(module=Golden, **params):
    return SleepStager(module, **{**FAST, **params})


#: The settings of a student, named, so that other defaults move no number.
FEATURES = {
    "strategy": "offline",
    "feature_loss": "mse",
    "feature_weight": 1.0,
    "alpha": 0.0,
}
FEATURES |= {"output_loss": "softmax", "temperature": 1.0, "start_from_teacher": False}


def student(teacher=TEACHER, module=None, **params):
    return DistilledSleepStager(teacher, module, **{**FAST, **FEATURES, **params})


online = partial(student, strategy="online")
two_step = partial(student, strategy="two-step")


def tuned(pretrained=TEACHER, **params):
    return FineTunedSleepStager(pretrained, **{**AS_PRETRAINED, **params})


def sequence(module=TinySequenceNetwork, **params):
    return SleepStager(module, **{**SEQUENCES, "random_state": None, **params})


def sequence_student(strategy, **params):
    own = {"alpha": 0.5, "strategy": strategy}
    return student(sequence(), **{**SEQUENCES, **own, **params})


def utime(teacher=False, **params):
    return supervised(
        "UTime", **{**UTIME, "random_state": None if teacher else 0, **params}
    )


class Frozen:
    """A student (or a fine-tuned stager) of something that is fitted before."""

    def __init__(self, make, inner, **params):
        self.make, self.inner, self.params = make, inner, params

    def __call__(self, X, y):
        inner = clone(self.inner)
        final(inner).set_params(random_state=3)
        return self.make(FrozenEstimator(inner.fit(X.source_epochs, y)), **self.params)


#: Name of the case: the stager (or what makes it of the data), and the data's name if it
#: is not "pair".
CASES = {
    # Every kind of stager.
    "supervised": supervised(),
    "offline": student(),
    "online": online(),
    "two-step": two_step(alpha=0.5),
    "plain teacher": student(PLAIN, Golden, feature_loss=None, alpha=0.5),
    "transfer": tuned(),
    # What a supervised stager takes.
    "balanced": supervised(class_weight="balanced"),
    "weights by hand": supervised(class_weight={0: 2.0, 3: 0.5}),
    "unscored": (supervised(), "unscored"),
    "named": (supervised(classes=None), "named"),
    "held out": supervised(validation=2, max_epochs=4, lr=0.05),
    "held out of a crowd": (supervised(max_epochs=3, lr=0.05), "crowd"),
    "weight decay and a schedule": supervised(
        optimizer__weight_decay=0.1,
        optimizer__param_groups=[("filters*", {"lr": 0.02})],
        callbacks=[("schedule", LRScheduler("CosineAnnealingLR", T_max=2))],
    ),
    "autocast": supervised(autocast=True),
    "after a scaler": make_pipeline(EpochScaler(), supervised()),
    "UTime": utime(),
    "USleep": supervised("USleep", module__depth=2, module__n_time_filters=2),
    # Terms of distillation.
    "offline, both terms": student(alpha=0.3, temperature=2.0, feature_weight=0.7),
    "offline, balanced": student(class_weight="balanced", alpha=0.3),
    "offline, unscored": (student(alpha=0.5), "unscored"),
    "offline, named": (student(alpha=0.5, classes=None), "named"),
    "offline, held out": student(alpha=0.5, validation=2, max_epochs=4, lr=0.05),
    "offline, crowd": (student(alpha=0.5), "crowd"),
    "offline, standardised features": student(
        feature_loss=FeatureMSE(standardize=True), layers=["filters", "features"]
    ),
    "offline, own loss": student(feature_loss=nn.L1Loss()),
    "offline, logits compared": student(layers=["output"]),
    "offline, attention": student(feature_loss="attention", layers=["filters"], alpha=0.2),
    "offline, attention of UTime": student(utime(True), feature_loss="attention", **UTIME),
    "offline, adapter": student(WIDE, Golden, module__n_filters=3, adapter="linear"),
    "online, adapter": student(
        WIDE, Golden, module__n_filters=3, adapter="linear", strategy="online"
    ),
    "offline, start from teacher": student(start_from_teacher=True, alpha=0.5),
    "offline, teacher in a pipeline": student(SCALED, alpha=0.5),
    "offline, frozen": Frozen(student, TEACHER, alpha=0.5),
    "offline, frozen pipeline": Frozen(student, SCALED, alpha=0.5),
    "offline, student in a pipeline": make_pipeline(
        PairedTransformer(source=FunctionTransformer(tenth), target=EpochScaler()),
        student(alpha=0.5),
    ),
    "offline, taught by a fine-tuned stager": lambda X, y: student(
        FrozenEstimator(Frozen(tuned, TEACHER)(X, y).fit(X, y))
    ),
    "online, both terms": online(alpha=0.3, temperature=2.0, feature_weight=0.7),
    "online, attention": online(feature_loss=AttentionTransfer(), layers=["filters"]),
    "online, balanced": online(class_weight="balanced"),
    "online, unscored": (online(alpha=0.5), "unscored"),
    "online, named": (online(supervised(classes=None), alpha=0.5, classes=None), "named"),
    "online, held out": online(validation=2, max_epochs=4, lr=0.05),
    "online, teacher in a pipeline": online(SCALED, alpha=0.5),
    "two-step, passes of its own": two_step(feature_max_epochs=3, alpha=0.5),
    "two-step, adapter": two_step(WIDE, Golden, adapter="linear", module__n_filters=3),
    "two-step, attention": two_step(feature_loss="attention", layers=["filters"]),
    "two-step, unscored": (two_step(), "unscored"),
    "two-step, held out": two_step(feature_max_epochs=4, validation=2, lr=0.5),
    "two-step, frozen": Frozen(student, TEACHER, strategy="two-step"),
    # Fine-tuning.
    "transfer, the head": tuned(trainable=("head",)),
    "transfer, a pattern": tuned(trainable=["filters*", "head.bias"]),
    "transfer, nothing": tuned(trainable=None),
    "transfer, frozen": Frozen(tuned, TEACHER),
    "transfer, frozen, the head": Frozen(tuned, TEACHER, trainable=("head",)),
    "transfer, frozen, nothing": Frozen(tuned, TEACHER, trainable=None),
    "transfer of a pipeline": tuned(SCALED),
    "transfer of a frozen pipeline": Frozen(tuned, SCALED),
    "transfer in a pipeline": make_pipeline(
        PairedTransformer(target=EpochScaler()), tuned(trainable=("head",))
    ),
    "transfer, balanced, unscored": (tuned(class_weight="balanced"), "unscored"),
    "transfer, named": (tuned(supervised(classes=None)), "named"),
    "transfer, held out": tuned(validation=2, max_epochs=4, lr=0.05),
    # Sequences.
    "sequences": sequence(random_state=0),
    "sequences, mean": (sequence(random_state=0, fusion="mean"), "gaps"),
    "sequences, centre": (sequence(random_state=0, fusion="centre"), "gaps"),
    "sequences, neighbours": (
        sequence(random_state=0, neighbouring_windows=8, class_weight="balanced"),
        "unscored",
    ),
    "sequences, held out": sequence(random_state=0, validation=2, lr=0.05),
    "sequences of UTime": sequence("UTime", random_state=0, **UTIME),
    "sequences of SeqSleepNet": (
        sequence(SeqSleepNet, random_state=0, **SEQSLEEPNET),
        "spectra",
    ),
    "sequences, offline": sequence_student("offline"),
    "sequences, offline, unscored": (sequence_student("offline"), "unscored"),
    "sequences, offline, attention": (
        student(
            sequence("SeqSleepNet", **SEQSLEEPNET),
            feature_loss="attention",
            **SEQUENCES,
            **SEQSLEEPNET,
        ),
        "spectra",
    ),
    "sequences, offline, answers of single epochs": student(
        TEACHER, TinySequenceNetwork, feature_loss=None, alpha=0.5, **SEQUENCES
    ),
    "sequences, online": sequence_student("online"),
    "sequences, online, held out": (
        sequence_student("online", validation=2, lr=0.05, fusion="mean"),
        "gaps",
    ),
    "sequences, two-step": sequence_student("two-step", feature_max_epochs=1),
    "sequences, transfer": tuned(sequence(), trainable=("head", "epoch_encoder")),
    "sequences, transfer, nothing": (tuned(sequence(), trainable=None), "gaps"),
}


def add_recipes():
    """Add each method of each recipe in each variant, at tiny size."""
    once = {"max_epochs": 1, "device": "cpu", "random_state": 0}
    usleep = {"module__depth": 2, "module__n_time_filters": 2, "batch_size": 16}
    for variant in ("paper", "reference"):
        for method in ("scalp", "ear", "transfer", "offline", "online"):
            name = f"anandakumar2022, {method}, {variant}"
            stager = anandakumar2022(method, "USleep", variant, **usleep, **once)
            CASES[name] = stager, "cohort"
        for n_classes, data in ((4, "one channel"), (3, "three stages")):
            for method in ("eeg", "ecg", "sd+cl", "at+cl", "at+sd+cl"):
                params = {"module__filters": [2] * 6, "batch_size": 16, "validation": 1}
                stager = joshi2021(method, n_classes, variant, **params, **once)
                CASES[f"joshi2021, {method}, {n_classes}, {variant}"] = stager, data
        for method in (
            "scratch",
            "direct",
            "softmax",
            "softmax+arnn",
            "softmax+seqrnn",
            "all",
        ):
            params = {"sequence_length": 4, "batch_size": 8, "lr": 0.01, "validation": 1}
            params["callbacks__best_weights__every"] = 2
            stager = phan2019(method, None, variant, **params, **SEQSLEEPNET, **once)
            CASES[f"phan2019, {method}, {variant}"] = stager, "spectra"
    transformer = partial(anandakumar2022, network="EpochCrossModalTransformer", **once)
    CASES["anandakumar2022, transformer, online"] = transformer("online")
    ecg = joshi2021("at+sd+cl", 4, module__filters=[2] * 6, batch_size=16, **once)
    CASES["joshi2021 of a cohort"] = ecg, "one derivation"
    small = {"sequence_length": 4, "classes": "wldr", **SEQSLEEPNET, **once}
    spectra = make_pipeline(LogSpectrogram(), phan2019("scratch", **small))
    CASES["phan2019 of a cohort"] = spectra, "one derivation"
    params = {"batch_size": 8, "lr": 0.01, "max_epochs": 1, "device": "cpu"}
    of_frozen = partial(phan2019, "softmax+seqrnn", random_state=0, **params)
    pretrained = SleepStager("SeqSleepNet", **{**SEQUENCES, **SEQSLEEPNET})
    CASES["phan2019 of a frozen stager"] = (
        lambda X, y: of_frozen(clone(pretrained).fit(X.source_epochs, y)),
        "spectra",
    )


add_recipes()

# ---------------------------------------------------------------- what takes more steps


def gone_on(stager):
    X, y = pair_of()
    return describe(clone(stager).fit(X, y).partial_fit(X[:60], y[:60]), X)


def resumed(stager):
    """A training that was stopped in its second pass, and called again."""
    X, y = pair_of()
    with tempfile.TemporaryDirectory() as folder:
        stager = clone(stager).set_params(
            checkpoint=folder, max_epochs=3, validation=1, callbacks=[Stop()]
        )
        Stop.after = 1
        try:
            clone(stager).fit(X, y)
        except KeyboardInterrupt:
            pass
        else:
            raise AssertionError("the training was not stopped")
        finally:
            Stop.after = None
        return describe(stager.fit(X, y), X)


def remembered(stager):
    """The second of two students that share a folder."""
    X, y = pair_of()
    with tempfile.TemporaryDirectory() as folder:
        first = clone(stager).set_params(memory=folder, alpha=0.0)
        first.fit(X, y)
        return describe(clone(stager).set_params(memory=folder).fit(X, y), X)


def by_hand():
    """Source and groups beside the target."""
    X, y = pair_of()
    net = student(alpha=0.5, validation=1)
    net.fit(X["target"], y, X_source=X["source"], groups=X.subject)
    return describe(net, X)


def dense(stager, resolution):
    X, y = pair_of()
    net = clone(stager).fit(X, y)
    probabilities, onset = net.hypnodensity(X[:20], resolution, return_onset=True)
    return {**describe(net, X), "hypnodensity": probabilities, "onset": onset}


def features():
    X, y = pair_of()
    nets = {"epochs": student(), "windows": sequence_student("offline")}
    return {name: net.fit(X, y).extract_features(X) for name, net in nets.items()}


def kept(stager):
    """Saved and loaded again."""
    X, y = pair_of()
    with tempfile.TemporaryDirectory() as folder:
        save(clone(stager).fit(X, y), Path(folder) / "stager.safetensors")
        module = TinySequenceNetwork if stager.sequence_length > 1 else Golden
        again = load(Path(folder) / "stager.safetensors", module=module)
    return {"probabilities": again.predict_proba(X)}


def folds():
    X, y = pair_of()
    with tempfile.TemporaryDirectory() as folder:
        given = {"groups": X.subject, "cv": GroupKFold(2), "memory": folder}
        found = cross_validate(student(alpha=0.5), X, y, scoring="neg_log_loss", **given)
    return {"test_score": found["test_score"]}


#: Name of the case: what returns its numbers.
STEPS = {
    "partial_fit": partial(gone_on, supervised()),
    "partial_fit of sequences": partial(gone_on, sequence(random_state=0)),
    "partial_fit, offline": partial(gone_on, student(alpha=0.5)),
    "partial_fit, two-step": partial(gone_on, two_step()),
    "partial_fit, transfer": partial(gone_on, tuned(trainable=("head",))),
    "resumed": partial(resumed, supervised()),
    "resumed, offline": partial(resumed, student(alpha=0.5)),
    "resumed, online": partial(resumed, online(alpha=0.5)),
    "resumed, two-step": partial(resumed, two_step()),
    "resumed, transfer": partial(resumed, tuned()),
    "remembered, offline": partial(remembered, student(alpha=0.5)),
    "remembered, two-step": partial(remembered, two_step(alpha=0.5)),
    "source and groups apart": by_hand,
    "hypnodensity, 1 s": partial(dense, utime(), 1.0),
    "hypnodensity, 20 s": partial(dense, utime(), 20.0),
    "hypnodensity of sequences": partial(
        dense, sequence("UTime", random_state=0, **UTIME), 3.0
    ),
    "features": features,
    "kept": partial(kept, student(alpha=0.5)),
    "kept, sequences": partial(kept, sequence(random_state=0)),
    "folds": folds,
}

# ---------------------------------------------------------------- numbers


def final(estimator):
    """The stager at a pipeline's end, frozen or not; whatever else, as it is."""
    while True:
        if isinstance(estimator, Pipeline):
            estimator = estimator[-1]
        elif isinstance(estimator, FrozenEstimator):
            estimator = estimator.estimator
        else:
            return estimator


def losses(stager, prefix=""):
    """Every number of the history but times and counts, of the teacher's too."""
    found = {}
    for number, row in enumerate(stager.history):
        for key, value in row.items():
            terms = key.startswith(("train_", "valid_")) and not key.endswith(
                ("_best", "_batch_count")
            )
            if terms:
                column = found.setdefault(prefix + key, [])
                column += [np.nan] * (number - len(column)) + [float(value)]
    return found


def describe(fitted, X):
    """Return all numbers of a fitted stager, by name."""
    stager = final(fitted)
    found = {"probabilities": fitted.predict_proba(X), **losses(stager)}
    for name in ("teacher_", "pretrained_"):
        inner = getattr(stager, name, None)
        if inner is not None and hasattr(final(inner), "history"):
            found |= losses(final(inner), name)
        if inner is not None:
            found[f"{name}probabilities"] = inner.predict_proba(X.source_epochs)
    found["classes"] = stager.classes_
    found["held_out"] = stager.held_out_
    best = stager.best_epoch_
    found["best_epoch"] = -1 if best is None else best
    return found


def numbers(name):
    """Return the numbers of a case, by name, as arrays."""
    torch.set_num_threads(1)
    if name in STEPS:
        found = STEPS[name]()
    else:
        stager, data = CASES[name] if type(CASES[name]) is tuple else (CASES[name], "pair")
        X, y = DATA[data]()
        stager = clone(stager) if hasattr(stager, "fit") else stager(X, y)
        found = describe(stager.fit(X, y), X)
    return {key: np.asarray(value) for key, value in found.items()}


def shown(values):
    """Some rows of the probabilities, and all else, as the JSON has it."""
    if values.ndim > 1 or len(np.atleast_1d(values)) > 50:
        rows = np.linspace(0, len(values) - 1, N_ROWS).astype(int)
        values = values[rows]
    if values.dtype.kind == "f":
        values = np.round(values.astype(float), 6)
    return values


# ---------------------------------------------------------------- the test


@pytest.fixture(scope="module")
def golden():
    return json.loads(GOLDEN.read_text())


@pytest.mark.parametrize("name", [*CASES, *STEPS])
def test_no_number_has_moved(golden, name):
    if not torch.__version__.startswith(f"{TORCH}."):
        pytest.skip(
            f"the numbers are those of torch {TORCH}; other versions train otherwise"
        )
    found, expected = numbers(name), golden[name]
    atol = 1e-2 if name == "autocast" else 1e-4  # processors differ in bfloat16
    assert found.keys() == expected.keys()
    for key, values in found.items():
        values, wanted = shown(values), np.asarray(expected[key])
        if values.dtype.kind == "f":
            wanted = wanted.astype(float)  # a gap in a history is null
            np.testing.assert_allclose(values, wanted, rtol=0, atol=atol, err_msg=key)
        else:
            assert values.tolist() == wanted.tolist(), key


def test_no_case_is_forgotten(golden):
    assert golden.keys() == {*CASES, *STEPS}


# ---------------------------------------------------------------- the command


def write(path=GOLDEN):
    lines = []
    for name in [*CASES, *STEPS]:
        found = {key: shown(values).tolist() for key, values in numbers(name).items()}
        text = json.dumps(found).replace("NaN", "null")
        lines.append(f"{json.dumps(name)}: {text}")
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def write_exactly(path):
    np.savez_compressed(
        path,
        **{
            f"{name.replace('/', '|')} :: {key}": values
            for name in [*CASES, *STEPS]
            for key, values in numbers(name).items()
        },
    )


def compare(first, second):
    """Print what differs, and return whether anything does."""
    with np.load(first) as a, np.load(second) as b:
        differ = sorted(set(a.files) ^ set(b.files))
        for key in sorted(set(a.files) & set(b.files)):
            one, other = a[key], b[key]
            floats = one.dtype.kind == "f"
            if one.dtype != other.dtype or not np.array_equal(one, other, equal_nan=floats):
                differ.append(key)
        print("\n".join(differ) or f"All {len(a.files)} arrays are equal, bit for bit.")
    return bool(differ)


def main(arguments):
    match arguments:
        case []:
            write()
        case ["exact", path]:
            write_exactly(path)
        case ["compare", first, second]:
            return compare(first, second)
        case _:
            print(__doc__)
            return 2
    return 0


if __name__ == "__main__":
    # Under its own name, so that networks and functions are found again.
    from tests import test_golden

    sys.exit(test_golden.main(sys.argv[1:]))
