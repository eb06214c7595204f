import numpy as np
import pytest
import torch
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import make_pipeline

from skleepkd import DistilledSleepStager, FineTunedSleepStager, PairedEpochs, SleepStager
from skleepkd.networks.build import find_network, segment
from skleepkd.plotting import HypnogramDisplay
from tests.tiny import TinyNetwork, make_pair

SFREQ = 2.0  # hertz, so that 30 s are 60 samples


def fitted(name="UTime", **parameters):
    """Fit for one pass on two channels; U-Sleep with two levels, U-Time with two."""
    options = {
        "UTime": {"module__filters": (2, 4, 8), "module__pools": (3, 2)},
        "USleep": {"module__depth": 2, "module__n_time_filters": 2},
    }[name]
    X, y = make_pair(n_subjects=2, n_epochs=8)
    stager = SleepStager(
        name, **options, max_epochs=1, random_state=0, device="cpu", **parameters
    )
    return stager.fit(X, y)


@pytest.fixture(scope="module")
def utime():
    return fitted()


@pytest.fixture(scope="module")
def usleep():
    return fitted("USleep")


def night(n_epochs, seed=1, onset=None, recording="n1"):
    rng = np.random.default_rng(seed)
    signal = 20 * rng.standard_normal((n_epochs, 2, 60)).astype(np.float32)
    onset = 30.0 * np.arange(n_epochs) if onset is None else onset
    return PairedEpochs(signal, recording=recording, onset=onset, sfreq=SFREQ)


def segment_written_out(stager, signal, step):
    """Probabilities of one long signal (channels, times), by the network itself."""
    with torch.no_grad():
        logits = segment(stager.module_, torch.from_numpy(signal)[None], step)[0]
    return logits.softmax(dim=0).T.numpy()


def joined(X, rows):
    return np.concatenate(list(X["target"][rows]), axis=1)


# ---------------------------------------------------------------- the networks


def test_u_sleep_of_a_step_is_its_layers_with_another_mean(usleep):
    network = usleep.module_
    x = torch.randn(3, 2, 150)  # two epochs and a half
    with torch.no_grad():
        residuals, z = [], x
        for block in network.encoder_blocks:
            z, residual = block(z)
            residuals.append(residual)
        z = network.bottom(z)
        for block in network.decoder_blocks:
            z = block(z, residuals.pop())
        z = network.clf[1](network.clf[0](z))  # (3, filters, 150)
        for step in (1, 2, 40, 60, 100):
            n = 150 // step
            # (3, filters, times) -> (3, filters, n, step)
            means = z[..., : n * step].unflatten(2, (n, step)).mean(dim=3)
            expected = network.final_layer(means)
            output = segment(network, x, step)
            assert output.shape == (3, 5, n)
            torch.testing.assert_close(output, expected)
        # Nothing of it stays: an epoch is predicted as before.
        assert network(x[..., :60]).shape == (3, 5)
        torch.testing.assert_close(
            segment(network, x[..., :60], 60)[..., 0], network(x[..., :60])
        )


def test_a_network_of_ones_own_and_a_compiled_one():
    class Segmenting(torch.nn.Module):
        def segment(self, x, step):
            return x[..., ::step]

    own = Segmenting()
    assert segment(own, torch.zeros(2, 3, 60), 20).shape == (2, 3, 3)
    compiled = torch.nn.Module()
    compiled._orig_mod = own
    assert segment(compiled, torch.zeros(2, 3, 60), 20).shape == (2, 3, 3)


def test_networks_that_know_whole_epochs_alone():
    X, y = make_pair(n_subjects=2, n_epochs=4)
    stager = SleepStager(TinyNetwork, max_epochs=1, device="cpu").fit(X, y)
    with pytest.raises(ValueError, match="TinyNetwork predicts whole epochs alone. UTime"):
        stager.hypnodensity(X, 1.0)
    np.testing.assert_array_equal(stager.hypnodensity(X), stager.predict_proba(X))

    class USleep(torch.nn.Module):  # of that name, and not braindecode's
        pass

    with pytest.raises(ValueError, match="USleep predicts whole epochs alone"):
        segment(USleep(), torch.zeros(1, 1, 60), 2)


# ---------------------------------------------------------------- each epoch by itself


@pytest.mark.parametrize("name", ["utime", "usleep"])
def test_30_s_is_predict_proba(name, request):
    stager = request.getfixturevalue(name)
    X = night(40)
    expected = stager.predict_proba(X)
    proba, onset = stager.hypnodensity(X, return_onset=True)
    np.testing.assert_allclose(proba, expected, atol=1e-6)
    np.testing.assert_array_equal(onset, X.onset)
    # and the network's own output, in steps of an epoch
    with torch.no_grad():
        logits = segment(stager.module_, torch.from_numpy(X["target"]), 60)
    np.testing.assert_allclose(logits[..., 0].softmax(dim=1), expected, atol=1e-6)


@pytest.mark.parametrize("name", ["utime", "usleep"])
@pytest.mark.parametrize("resolution", [0.5, 1, 2, 5, 10, 15])
def test_divisors_of_30_s_predict_each_row_in_order(name, resolution, request):
    stager = request.getfixturevalue(name)
    X = night(5)[[3, 0, 4]]
    proba, onset = stager.hypnodensity(X, resolution, return_onset=True)
    n = int(30 / resolution)
    assert proba.shape == (3 * n, 5)
    for row in range(3):
        expected = segment_written_out(stager, X["target"][row], int(resolution * SFREQ))
        np.testing.assert_allclose(proba[row * n : (row + 1) * n], expected, atol=1e-6)
    np.testing.assert_allclose(
        onset, np.concatenate([start + resolution * np.arange(n) for start in (90, 0, 120)])
    )
    # arrays need no recording; their rate is that of 30 s epochs
    np.testing.assert_array_equal(stager.hypnodensity(X["target"], resolution), proba)


def test_u_time_seconds_average_to_its_epochs_before_the_softmax(utime):
    X = night(6)
    every_second = utime.hypnodensity(X, 1.0).reshape(6, 30, 5).astype(np.float64)
    assert every_second.std(axis=1).max() > 1e-3
    # A softmax of mean logarithms is the softmax of mean logits: what each second's
    # logarithms lack, their normalisation, is the same for all classes.
    means = np.exp(np.log(every_second).mean(axis=1))
    expected = means / means.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(expected, utime.predict_proba(X), atol=1e-6)


def test_batches_do_not_matter(utime):
    X = night(11)
    one = fitted(batch_size=3).set_params(batch_size=64)
    expected = {r: one.hypnodensity(X, r) for r in (1, 20)}
    one.set_params(batch_size=4)
    for resolution, proba in expected.items():
        np.testing.assert_allclose(one.hypnodensity(X, resolution), proba, atol=1e-6)


def test_own_nonlinearity_is_applied_to_each_output():
    stager = fitted(predict_nonlinearity=lambda logits: logits.sigmoid().softmax(dim=-1))
    proba = stager.hypnodensity(night(3), 10)
    np.testing.assert_allclose(proba.sum(axis=1), 1, atol=1e-6)
    assert proba.max() / proba.min() < np.e


# ---------------------------------------------------------------- joined epochs


@pytest.mark.parametrize("name", ["utime", "usleep"])
@pytest.mark.parametrize("resolution", [20, 60, 7, 45])
def test_other_resolutions_join_a_recording(name, resolution, request):
    stager = request.getfixturevalue(name)
    X = night(9)[[5, 2, 7, 0, 1, 8, 3, 6, 4]]
    proba, onset = stager.hypnodensity(X, resolution, return_onset=True)
    n = int(270 // resolution)
    assert proba.shape == (n, 5)
    signal = joined(night(9), slice(None))
    step = int(resolution * SFREQ)
    np.testing.assert_allclose(
        proba, segment_written_out(stager, signal, step)[:n], atol=1e-6
    )
    np.testing.assert_allclose(onset, resolution * np.arange(n))


def test_gaps_and_recordings_end_a_joined_signal(utime):
    # two nights, predicted in the order of their names; n1 lacks the epoch at 660 s
    onset = np.array([0, 30, 60, 600, 630, 690, 720, 750])
    recording = np.array(["n2"] * 3 + ["n1"] * 5)
    X = night(8, onset=onset, recording=recording)
    proba, at = utime.hypnodensity(X, 20.0, return_onset=True)
    runs = {600: (slice(3, 5), 3), 690: (slice(5, 8), 4), 0: (slice(0, 3), 4)}
    expected = [
        segment_written_out(utime, joined(X, rows), 40) for rows, _ in runs.values()
    ]
    np.testing.assert_allclose(proba, np.concatenate(expected), atol=1e-6)
    np.testing.assert_allclose(
        at, np.concatenate([start + 20 * np.arange(n) for start, (_, n) in runs.items()])
    )
    # the rest of a run that is shorter than a step has no prediction
    assert utime.hypnodensity(X, 60.0).shape == (3, 5)
    assert utime.hypnodensity(X, 300.0).shape == (0, 5)


def test_epochs_that_are_always_apart_are_not_joined(utime):
    X = night(4, onset=90.0 * np.arange(4))
    proba, at = utime.hypnodensity(X, 20.0, return_onset=True)
    np.testing.assert_allclose(at, 90.0 * np.arange(4))
    for row in range(4):
        alone = segment_written_out(utime, X["target"][row], 40)[:1]
        np.testing.assert_allclose(proba[row : row + 1], alone, atol=1e-6)


def test_long_runs_are_read_in_pieces(utime):
    # 2400 s are 120 predictions; three pieces of 40 last 800 s, under 35 epochs
    X = night(80)
    proba, onset = utime.hypnodensity(X, 20.0, return_onset=True)
    signal = joined(X, slice(None))
    pieces = [
        signal[:, :1620],
        signal[:, 1600:3240],
        signal[:, 3200:],
    ]  # whole epochs' ends
    expected = [segment_written_out(utime, piece, 40)[:40] for piece in pieces]
    np.testing.assert_allclose(proba, np.concatenate(expected), atol=1e-6)
    np.testing.assert_allclose(onset, 20.0 * np.arange(120))


def test_long_steps_and_long_runs(usleep):
    X = night(80)
    for resolution, n_predictions in ((1100.0, 2), (1800.0, 1), (29.5, 81), (100.0, 24)):
        proba, onset = usleep.hypnodensity(X, resolution, return_onset=True)
        assert proba.shape == (n_predictions, 5)
        np.testing.assert_allclose(onset, resolution * np.arange(n_predictions))


def test_joining_needs_to_know_what_follows_what(utime):
    X = night(6)
    for unknown in (X["target"], PairedEpochs(X["target"], recording="n1")):
        with pytest.raises(
            ValueError, match=r"joined, and X does not.*recording= and onset="
        ):
            utime.hypnodensity(unknown, 20.0)
    windows = night(6, onset=20.0 * np.arange(6))
    with pytest.raises(ValueError, match=r"overlap in the recording n1 .*is 20 s"):
        utime.hypnodensity(windows, 20.0)
    assert utime.hypnodensity(windows, 1.0).shape == (180, 5)
    twice = night(4, onset=30.0 * np.array([0, 1, 1, 2]))
    with pytest.raises(ValueError, match="Two epochs of recording n1 begin at 30 s"):
        utime.hypnodensity(twice, 20.0)


@pytest.mark.parametrize("resolution", [0, -1, 0.3, 30.1, np.nan, np.inf, "1s", None])
def test_unusable_resolutions(utime, resolution):
    with pytest.raises(ValueError, match="whole number of samples; given .* at 2 Hz"):
        utime.hypnodensity(night(2), resolution)


def test_X_is_checked_as_in_predict_proba(utime):
    with pytest.raises(ValueError, match=r"given 2 channel\(s\) and 50 samples"):
        utime.hypnodensity(np.ones((3, 2, 50)), 1.0)
    with pytest.raises(ValueError, match="looks like volts"):
        utime.hypnodensity(1e-6 * night(3)["target"], 1.0)


def test_students_and_fine_tuned_stagers(utime):
    X, y = make_pair(n_subjects=2, n_epochs=8)
    student = DistilledSleepStager(
        SleepStager(
            "UTime",
            module__filters=(2, 4, 8),
            module__pools=(3, 2),
            max_epochs=1,
            device="cpu",
        ),
        layers="bottom",
        max_epochs=1,
        device="cpu",
    ).fit(X, y)
    tuned = FineTunedSleepStager(FrozenEstimator(utime), trainable=None, device="cpu")
    tuned.fit(night(8), y[:8])
    for stager in (student, tuned):
        stager.module_.train()
        proba = stager.hypnodensity(night(4), 1.0)
        assert proba.shape == (120, 5)
        np.testing.assert_allclose(proba.sum(axis=1), 1, atol=1e-5)
        assert not stager.module_.training
    np.testing.assert_allclose(proba, utime.hypnodensity(night(4), 1.0), atol=1e-6)


def test_u_sleep_at_its_full_depth():
    network = find_network("USleep")(
        n_chans=1, n_times=1920, sfreq=64, n_outputs=5, time_conv_size_s=9 / 64
    ).eval()
    x = torch.randn(1, 1, 3 * 1920)
    with torch.no_grad():
        assert segment(network, x, 64 * 20).shape == (1, 5, 4)
        torch.testing.assert_close(
            segment(network, x, 1920), network(x.unflatten(2, (3, 1920)).transpose(1, 2))
        )


def test_stagers_of_sequences_join_epochs():
    stager = fitted(sequence_length=4)
    X = night(9)
    np.testing.assert_array_equal(stager.hypnodensity(X), stager.predict_proba(X))
    for resolution in (1, 10, 20):
        expected = segment_written_out(stager, joined(X, slice(None)), resolution * 2)
        proba, onset = stager.hypnodensity(X[::-1], resolution, return_onset=True)
        np.testing.assert_allclose(proba, expected[: len(proba)], atol=1e-6)
        np.testing.assert_allclose(onset, resolution * np.arange(270 // resolution))
    with pytest.raises(ValueError, match="joined, and X does not"):
        stager.hypnodensity(X["target"], 1)


# ---------------------------------------------------------------- the picture


@pytest.fixture
def _no_screen():
    import matplotlib.pyplot as plt

    plt.switch_backend("agg")
    yield
    plt.close("all")


def areas_of(panel):
    """Height of each area by label, one value a step, and the steps' edges in seconds."""
    heights = {patch.get_label(): patch.get_data() for patch in panel.patches}
    tops = np.array([data.values for data in heights.values()])
    below = np.vstack([tops[1:], np.zeros_like(tops[:1])])
    edges = next(iter(heights.values())).edges * 3600
    return dict(zip(heights, tops - below, strict=True)), edges


@pytest.mark.usefixtures("_no_screen")
def test_display_draws_each_probability_at_its_time():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(5), size=6)
    onset = np.array([0, 20, 40, 300, 320, 340])[[2, 0, 1, 5, 4, 3]]
    display = HypnogramDisplay.from_predictions(
        ["W", "?", "REM"],
        onset=[0.0, 30.0, 300.0],
        probabilities=probabilities,
        resolution=20,
        proba_onset=onset,
    )
    display.figure_.canvas.draw()
    truth, panel = display.ax_
    areas, edges = areas_of(panel)
    assert list(areas) == ["W", "REM", "N1", "N2", "N3"]
    np.testing.assert_allclose(edges, [0, 20, 40, 60, 300, 320, 340, 360])
    in_time = probabilities[[1, 2, 0, 5, 4, 3]]
    for column, label in enumerate(("W", "N1", "N2", "N3", "REM")):
        expected = np.insert(
            in_time[:, column], 3, np.nan
        )  # nothing is predicted for 60 to 300 s
        np.testing.assert_allclose(areas[label], expected, atol=1e-12)
    values, edges, _ = truth.patches[0].get_data()
    np.testing.assert_array_equal(values, [0, np.nan, np.nan, 1])
    np.testing.assert_allclose(edges * 3600, [0, 30, 60, 300, 330])
    np.testing.assert_allclose(np.array(panel.get_xlim()) * 3600, [0, 360])
    legend = [text.get_text() for text in panel.get_legend().get_texts()]
    assert legend == ["W", "REM", "N1", "N2", "N3"]


@pytest.mark.usefixtures("_no_screen")
@pytest.mark.parametrize(
    ("resolution", "n_predictions"), [(1.0, 120), (20.0, 6), (30.0, 4)]
)
def test_display_from_estimator(utime, resolution, n_predictions):
    X = night(4, onset=600 + 30.0 * np.arange(4))
    display = HypnogramDisplay.from_estimator(utime, X, [0, 1, 2, 4], resolution=resolution)
    display.figure_.canvas.draw()
    assert len(display.ax_) == 3  # scored, predicted, and the probabilities
    panel = display.ax_[-1]
    areas, edges = areas_of(panel)
    np.testing.assert_allclose(edges, 600 + resolution * np.arange(n_predictions + 1))
    np.testing.assert_allclose(
        areas["REM"], utime.hypnodensity(X, resolution)[:, 4], atol=1e-6
    )
    title = f"Predicted probability every {resolution:g} s"
    assert panel.get_title(loc="left") == title
    assert display.plot().figure_ is not None


@pytest.mark.usefixtures("_no_screen")
def test_display_without_scores_and_with_other_classes():
    X, y = make_pair(n_subjects=1, n_epochs=8, classes=3)
    names = np.array(["R", "W", "L"])[y]
    stager = SleepStager(
        "UTime", module__filters=(2, 4), module__pools=(3,), max_epochs=1, device="cpu"
    ).fit(X, names)
    display = HypnogramDisplay.from_estimator(
        make_pipeline("passthrough", stager), X["target"], resolution=1, classes="wldr"
    )
    panel = display.ax_[-1]
    areas, edges = areas_of(panel)
    assert list(areas) == ["W", "R", "L", "D"]
    np.testing.assert_array_equal(areas["D"], 0)  # the stager does not predict it
    proba = stager.hypnodensity(X["target"], 1.0)
    assert stager.classes_.tolist() == ["L", "R", "W"]
    np.testing.assert_allclose(areas["L"], proba[:, 0], atol=1e-6)
    np.testing.assert_allclose(edges, np.arange(241))


@pytest.mark.usefixtures("_no_screen")
def test_display_shows_one_recording_and_no_time_twice(utime):
    X = night(4, recording=["n1", "n1", "n2", "n2"])
    with pytest.raises(ValueError, match=r"X holds \['n1', 'n2'\]"):
        HypnogramDisplay.from_estimator(utime, X, resolution=1)
    windows = night(4, onset=20.0 * np.arange(4))
    with pytest.raises(ValueError, match="Steps of 1 s overlap.*resolution of 30 s"):
        HypnogramDisplay.from_estimator(utime, windows, resolution=1)
    display = HypnogramDisplay.from_estimator(utime, windows, [0, 1, 2, 3], resolution=30)
    for panel in display.ax_:
        edges = panel.patches[0].get_data().edges * 3600
        np.testing.assert_allclose(edges, 5 + 20 * np.arange(5))
    with pytest.raises(ValueError, match=r"shape \(2, 4\); a column for each"):
        HypnogramDisplay.from_predictions(probabilities=np.ones((2, 4)), resolution=1)
    with pytest.raises(ValueError, match="no epochs to draw"):
        HypnogramDisplay.from_predictions(probabilities=np.ones((0, 5)), resolution=1)
    with pytest.raises(ValueError, match="inconsistent numbers"):
        HypnogramDisplay.from_predictions([0, 1, 2], probabilities=np.ones((2, 5)))


def test_spectrograms_are_predicted_every_epoch_and_not_finer():
    rng = np.random.default_rng(0)
    Z, y = rng.standard_normal((24, 1, 5, 33)).astype(np.float32), np.repeat([0, 1], 12)
    for X in (
        Z,
        PairedEpochs(Z, sfreq=64.0, recording="night", onset=30.0 * np.arange(24)),
    ):
        stager = SleepStager(
            "SeqSleepNet", max_epochs=1, module__n_filters=4, random_state=0, device="cpu"
        ).fit(X, y)
        np.testing.assert_array_equal(stager.hypnodensity(X), stager.predict_proba(X))
        with pytest.raises(ValueError, match="spectrograms predicts whole epochs"):
            stager.hypnodensity(X, resolution=1.0)
