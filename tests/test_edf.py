"""Files of known records, written byte by byte; MNE is not the reference."""

from datetime import UTC, datetime

import mne
import numpy as np
import pytest

from skleepkd import PairedEpochs
from skleepkd.edf import interruptions, is_whole, open_edf, seconds_left_out
from tests.files import write_edf

#: Records of 10 s: 400 s of signal, 65 s missing after 150 s, 5 s more after 250 s.
STARTS = 10.0 * np.arange(40)
STARTS[15:] += 65
STARTS[25:] += 5
GAPS = [(150.0, 65.0), (250.0, 5.0)]


def write(path, starts, **options):
    """Write two channels of noise of 10 Hz, whose records begin at ``starts``."""
    noise = np.random.default_rng(0).normal(0, 20, (2, 100 * len(starts)))
    signals, options = (
        dict(zip(["C3", "C4"], noise, strict=True)),
        {"reserved": "EDF+D"} | options,
    )
    return write_edf(path, signals, len(starts), 10, starts=starts, **options)


def read(path):
    return mne.io.read_raw_edf(path, verbose="error").pick(["C3", "C4"])


def test_interruptions_are_found(tmp_path):
    path = tmp_path / "night.edf"
    assert interruptions(write(path, STARTS)) == GAPS
    assert interruptions(write(path, STARTS + 0.25)) == GAPS  # EDF+ begins within a second
    # A later annotation of a record is no time of the record.
    later = "{:+g}\x14\x14\0+1000\x14\x14\0+2\x15" + "1\x14apnoea\x14\0"
    assert interruptions(write(path, STARTS, time=later)) == GAPS
    assert interruptions(write(path, STARTS[::-1]))  # nor may they go back


def test_files_without_an_interruption(tmp_path):
    path = tmp_path / "night.edf"
    assert interruptions(write(path, STARTS, reserved="EDF+C")) == []
    assert interruptions(write(path, 10.0 * np.arange(40))) == []
    # Devices round: each record is right to a few milliseconds.
    starts = np.round(10.0004 * np.arange(40), 2)
    assert interruptions(write(path, starts, time="{:+.2f}\x14\x14\0")) == []
    assert interruptions(tmp_path / "gone.edf") == []
    path.write_text("no recording")
    assert interruptions(path) == []
    with pytest.warns(UserWarning, match="night.edf may be interrupted"):
        assert interruptions(write(path, STARTS, time="\0")) == []


def test_bdf_has_samples_of_three_bytes(tmp_path):
    path = write(tmp_path / "night.bdf", STARTS, reserved="BDF+D", bdf=True)
    whole = path.read_bytes()
    assert len(whole) == 256 * 4 + 40 * 3 * (200 + 3)
    assert is_whole(path)
    assert interruptions(path) == GAPS
    path.write_bytes(whole[:-1])
    assert not is_whole(path)


def test_whole_files(tmp_path):
    path = write(tmp_path / "night.edf", STARTS)
    assert is_whole(path)
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    assert not is_whole(path)
    path.write_bytes(content[:236] + b"-1".ljust(8) + content[244:])  # was not closed
    assert not is_whole(path)
    for name in ("night.fif", "night.edf"):
        (tmp_path / name).write_text("no such header")
        assert is_whole(tmp_path / name)


def test_parts_between_interruptions(tmp_path):
    raw = read(write(tmp_path / "night.edf", STARTS))
    with pytest.raises(ValueError, match=r"2 time.* first after 150 s .*, for 65 s"):
        seconds_left_out(raw)
    parts = [(0, 150, 0), (150, 250, 65), (250, None, 70), (30, 60, 0), (160, 200, 65)]
    for begin, end, left_out in parts:
        part = raw.copy().crop(begin, end, include_tmax=end is None)
        assert seconds_left_out(part) == left_out
        part.load_data(verbose="error").resample(7, verbose="error")
        assert seconds_left_out(part) == left_out
    with pytest.raises(ValueError, match="1 time.* after 250 s .*tmax=50,.*tmin=50"):
        seconds_left_out(raw.copy().crop(200))
    joined = [raw.copy().crop(0, 100), raw.copy().crop(300)]
    with pytest.raises(ValueError, match="interrupted .*tmax=150,.*tmin=150"):
        seconds_left_out(mne.concatenate_raws(joined, verbose="error"))
    assert seconds_left_out(mne.io.RawArray(raw.get_data(), raw.info, verbose=False)) == 0


def test_a_pair_is_not_cut_over_an_interruption(tmp_path):
    interrupted = read(write(tmp_path / "ear.edf", STARTS))
    whole = read(write(tmp_path / "psg.edf", 10.0 * np.arange(48), reserved="EDF+C"))
    scored = mne.Annotations(30.0 * np.arange(15), 30.0, "Sleep stage 2")
    for raws in ((whole, interrupted), (interrupted, whole)):
        with pytest.raises(ValueError, match="ear.edf was interrupted 2 time"):
            PairedEpochs.from_raws(
                source_raw=raws[0], target_raw=raws[1], annotations=scored
            )
    # What the error proposes: the second part begins at 150 + 65 s of the first clock.
    part = interrupted.copy().crop(150, 250, include_tmax=False)
    X = PairedEpochs.from_raws(
        source_raw=whole, target_raw=part, annotations=scored, offset=215.0
    )
    assert X.onset.tolist() == [240.0, 270.0]
    first = 1e6 * interrupted.get_data(start=1750, stop=2050)
    np.testing.assert_allclose(X["target"][0], first, rtol=1e-4)
    # The part as source: its annotations count from its own first sample.
    dated = mne.Annotations([215.0, 245.0], 30.0, "Sleep stage 2", orig_time=DATE)
    with pytest.raises(ValueError, match=r"-215 s after the first.*a\.onset -215,"):
        PairedEpochs.from_raws(source_raw=part, target_raw=part, annotations=dated)


@pytest.mark.parametrize(
    ("unit", "factor"), [("uV", 1), ("", 1), ("\u00b5V", 1), ("mV", 1000)]
)
def test_a_channel_without_a_unit_is_in_microvolts(tmp_path, unit, factor):
    ramp = np.arange(-300, 300) / 10
    path = write_edf(tmp_path / "night.edf", {"C3": ramp}, 6, unit=unit)
    found = 1e6 * open_edf(path, ["C3"]).get_data()[0]
    np.testing.assert_allclose(found, factor * ramp, atol=0.06 * factor)


DATE = datetime(2000, 1, 1, 22, tzinfo=UTC)


def test_a_cohort_is_not_read_over_an_interruption(tmp_path):
    path = write(tmp_path / "SC4001E0-PSG.edf", STARTS)
    with pytest.raises(
        ValueError, match=r"SC4001E0-PSG\.edf .*150 s .*, for 65 s.*subjects="
    ):
        open_edf(path, ["C3"])
    assert open_edf(write(path, 10.0 * np.arange(9)), ["C3"]).n_times == 900
