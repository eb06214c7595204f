import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest


@pytest.fixture(autouse=True)
def _without_a_screen():
    with mpl.rc_context():
        plt.switch_backend("agg")
        yield
        plt.close("all")
