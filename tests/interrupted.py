"""Cross-validations that are killed, each in a process of its own.

``python -m tests.interrupted FOLDER`` prints JSON: the scores of a run that was never
stopped, and of each run that was what it fitted, how it ended and what it answered.
"""

import hashlib
import json
import os
import signal
import sys
from pathlib import Path

import torch
from sklearn.metrics import cohen_kappa_score, make_scorer
from sklearn.model_selection import LeaveOneGroupOut
from sklearn.model_selection import cross_validate as plain_cross_validate
from skorch.callbacks import Callback

from skleepkd import SleepStager
from skleepkd.model_selection import cross_validate
from tests.tiny import TinyNetwork, make_pair

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


class Told(Callback):
    """Tell of a training's events, and of the writing of its results."""

    def on_train_begin(self, net, X=None, **kwargs):
        self.told_ = True
        happens("begin", "+".join(sorted(set(X.subject))))

    def on_epoch_end(self, net, **kwargs):
        happens("pass")

    def __getstate__(self):
        if hasattr(self, "told_"):  # pickled with the results, after other parts of them
            happens("write")
        return self.__dict__


def told_kappa(y_true, y_pred):
    happens("score")
    return cohen_kappa_score(y_true, y_pred)


def run(folder):
    """Cross-validate, and return what does not depend on the clock."""
    X, y = make_pair()
    stager = SleepStager(
        TinyNetwork, max_epochs=2, random_state=0, device="cpu", callbacks=[Told()]
    )
    given = {
        "groups": X.subject,
        "cv": LeaveOneGroupOut(),
        "scoring": make_scorer(told_kappa),
        "return_estimator": True,
    }
    if folder is None:
        scores = plain_cross_validate(stager, X, y, **given)
    else:
        scores = cross_validate(stager, X, y, memory=folder, **given)
    weights = [weights_digest(net) for net in scores["estimator"]]
    return {"kappa": scores["test_score"].tolist(), "weights": weights}


def weights_digest(net):
    """Digest all weights of a network, bit by bit."""
    digest = hashlib.sha256()
    for value in net.module_.state_dict().values():
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()


def in_child(folder, kill):
    """Run in a process that is killed, and return its fits, its end and its answer."""
    global log, plan
    log, answer = folder / "log", folder / "answer"
    log.unlink(missing_ok=True)
    child = os.fork()
    if not child:
        plan = kill
        answer.write_text(json.dumps(run(folder / "kept")))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    lines = log.read_text().splitlines() if log.exists() else []
    return {
        "killed": os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL,
        "fits": [line.split()[1] for line in lines if line.startswith("begin")],
        "kept": len(list((folder / "kept").rglob("output.pkl"))),
        "parts": len(list((folder / "kept").rglob("output.pkl.*"))),
        "answer": json.loads(answer.read_text()) if answer.exists() else None,
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    expected = run(None)
    runs = [in_child(Path(sys.argv[1]), kill) for kill in [*KILLS, None, None]]
    print(json.dumps({"expected": expected, "runs": runs}))
