import pytest
from sklearn.base import BaseEstimator
from sklearn.pipeline import make_pipeline
from skorch.history import History

from skleepkd.plotting import TrainingCurveDisplay


class Trained(BaseEstimator):
    def __init__(self, **columns):
        self.history = History()
        for values in zip(*columns.values(), strict=True):
            self.history.new_epoch()
            for name, value in zip(columns, values, strict=True):
                self.history.record(name, value)


def curves(panel):
    return {line.get_label(): line.get_xydata().tolist() for line in panel.lines}


def test_training_curves():
    columns = {"train_loss": [3.0, 2.0, 1.0], "valid_loss": [3, 2, 2]}
    ear = Trained(**columns, valid_kappa=[0, 0.4, 0.3])
    stagers = {
        "ear": make_pipeline("passthrough", ear),
        "scalp": Trained(train_loss=[2, 1]),
    }
    display = TrainingCurveDisplay.from_estimators(stagers)
    display.figure_.canvas.draw()
    loss, kappa = display.ax_
    assert kappa.get_title(loc="left") == "Validation kappa"
    assert kappa.get_xlabel() == "Pass over the training epochs"
    assert curves(loss) == {
        "ear, training": [[1, 3], [2, 2], [3, 1]],
        "ear, validation": [[1, 3], [2, 2], [3, 2]],
        "scalp, training": [[1, 2], [2, 1]],
    }
    assert curves(kappa) == {"ear, best 0.40": [[1, 0], [2, 0.4], [3, 0.3]]}
    assert (kappa.lines[0].get_marker(), kappa.lines[0].get_markevery()) == ("o", [1])


def test_training_curve_of_one_stager():
    display = TrainingCurveDisplay.from_estimators({"ear": Trained(train_loss=[1.0])})
    (loss,) = display.ax_
    assert list(curves(loss)) == ["ear, training"]
    with pytest.raises(ValueError, match="no pass was run"):
        TrainingCurveDisplay.from_estimators({"untrained": Trained()})


def test_training_curves_over_steps_mark_no_best_of_the_test():
    """The looks at a test subject of Phan et al.'s Fig. 3."""
    looks = [
        {"step": 10, "train_loss": 1.5, "test_accuracy": 0.6},
        {"step": 20, "train_loss": 1.2, "test_accuracy": 0.5},
    ]
    histories = {"all": looks, "scratch": looks[:1]}
    display = TrainingCurveDisplay(histories=histories, score="test_accuracy").plot()
    display.figure_.canvas.draw()
    loss, accuracy = display.ax_
    assert accuracy.get_title(loc="left") == "Test accuracy"
    assert loss.get_xlabel() == accuracy.get_xlabel() == "Training step"
    assert curves(accuracy) == {"all": [[10, 0.6], [20, 0.5]], "scratch": [[10, 0.6]]}
    assert loss.lines[0].get_xydata().tolist() == [[10, 1.5], [20, 1.2]]
    assert all(line.get_marker() != "o" for line in accuracy.lines)
