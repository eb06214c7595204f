import numpy as np
import pytest

from skleepkd.plotting import EmbeddingDisplay


@pytest.fixture
def features():
    rng = np.random.default_rng(0)
    near, far = rng.normal(size=(2, 40, 3, 20))
    return {"Scalp": near, "Ear": far + 4, "Distilled": near + 0.01}


def test_near_features_are_near(features):
    display = EmbeddingDisplay.from_features(features, np.arange(40) % 5)
    display.figure_.canvas.draw()
    scalp, ear, distilled = display.embedding.values()
    span = np.ptp(np.vstack([scalp, ear, distilled]), axis=0).max()
    to_ear = np.linalg.norm(scalp[:, None] - ear, axis=2).min()
    assert np.linalg.norm(scalp - distilled, axis=1).max() < 0.1 * span < to_ear
    (panel,) = display.ax_
    legend = [text.get_text() for text in panel.get_legend().get_texts()]
    assert legend == ["Scalp", "Ear", "Distilled"]
    assert len({tuple(points.get_facecolor()[0]) for points in panel.collections}) == 3


def test_panels_by_stage(features):
    places = {name: np.arange(10.0).reshape(5, 2) for name in features}
    display = EmbeddingDisplay(embedding=places, y=[0, 0, 1, -1, 2]).plot(color_by="stage")
    display.figure_.canvas.draw()
    assert [panel.get_title() for panel in display.ax_] == list(features)
    n_points = [len(points.get_offsets()) for points in display.ax_[0].collections]
    assert n_points == [2, 1, 1, 0, 0]  # the unscored epoch has no colour
    with pytest.raises(ValueError, match="color_by is .*given 'subject'"):
        display.plot(color_by="subject")
    with pytest.raises(ValueError, match="with y"):
        EmbeddingDisplay(embedding=places).plot(color_by="stage")


def test_a_seed_draws_the_same_epochs(features):
    y = np.arange(40)  # labels that show which epochs were drawn
    options = {"classes": [str(i) for i in y], "max_epochs": 12}
    first, again, other = (
        EmbeddingDisplay.from_features(features, y, random_state=seed, **options)
        for seed in (0, 0, 1)
    )
    assert len(np.unique(first.y)) == 12
    np.testing.assert_array_equal(first.y, again.y)
    np.testing.assert_array_equal(first.embedding["Ear"], again.embedding["Ear"])
    assert not np.array_equal(first.y, other.y)


def test_features_of_one_shape_are_needed(features):
    features["Ear"] = features["Ear"][:, :2]
    message = r"one shape from every network.*'Ear': \(40, 2, 20\)"
    with pytest.raises(ValueError, match=message):
        EmbeddingDisplay.from_features(features)
