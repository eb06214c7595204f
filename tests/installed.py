"""What an installed wheel must do without anything that only the tests need.

Run by ``make wheel`` in an environment of its own, away from the checkout.
"""

import importlib.util
import tempfile
from pathlib import Path

import numpy as np
from sklearn.model_selection import LeaveOneGroupOut, cross_validate

import skleepkd
from skleepkd import DistilledSleepStager, SleepStager, export_onnx, load, save
from skleepkd.datasets import make_cohort
from skleepkd.metrics import sleep_scorers

where = Path(skleepkd.__file__).resolve()
checkout = Path(__file__).resolve().parents[1]
assert checkout / "skleepkd" not in where.parents, f"{where} is the checkout, not the wheel"
assert importlib.util.find_spec("tests") is None, "the wheel brings its tests along"

cohort = make_cohort(n_subjects=3, n_epochs=20, sfreq=64.0, random_state=0)
small = {"module__filters": (4, 4), "module__pools": (4,)}
teacher = SleepStager("UTime", max_epochs=1, classes="aasm", **small)
student = DistilledSleepStager(teacher, strategy="online", max_epochs=1, classes="aasm")
scores = cross_validate(
    student,
    cohort.X,
    cohort.y,
    groups=cohort.groups,
    cv=LeaveOneGroupOut(),
    scoring=sleep_scorers(),
    error_score="raise",
)
assert len(scores["test_kappa"]) == 3

student.fit(cohort.X, cohort.y)
with tempfile.TemporaryDirectory() as folder:
    save(student, f"{folder}/ear.safetensors")
    again = load(f"{folder}/ear.safetensors")
    np.testing.assert_array_equal(again.predict(cohort.X), student.predict(cohort.X))
    if importlib.util.find_spec("onnxruntime") is None:
        message = "nothing"
        try:
            export_onnx(student, f"{folder}/ear.onnx")
        except ImportError as error:
            message = str(error)
        assert "skleepkd[onnx]" in message, (
            f"an export without ONNX Runtime raised {message}"
        )

print(f"skleepkd {skleepkd.__version__} works from {where.parent}")
