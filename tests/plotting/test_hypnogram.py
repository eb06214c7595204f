import matplotlib as mpl
import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.dummy import DummyClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from skorch.history import History

from skleepkd import PairedEpochs
from skleepkd.plotting import EmbeddingDisplay, HypnogramDisplay, TrainingCurveDisplay


@pytest.fixture(autouse=True)
def draw_without_a_screen():
    import matplotlib.pyplot as plt

    with mpl.rc_context():
        plt.switch_backend("agg")
        yield
        plt.close("all")


class Reader(ClassifierMixin, BaseEstimator):
    """Takes an epoch's first sample for its stage."""

    def __init__(self, classes=(0, 1, 2, 3, 4)):
        self.classes = classes
        self.classes_ = np.array(classes)

    def fit(self, X, y=None):
        return self

    def predict(self, X):
        return self.classes_[np.asarray(X)[:, 0, 0].astype(int)]

    def predict_proba(self, X):
        return np.eye(len(self.classes_))[np.asarray(X)[:, 0, 0].astype(int)]


def night(codes, **columns):
    codes = np.asarray(codes, dtype=np.float32)
    return PairedEpochs(codes[:, None, None] * np.ones((1, 1, 4), np.float32), **columns)


def drawn(panel):
    """Stage names along a panel's hypnogram line, None where it is broken, and edges."""
    values, edges, _ = panel.patches[0].get_data()
    names = [label.get_text() for label in panel.get_yticklabels()]
    return [None if np.isnan(v) else names[int(v)] for v in values], edges * 3600


def assert_draws(display):
    display.figure_.canvas.draw()
    for panel in display.ax_:
        assert panel.figure is display.figure_


def test_hypnogram_draws_both_nights_in_clinical_order():
    display = HypnogramDisplay.from_predictions(
        [0, 1, 2, 3, 4], ["W", "N2", "N2", "N3", "REM"], onset=600 + 30 * np.arange(5)
    )
    assert_draws(display)
    truth, prediction = display.ax_
    names, edges = drawn(truth)
    assert names == ["W", "N1", "N2", "N3", "REM"]
    np.testing.assert_allclose(edges, 600 + 30 * np.arange(6))
    assert drawn(prediction)[0] == ["W", "N2", "N2", "N3", "REM"]
    heights = {
        label.get_text(): truth.transData.transform((0, position))[1]
        for label, position in zip(truth.get_yticklabels(), truth.get_yticks(), strict=True)
    }
    assert sorted(heights, key=heights.get, reverse=True) == ["W", "REM", "N1", "N2", "N3"]
    # 4 of 5 agree; chance agreement is (1 + 0 + 1 * 2 + 1 + 1) / 25 = 0.2.
    assert prediction.get_title(loc="left") == "Prediction (kappa 0.75)"
    assert display.ax_[-1].get_xlabel() == "Time (h)"


def test_rem_is_drawn_as_bars():
    display = HypnogramDisplay.from_predictions([0, 4, 4, 2], [0, 4, 2, 2])
    for panel, expected in zip(display.ax_, ([0, 1, 1, 0], [0, 1, 0, 0]), strict=True):
        line, bars = panel.patches
        np.testing.assert_array_equal(np.isfinite(bars.get_data()[0]), expected)
        assert bars.get_linewidth() > line.get_linewidth()


def test_unscored_and_missing_epochs_break_the_line():
    onset = np.array([0, 30, 60, 120, 150])  # nothing at 90 s
    display = HypnogramDisplay.from_predictions(
        [0, -1, 2, 2, 3], [0, 1, 2, 2, 3], onset=onset
    )
    truth, prediction = display.ax_
    assert drawn(truth)[0] == ["W", None, "N2", None, "N2", "N3"]
    names, edges = drawn(prediction)
    assert names == ["W", "N1", "N2", None, "N2", "N3"]
    np.testing.assert_allclose(edges, [0, 30, 60, 90, 120, 150, 180])


def test_rows_in_any_order_draw_one_night():
    rows = np.array([3, 0, 2, 1])
    y = np.array([0, 1, 2, 4])
    display = HypnogramDisplay.from_predictions(y[rows], y[rows], onset=30.0 * rows)
    assert drawn(display.ax_[0])[0] == ["W", "N1", "N2", "REM"]


def test_windows_around_20_s_epochs_draw_their_middle():
    # Epochs of 20 s from 100 s on, one of them missing; each window begins 5 s earlier.
    epochs = np.array([100, 120, 140, 180, 200])
    display = HypnogramDisplay.from_predictions(
        [0, 1, 2, 3, 4], [0, 1, 2, 2, 4], onset=epochs - 5, probabilities=np.eye(5)
    )
    assert_draws(display)
    names, edges = drawn(display.ax_[0])
    assert names == ["W", "N1", "N2", None, "N3", "REM"]
    np.testing.assert_allclose(edges, [100, 120, 140, 160, 180, 200, 220])
    areas = display.ax_[2].patches
    np.testing.assert_allclose(areas[0].get_data().edges * 3600, edges)
    # The top of all areas is 1, and the lowest is N3 alone.
    np.testing.assert_array_equal(areas[0].get_data().values, [1, 1, 1, np.nan, 1, 1])
    np.testing.assert_array_equal(areas[-1].get_data().values, [0, 0, 0, np.nan, 1, 0])
    assert drawn(
        HypnogramDisplay.from_predictions(None, [0, 1, 2], onset=[0, 20, 60]).ax_[0]
    )[0] == ["W", "N1", None, "N2"]


@pytest.mark.parametrize(
    "onset",
    [
        np.repeat(30.0 * np.arange(10), 2),  # two nights
        np.sort(np.r_[30.0 * np.arange(10), 10 + 30.0 * np.arange(10)]),
        np.sort(np.r_[20.0 * np.arange(10), 5 + 20.0 * np.arange(10)]),
        np.r_[30.0 * np.arange(10), 280 + 30.0 * np.arange(10)],
        np.arange(10.0),  # numbers of epochs, not seconds
    ],
)
def test_epochs_that_overlap_in_other_ways_are_an_error(onset):
    with pytest.raises(ValueError, match="overlap at these onsets"):
        HypnogramDisplay.from_predictions(None, np.zeros(len(onset), int), onset=onset)


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        ("wldr", ["W", "R", "L", "D"]),
        ("wnr", ["W", "R", "N"]),
        (["wake", "sleep"], ["wake", "sleep"]),
        (["N1", "N2", "N3", "REM", "W"], ["W", "REM", "N1", "N2", "N3"]),
    ],
)
def test_hypnogram_of_other_schemes(classes, expected):
    display = HypnogramDisplay.from_predictions([0, 1], [1, 0], classes=classes)
    assert_draws(display)
    labels = display.ax_[0].get_yticklabels()
    assert [label.get_text() for label in labels] == expected


def test_hypnogram_from_estimator_reads_onsets_and_columns():
    X = night([0, 1, 2], recording="n1", onset=[90.0, 120.0, 150.0])
    estimator = Reader(classes=("N2", "REM", "W"))  # lacks N1 and N3
    display = HypnogramDisplay.from_estimator(estimator, X, ["N2", "REM", "?"])
    assert_draws(display)
    assert drawn(display.ax_[0])[0] == ["N2", "REM", None]
    names, edges = drawn(display.ax_[1])
    assert names == ["N2", "REM", "W"]
    np.testing.assert_allclose(edges, [90, 120, 150, 180])
    np.testing.assert_array_equal(display.probabilities, np.eye(5)[[2, 4, 0]])
    legend = display.ax_[2].get_legend().get_texts()
    assert [text.get_text() for text in legend] == ["W", "REM", "N1", "N2", "N3"]


def test_hypnogram_without_truth_and_inside_other_axes():
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2)
    display = HypnogramDisplay.from_estimator(Reader(), night([0, 1]), ax=axes[1])
    assert display.figure_ is figure
    assert len(display.ax_) == 2
    assert display.plot().figure_ is not figure


def test_hypnogram_shows_one_recording():
    X = night([0, 1, 2, 2], recording=["n1", "n1", "n2", "n2"])
    with pytest.raises(ValueError, match=r"X holds \['n1', 'n2'\]"):
        HypnogramDisplay.from_estimator(Reader(), X)
    with pytest.raises(ValueError, match="overlap"):
        HypnogramDisplay.from_predictions(None, [0, 1, 2], onset=[0, 30, 0])
    with pytest.raises(ValueError, match="inconsistent numbers"):
        HypnogramDisplay.from_predictions([0, 1], [0, 1, 2])
    with pytest.raises(ValueError, match=r"y_pred holds \[9\]"):
        HypnogramDisplay.from_predictions([0, 1], [0, 9])


@pytest.fixture
def features():
    rng = np.random.default_rng(0)
    near, far = rng.normal(size=(2, 40, 3, 20))
    return {"Scalp": near, "Ear": far + 4, "Distilled": near + 0.01}


def test_embedding_keeps_near_features_near(features):
    display = EmbeddingDisplay.from_features(features, np.arange(40) % 5)
    assert_draws(display)
    scalp, ear, distilled = display.embedding.values()
    span = np.ptp(np.vstack([scalp, ear, distilled]), axis=0).max()
    to_ear = np.linalg.norm(scalp[:, None] - ear, axis=2).min()
    assert np.linalg.norm(scalp - distilled, axis=1).max() < 0.1 * span < to_ear
    legend = display.ax_[0].get_legend().get_texts()
    assert [text.get_text() for text in legend] == ["Scalp", "Ear", "Distilled"]
    colors = {tuple(points.get_facecolor()[0]) for points in display.ax_[0].collections}
    assert len(colors) == 3


def test_embedding_panels_by_stage(features):
    places = {name: np.arange(10.0).reshape(5, 2) for name in features}
    display = EmbeddingDisplay(embedding=places, y=[0, 0, 1, -1, 2]).plot(color_by="stage")
    assert_draws(display)
    assert [panel.get_title() for panel in display.ax_] == list(features)
    n_points = [len(points.get_offsets()) for points in display.ax_[0].collections]
    assert n_points == [2, 1, 1, 0, 0]  # the unscored epoch has no colour
    with pytest.raises(ValueError, match="color_by is .*given 'subject'"):
        display.plot(color_by="subject")
    with pytest.raises(ValueError, match="with y"):
        EmbeddingDisplay(embedding=places).plot(color_by="stage")


def test_embedding_draws_the_same_seeded_epochs(features):
    y = np.arange(40)  # labels that show which epochs were drawn
    labels = [str(i) for i in y]
    displays = [
        EmbeddingDisplay.from_features(
            features, y, classes=labels, max_epochs=12, random_state=seed
        )
        for seed in (0, 0, 1)
    ]
    assert len(np.unique(displays[0].y)) == 12
    np.testing.assert_array_equal(displays[0].y, displays[1].y)
    np.testing.assert_array_equal(
        displays[0].embedding["Ear"], displays[1].embedding["Ear"]
    )
    assert not np.array_equal(displays[0].y, displays[2].y)


def test_embedding_needs_features_of_one_shape(features):
    features["Ear"] = features["Ear"][:, :2]
    with pytest.raises(
        ValueError, match=r"one shape from every network.*'Ear': \(40, 2, 20\)"
    ):
        EmbeddingDisplay.from_features(features)


class Trained(BaseEstimator):
    def __init__(self, **columns):
        self.history = History()
        for values in zip(*columns.values(), strict=True):
            self.history.new_epoch()
            for name, value in zip(columns, values, strict=True):
                self.history.record(name, value)


def test_training_curves():
    ear = Trained(
        train_loss=[3.0, 2.0, 1.0], valid_loss=[3, 2, 2], valid_kappa=[0, 0.4, 0.3]
    )
    display = TrainingCurveDisplay.from_estimators(
        {"ear": make_pipeline("passthrough", ear), "scalp": Trained(train_loss=[2.0, 1.0])}
    )
    assert_draws(display)
    loss, kappa = display.ax_
    assert kappa.get_title(loc="left") == "Validation kappa"
    assert kappa.get_xlabel() == "Pass over the training epochs"
    curves = {line.get_label(): line.get_xydata().tolist() for line in loss.lines}
    assert curves == {
        "ear, training": [[1, 3], [2, 2], [3, 1]],
        "ear, validation": [[1, 3], [2, 2], [3, 2]],
        "scalp, training": [[1, 2], [2, 1]],
    }
    (curve,) = kappa.lines
    assert curve.get_xydata().tolist() == [[1, 0], [2, 0.4], [3, 0.3]]
    assert curve.get_label() == "ear, best 0.40"
    assert (curve.get_marker(), curve.get_markevery()) == ("o", [1])


def test_training_curve_of_one_stager():
    display = TrainingCurveDisplay.from_estimators({"ear": Trained(train_loss=[1.0])})
    assert_draws(display)
    (loss,) = display.ax_
    assert loss.lines[0].get_label() == "ear, training"
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
    assert_draws(display)
    loss, accuracy = display.ax_
    assert accuracy.get_title(loc="left") == "Test accuracy"
    assert loss.get_xlabel() == accuracy.get_xlabel() == "Training step"
    curves = {line.get_label(): line.get_xydata().tolist() for line in accuracy.lines}
    assert curves == {"all": [[10, 0.6], [20, 0.5]], "scratch": [[10, 0.6]]}
    assert loss.lines[0].get_xydata().tolist() == [[10, 1.5], [20, 1.2]]
    assert all(line.get_marker() != "o" for line in accuracy.lines)


def test_the_stagers_own_scheme_is_drawn():
    """Light sleep is not N1."""

    class Stager(DummyClassifier):
        classes = "wldr"

    X, y = np.zeros((8, 1)), np.arange(8) % 4
    stager = Stager().fit(X, y)
    for estimator in (stager, make_pipeline(FunctionTransformer(), stager)):
        display = HypnogramDisplay.from_estimator(estimator, X, y)
        names = [label.get_text() for label in display.ax_[0].get_yticklabels()]
        assert names == ["W", "R", "L", "D"]


def test_names_in_alphabetical_order_are_drawn_in_the_order_of_sleep():
    X, y = np.zeros((8, 1)), np.tile(["W", "L", "D", "R"], 2)
    stager = DummyClassifier().fit(X, y)
    assert stager.classes_.tolist() == ["D", "L", "R", "W"]
    display = HypnogramDisplay.from_estimator(stager, X, y)
    names = [label.get_text() for label in display.ax_[0].get_yticklabels()]
    assert names == ["W", "R", "L", "D"]
