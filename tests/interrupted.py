"""Cross-validations and trainings that are killed, each in a process of its own.

`killed_folds` and `killed_fits` return the result of runs that were never stopped, and of
each run that was what it did, how it ended and what it returned.
"""

import hashlib
import json
import os
import signal
from functools import partial
from pathlib import Path

from sklearn.base import clone
from sklearn.metrics import cohen_kappa_score, make_scorer
from sklearn.model_selection import LeaveOneGroupOut
from sklearn.model_selection import cross_validate as plain_cross_validate
from skorch.callbacks import Callback, LRScheduler

from skleepkd import DistilledSleepStager, FineTunedSleepStager, SleepStager
from skleepkd.estimators.callbacks import StepwiseValidation
from skleepkd.model_selection import cross_validate
from tests.tiny import FAST, TinyNetwork, TinySequenceNetwork, make_pair

#: The event of a run at which it is killed, and how many of them it lives to see. The
#: second fold of a run is there to show that the first was kept.
KILLS = [("begin", 1), ("pass", 3), ("score", 2), ("write", 2), ("begin", 2)]

log, plan, seen = None, None, 0


def happens(event, what=""):
    """Write an event down, and be killed if this is the one."""
    global seen
    if log is None:
        return
    with Path(log).open("a") as file:
        file.write(f"{event} {what}\n")
    if plan is not None and plan[0] == event:
        seen += 1
        if seen == plan[1]:
            os.kill(os.getpid(), signal.SIGKILL)


class EventLog(Callback):
    """Log a training's events, and the writing of its results."""

    def on_train_begin(self, net, X=None, **kwargs):
        self.begun_ = True
        happens("begin", "+".join(sorted(set(X.subject))))

    def on_batch_end(self, net, training=False, **kwargs):
        if training:
            happens("batch")

    def on_epoch_end(self, net, **kwargs):
        happens("pass", f"{type(net).__name__}-{len(net.history)}")

    def __getstate__(self):
        if hasattr(self, "begun_"):  # pickled with the results, after other parts of them
            happens("write")
        return self.__dict__


# ---------------------------------------------------------------- folds


def logged_kappa(y_true, y_pred):
    happens("score")
    return cohen_kappa_score(y_true, y_pred)


def folds(memory=None):
    """Cross-validate, and return what does not depend on the clock."""
    X, y = make_pair()
    options = {**FAST, "max_epochs": 2, "callbacks": [EventLog()]}
    stager = SleepStager(TinyNetwork, **options)
    given = {"groups": X.subject, "cv": LeaveOneGroupOut(), "return_estimator": True}
    given["scoring"] = make_scorer(logged_kappa)
    if memory is None:
        scores = plain_cross_validate(stager, X, y, **given)
    else:
        scores = cross_validate(stager, X, y, memory=memory, **given)
    weights = [weights_digest(net) for net in scores["estimator"]]
    return {"kappa": scores["test_score"].tolist(), "weights": weights}


def weights_digest(net):
    """Digest all weights of a network, bit by bit."""
    data = b"".join(value.numpy().tobytes() for value in net.module_.state_dict().values())
    return hashlib.sha256(data).hexdigest()


# ---------------------------------------------------------------- fits


def stagers():
    """One of each kind, whose state is more than weights."""
    schedule = LRScheduler("StepLR", step_size=1, gamma=0.5, last_epoch=-1)
    callbacks = [("events", EventLog()), ("schedule", schedule)]
    common = {**FAST, "max_epochs": 3, "validation": 2, "callbacks": callbacks}
    dropped = {"module__dropout": 0.2}
    teacher = SleepStager(TinyNetwork, **{**common, **dropped, "random_state": None})
    teacher.set_params(max_epochs=2)
    steps = StepwiseValidation(every=2, patience=2, min_steps=5)
    two_steps = {"strategy": "two-step", "alpha": 0.5, "feature_max_epochs": 2}
    windows = {"sequence_length": 4, "neighbouring_windows": 2}
    return {
        "supervised": SleepStager(TinyNetwork, **dropped, **common),
        "offline": DistilledSleepStager(teacher, alpha=0.5, **common),
        "online": DistilledSleepStager(teacher, strategy="online", **common),
        "two-step": DistilledSleepStager(teacher, **two_steps, **common),
        "fine-tuned": FineTunedSleepStager(teacher, trainable="head", **common),
        "sequence": SleepStager(
            TinySequenceNetwork, callbacks__best_weights=steps, **windows, **common
        ),
    }


def fit(stager, checkpoint=None):
    """Fit, and return what does not depend on the clock."""
    X, y = make_pair()
    net = clone(stager).set_params(checkpoint=checkpoint).fit(X, y)
    history = [
        {name: value for name, value in row.items() if name not in ("dur", "batches")}
        for row in net.history
    ]
    return {"weights": weights_digest(net), "history": history, "best": net.best_epoch_}


# ---------------------------------------------------------------- lives


def life(run, folder, kill):
    """Run in a process that is killed, and return its events, its end and its result."""
    global log, plan
    log, result = folder / "log", folder / "result"
    log.unlink(missing_ok=True)
    child = os.fork()
    if not child:
        plan = kill
        fsync = os.fsync
        os.fsync = lambda file: (fsync(file), happens("write"))
        result.write_text(json.dumps(run(folder / "kept")))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    lines = log.read_text().splitlines() if log.exists() else []
    log = None
    events = {"begin": [], "pass": []}
    for line in lines:
        event, what = line.split(" ")
        events.setdefault(event, []).append(what)
    return {
        "killed": os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL,
        "fits": events["begin"],
        "passes": events["pass"],
        "kept": len(list((folder / "kept").rglob("output.pkl"))),
        "parts": len(list((folder / "kept").rglob("output.pkl.*"))),
        "result": json.loads(result.read_text()) if result.exists() else None,
    }


def killed_folds(folder):
    """Kill a cross-validation five times, then let it be."""
    return {
        "expected": folds(),
        "runs": [life(folds, folder, kill) for kill in [*KILLS, None, None]],
    }


def killed_fits(folder):
    """Kill each training in the middle of each pass, and once while it writes."""
    found = {}
    for name, stager in stagers().items():
        place = folder / name
        place.mkdir()
        fit(stager, place / "warm")  # imports what a fit needs, once for all lives
        whole = life(lambda _, stager=stager: fit(stager), place, None)
        (place / "result").unlink(missing_ok=True)
        run = partial(fit, stager)
        # A pass is of three batches (online the teacher's count too), so that a life ends
        # in the middle of its second pass.
        kill = ("batch", 9 if name == "online" else 5)
        runs = [life(run, place, ("write", 1))]
        while runs[-1]["killed"] and len(runs) < 12:
            runs.append(life(run, place, kill))
        runs.append(life(run, place, None))
        found[name] = {"whole": whole, "runs": runs}
    return found
