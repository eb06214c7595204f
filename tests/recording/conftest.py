"""What the tests of recordings share."""

import pytest

from skleepkd import RecordingStager
from tests.recording.test_stager import stager_of


@pytest.fixture(scope="module")
def of_c3():
    """What stages the channel C3 alone."""
    return RecordingStager(stager_of(ch_names=["C3"]))
