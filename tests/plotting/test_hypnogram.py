import matplotlib.pyplot as plt
import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.dummy import DummyClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skleepkd import PairedEpochs, SleepStager
from skleepkd.plotting import HypnogramDisplay
from tests.tiny import FAST, NAMES, noise

draw = HypnogramDisplay.from_predictions
draw_stager = HypnogramDisplay.from_estimator


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
    names = stages(panel)
    return [None if np.isnan(v) else names[int(v)] for v in values], edges * 3600


def stages(panel):
    return [label.get_text() for label in panel.get_yticklabels()]


def areas_of(panel):
    """Height of each area by label, one value a step, and the steps' edges in seconds."""
    heights = {patch.get_label(): patch.get_data() for patch in panel.patches}
    tops = np.array([data.values for data in heights.values()])
    below = np.vstack([tops[1:], np.zeros_like(tops[:1])])
    edges = next(iter(heights.values())).edges * 3600
    return dict(zip(heights, tops - below, strict=True)), edges


def legend_of(panel):
    return [text.get_text() for text in panel.get_legend().get_texts()]


# ---------------------------------------------------------------- stages


def test_both_nights_are_drawn_in_clinical_order():
    predicted = ["W", "N2", "N2", "N3", "REM"]
    display = draw([0, 1, 2, 3, 4], predicted, onset=600 + 30 * np.arange(5))
    display.figure_.canvas.draw()
    truth, prediction = display.ax_
    names, edges = drawn(truth)
    assert names == NAMES.tolist()
    np.testing.assert_allclose(edges, 600 + 30 * np.arange(6))
    assert drawn(prediction)[0] == predicted
    places = [truth.transData.transform((0, place))[1] for place in truth.get_yticks()]
    in_order = [stages(truth)[k] for k in np.argsort(places)[::-1]]
    assert in_order == ["W", "REM", "N1", "N2", "N3"]
    # 4 of 5 agree; chance agreement is (1 + 0 + 1 * 2 + 1 + 1) / 25 = 0.2.
    assert prediction.get_title(loc="left") == "Prediction (kappa 0.75)"
    assert prediction.get_xlabel() == "Time (h)"


def test_rem_is_drawn_as_bars():
    display = draw([0, 4, 4, 2], [0, 4, 2, 2])
    for panel, expected in zip(display.ax_, ([0, 1, 1, 0], [0, 1, 0, 0]), strict=True):
        line, bars = panel.patches
        np.testing.assert_array_equal(np.isfinite(bars.get_data()[0]), expected)
        assert bars.get_linewidth() > line.get_linewidth()


def test_unscored_and_missing_epochs_break_the_line():
    onset = np.array([0, 30, 60, 120, 150])  # nothing at 90 s
    truth, prediction = draw([0, -1, 2, 2, 3], [0, 1, 2, 2, 3], onset=onset).ax_
    assert drawn(truth)[0] == ["W", None, "N2", None, "N2", "N3"]
    names, edges = drawn(prediction)
    assert names == ["W", "N1", "N2", None, "N2", "N3"]
    np.testing.assert_allclose(edges, [0, 30, 60, 90, 120, 150, 180])


def test_rows_in_any_order_draw_one_night():
    rows, y = np.array([3, 0, 2, 1]), np.array([0, 1, 2, 4])
    display = draw(y[rows], y[rows], onset=30.0 * rows)
    assert drawn(display.ax_[0])[0] == ["W", "N1", "N2", "REM"]


def test_windows_around_20_s_epochs_draw_their_middle():
    # Epochs of 20 s from 100 s on, one of them missing; each window begins 5 s earlier.
    onset = np.array([100, 120, 140, 180, 200]) - 5
    display = draw([0, 1, 2, 3, 4], [0, 1, 2, 2, 4], onset=onset, probabilities=np.eye(5))
    display.figure_.canvas.draw()
    names, edges = drawn(display.ax_[0])
    assert names == ["W", "N1", "N2", None, "N3", "REM"]
    np.testing.assert_allclose(edges, [100, 120, 140, 160, 180, 200, 220])
    areas, area_edges = areas_of(display.ax_[2])
    np.testing.assert_allclose(area_edges, edges)
    np.testing.assert_array_equal(sum(areas.values()), [1, 1, 1, np.nan, 1, 1])
    np.testing.assert_array_equal(areas["N3"], [0, 0, 0, np.nan, 1, 0])
    (panel,) = draw(None, [0, 1, 2], onset=[0, 20, 60]).ax_
    assert drawn(panel)[0] == ["W", "N1", None, "N2"]


@pytest.mark.parametrize(
    "onset",
    [
        np.repeat(30.0 * np.arange(10), 2),  # two nights
        np.sort(np.r_[30.0 * np.arange(10), 10 + 30.0 * np.arange(10)]),
        np.sort(np.r_[20.0 * np.arange(10), 5 + 20.0 * np.arange(10)]),
        np.r_[30.0 * np.arange(10), 280 + 30.0 * np.arange(10)],
        np.arange(10.0),  # numbers of epochs, not seconds
        np.array([0, 30, 0]),
    ],
)
def test_epochs_that_overlap_in_other_ways_are_an_error(onset):
    with pytest.raises(ValueError, match="overlap at these onsets"):
        draw(None, np.zeros(len(onset), int), onset=onset)


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        ("wldr", ["W", "R", "L", "D"]),
        ("wnr", ["W", "R", "N"]),
        (["wake", "sleep"], ["wake", "sleep"]),
        (["N1", "N2", "N3", "REM", "W"], ["W", "REM", "N1", "N2", "N3"]),
    ],
)
def test_other_schemes(classes, expected):
    labels = classes[:2] if isinstance(classes, list) else [0, 1]
    display = draw(labels, labels[::-1], classes=classes)
    display.figure_.canvas.draw()
    assert stages(display.ax_[0]) == expected


class Light(DummyClassifier):
    """A stager of a scheme of its own: light sleep is not N1."""

    classes = "wldr"


@pytest.mark.parametrize("labels", [[0, 1, 2, 3], ["W", "L", "D", "R"]])
def test_the_stagers_own_scheme_is_drawn(labels):
    X, y = np.zeros((8, 1)), np.tile(labels, 2)
    stager = (Light() if labels[0] == 0 else DummyClassifier()).fit(X, y)
    for estimator in (stager, make_pipeline(FunctionTransformer(), stager)):
        display = draw_stager(estimator, X, y)
        assert stages(display.ax_[0]) == ["W", "R", "L", "D"]


def test_from_estimator_reads_onsets_and_columns():
    X = night([0, 1, 2], recording="n1", onset=[90.0, 120.0, 150.0])
    estimator = Reader(classes=("N2", "REM", "W"))  # lacks N1 and N3
    display = draw_stager(estimator, X, ["N2", "REM", "?"])
    display.figure_.canvas.draw()
    assert drawn(display.ax_[0])[0] == ["N2", "REM", None]
    names, edges = drawn(display.ax_[1])
    assert names == ["N2", "REM", "W"]
    np.testing.assert_allclose(edges, [90, 120, 150, 180])
    np.testing.assert_array_equal(
        display.probabilities, np.eye(5)[[1, 3, 4]]
    )  # N1, N2, N3, REM, W
    assert legend_of(display.ax_[2]) == ["W", "REM", "N1", "N2", "N3"]


def test_without_truth_and_inside_other_axes():
    figure, axes = plt.subplots(1, 2)
    display = draw_stager(Reader(), night([0, 1]), ax=axes[1])
    assert display.figure_ is figure
    assert len(display.ax_) == 2
    assert display.plot().figure_ is not figure


# ---------------------------------------------------------------- probabilities


def test_each_probability_is_drawn_at_its_time():
    probabilities = np.random.default_rng(0).dirichlet(np.ones(5), size=6)
    onset = np.array([0, 20, 40, 300, 320, 340])[[2, 0, 1, 5, 4, 3]]
    given = {"probabilities": probabilities, "resolution": 20, "proba_onset": onset}
    display = draw(["W", "?", "REM"], onset=[0.0, 30.0, 300.0], **given)
    display.figure_.canvas.draw()
    truth, panel = display.ax_
    areas, edges = areas_of(panel)
    assert list(areas) == legend_of(panel) == ["W", "REM", "N1", "N2", "N3"]
    np.testing.assert_allclose(edges, [0, 20, 40, 60, 300, 320, 340, 360])
    in_time = np.insert(probabilities[[1, 2, 0, 5, 4, 3]], 3, np.nan, axis=0)  # 60 to 300 s
    for column, label in enumerate(sorted(NAMES)):
        np.testing.assert_allclose(areas[label], in_time[:, column], atol=1e-12)
    names, edges = drawn(truth)
    assert names == ["W", None, None, "REM"]
    np.testing.assert_allclose(edges, [0, 30, 60, 300, 330])
    np.testing.assert_allclose(np.array(panel.get_xlim()) * 3600, [0, 360])


@pytest.fixture(scope="module")
def utime():
    options = {"module__filters": (2, 4, 8), "module__pools": (3, 2), **FAST}
    return SleepStager("UTime", **options).fit(*noise(2, 60, sfreq=2.0))


def of_noise(n_epochs=4, **columns):
    signal = noise(2, 60, sfreq=2.0)[0]["target"][:n_epochs]
    return PairedEpochs(signal, sfreq=2.0, **{"recording": "n1", **columns})


@pytest.mark.parametrize(
    ("resolution", "n_predictions"), [(1.0, 120), (20.0, 6), (30.0, 4)]
)
def test_resolution_of_an_estimator(utime, resolution, n_predictions):
    X = of_noise(onset=600 + 30.0 * np.arange(4))
    display = draw_stager(utime, X, [0, 1, 2, 4], resolution=resolution)
    display.figure_.canvas.draw()
    assert len(display.ax_) == 3  # scored, predicted, and the probabilities
    panel = display.ax_[-1]
    areas, edges = areas_of(panel)
    np.testing.assert_allclose(edges, 600 + resolution * np.arange(n_predictions + 1))
    expected = utime.hypnodensity(X, resolution)[:, 4]
    np.testing.assert_allclose(areas["REM"], expected, atol=1e-6)
    title = f"Predicted probability every {resolution:g} s"
    assert panel.get_title(loc="left") == title
    assert display.plot().figure_ is not None


def test_without_scores_and_with_other_classes():
    X, y = noise(2, 60, sfreq=2.0)
    options = {"module__filters": (2, 4), "module__pools": (3,), **FAST}
    stager = SleepStager("UTime", **options).fit(X, np.array(["R", "W", "L"])[y % 3])
    night = X["target"][:8]
    piped = make_pipeline("passthrough", stager)
    display = draw_stager(piped, night, resolution=1, classes="wldr")
    areas, edges = areas_of(display.ax_[-1])
    assert list(areas) == ["W", "R", "L", "D"]
    np.testing.assert_array_equal(areas["D"], 0)  # the stager does not predict it
    assert stager.classes_.tolist() == ["L", "R", "W"]
    expected = stager.hypnodensity(night, 1.0)[:, 0]
    np.testing.assert_allclose(areas["L"], expected, atol=1e-6)
    np.testing.assert_allclose(edges, np.arange(241))


def test_one_recording_and_no_time_twice(utime):
    two = of_noise(recording=["n1", "n1", "n2", "n2"])
    for options in ({}, {"resolution": 1}):
        with pytest.raises(ValueError, match=r"X holds \['n1', 'n2'\]"):
            draw_stager(utime, two, **options)
    overlapping = of_noise(onset=20.0 * np.arange(4))
    with pytest.raises(ValueError, match="Steps of 1 s overlap.*resolution of 30 s"):
        draw_stager(utime, overlapping, resolution=1)
    for panel in draw_stager(utime, overlapping, [0, 1, 2, 3], resolution=30).ax_:
        edges = panel.patches[0].get_data().edges * 3600
        np.testing.assert_allclose(edges, 5 + 20 * np.arange(5))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"y_true": [0, 1], "y_pred": [0, 1, 2]}, "inconsistent numbers"),
        ({"y_true": [0, 1], "y_pred": [0, 9]}, r"y_pred holds \[9\]"),
        ({"probabilities": np.ones((2, 4))}, r"shape \(2, 4\); a column for each"),
        ({"probabilities": np.ones((0, 5))}, "no epochs to draw"),
        ({"y_true": [0, 1, 2], "probabilities": np.ones((2, 5))}, "inconsistent numbers"),
    ],
)
def test_what_cannot_be_drawn(given, message):
    with pytest.raises(ValueError, match=message):
        draw(**given)
