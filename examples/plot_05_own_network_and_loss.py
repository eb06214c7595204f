"""
A network and a loss of your own
================================

A network is any ``torch.nn.Module`` whose constructor takes ``n_chans``, ``n_times`` and
``n_outputs`` (and ``sfreq``, if it needs it). A loss between features is any
``torch.nn.Module`` that is called with the student's and the teacher's features. Nothing
needs to be registered; the layers that are compared are named.

All nights are **simulated**. The pictures need ``skleepkd[plot]``.
"""

# %%
# A network
# ---------
# Filters, their power in each of fifteen pieces of two seconds, its logarithm, and a
# recurrent layer over the pieces. The stager sets the three numbers when it is fitted,
# since they are known then: channels, samples of an epoch, stages.

import matplotlib.pyplot as plt
from torch import nn
from torch.nn import functional as F

from skleepkd import DistilledSleepStager, SleepStager
from skleepkd.datasets import make_cohort
from skleepkd.model_selection import compare


class PowerReader(nn.Module):
    """Read the power of learned filters, piece by piece."""

    def __init__(self, n_chans, n_times, n_outputs, n_filters=16):
        super().__init__()
        self.filters = nn.Conv1d(n_chans, n_filters, 33, stride=4, padding=16)
        self.power = nn.AdaptiveAvgPool1d(15)
        self.norm = nn.BatchNorm1d(n_filters)
        self.reader = nn.GRU(n_filters, 24, batch_first=True, bidirectional=True)
        self.head = nn.Linear(48, n_outputs)

    def forward(self, x):
        """Return the logits of epochs of shape (batch, n_chans, n_times)."""
        power = self.power(self.filters(x).square())  # (batch, n_filters, 15)
        read, _ = self.reader(self.norm(power.add(1e-2).log()).mT)  # (batch, 15, 48)
        return self.head(read.mean(dim=1))


# %%
# A loss
# ------
# Two networks may represent the same thing in different coordinates. This loss asks only
# that epochs that are alike to the teacher are alike to the student: it compares the
# cosines between all epochs of a batch (the idea is that of Tung and Mori, 2019,
# *Similarity-preserving knowledge distillation*). So student and teacher may even have
# features of different widths.


class SimilarityLoss(nn.Module):
    """Squared difference of the cosines between the epochs of a batch."""

    def forward(self, student, teacher):
        """Return the loss of features of shape (batch, ...), a scalar."""
        own = F.normalize(student.flatten(1), dim=1)  # (batch, features)
        others = F.normalize(teacher.flatten(1), dim=1)
        return F.mse_loss(own @ own.T, others @ others.T)


# %%
# Both in a student
# -----------------
# ``layers`` names what is compared: the outputs of the recurrent layer (of a layer that
# returns a tuple, the first tensor). A pair of names, ``("reader", "features")``, would
# compare two different networks.

training = {"classes": "aasm", "max_epochs": 8, "lr": 3e-3}
student = DistilledSleepStager(
    teacher=SleepStager(PowerReader, **training),
    module=PowerReader,
    module__n_filters=12,
    feature_loss=SimilarityLoss(),
    feature_weight=5.0,
    layers=["reader"],
    alpha=0.0,
    start_from_teacher=False,
    random_state=0,
    **training,
)

# %%
# A name that does not exist is an error before the teacher is trained, and the error
# lists the names that do.

cohort = make_cohort(n_subjects=6, n_epochs=180, random_state=5)
X, y = cohort.X, cohort.y
try:
    DistilledSleepStager(SleepStager(PowerReader), layers=["decoder"]).fit(X, y)
except ValueError as error:
    print(error)

# %%
# From here on it is an estimator like any other. Each subject is left out in turn, and
# teacher and student learn from the others. The ear stager beside them has the student's
# network and the passes of both, eight of the teacher and eight of the student.

ear = SleepStager(PowerReader, module__n_filters=12, random_state=0, **training)
ear.set_params(max_epochs=16)
stagers = {"ear alone": ear, "with a teacher": student}
print("Simulated nights, each subject left out in turn")
print(compare(stagers, X, y, baseline="ear alone", seeds=1))

# %%
# Six subjects are few; an interval that holds 0 decides nothing. What has certainly
# happened is in ``history_``: each term of the loss, pass by pass.

fitted = student.fit(X, y)
passes = fitted.history_[:, "epoch"]
figure, axes = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
for ax, term in zip(axes, ("train_cross_entropy", "train_feature_loss"), strict=True):
    ax.plot(passes, fitted.history_[:, term], "o-")
    ax.set(xlabel="Pass", title=term, ylim=(0, None))
figure.suptitle("The two terms of the student's loss, simulated nights")
plt.show()

# %%
# To keep such a student, save it, and give the class again when it is loaded, since files
# hold no code: ``load("ear.safetensors", module=PowerReader)``.

for name, stager in {"student": fitted, "teacher": fitted.teacher_}.items():
    print(f"{name}: {sum(p.numel() for p in stager.module_.parameters())} parameters")
