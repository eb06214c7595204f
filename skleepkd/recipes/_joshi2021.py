"""Joshi et al. (2021): ECG from EEG."""

import torch.nn.functional as F
from sklearn.pipeline import Pipeline
from torch.optim import Adam

from skleepkd.distillation import AttentionTransfer
from skleepkd.estimators import DistilledSleepStager, SleepStager
from skleepkd.preprocessing import SourceSelector

#: The paper's schemes, by their number of stages.
_SCHEMES = {4: "wldr", 3: "wnr"}

#: Layers as the published code averages them: means over the encoder, the bottleneck,
#: the decoder, the decoder's last level once more, and the scores. In units of 1/25.
_REFERENCE_LAYERS = (
    *(f"pools.{level}" for level in range(5)),
    *["bottom"] * 5,
    *(f"decoder.{level}" for level in range(5)),
    *["decoder.4"] * 5,
    *["dense"] * 5,
)


class BatchAttentionTransfer(AttentionTransfer):
    """Attention transfer as the published code has it: in the wrong direction.

    At each moment, the maps are divided by their Euclidean norm over the epochs of the
    batch, not over time, so that the loss of an epoch depends on the others; what is
    averaged is the absolute difference.
    """

    def summarise(self, features):
        """Return the maps as they are, (batch, times), of (batch, channels, times)."""
        return features.square().sum(dim=1).flatten(1)

    def compare(self, student, teacher):
        """Return the mean absolute difference of the normalised maps."""
        return F.l1_loss(F.normalize(student, dim=0), F.normalize(teacher, dim=0))


def joshi2021(method, n_classes=4, variant="paper", *, random_state=None, **params):
    """ECG stagers of Joshi et al. (2021): supervised, and taught by an EEG stager.

    Every method takes the same pairs, one ECG lead as the target and one EEG derivation
    as the source (in the paper at 200 Hz and not filtered, each channel of each window
    scaled to run from 0 to 1), and stages in the codes of its scheme
    (:func:`skleepkd.stages.to_scheme`). Teacher and student are the same
    :class:`~skleepkd.networks.UTime`. All methods share the paper's training: Adam with a
    learning rate of 0.001, batches of 256 epochs, 150 passes (in two steps 150 each) and
    cross-entropy with classes weighted by their inverse frequency, the teacher's too.

    Parameters
    ----------
    method : {"eeg", "ecg", "sd+cl", "at+cl", "at+sd+cl"}
        "eeg" and "ecg": supervised, on one of the two signals. "sd+cl": the divergence
        from the answers of an EEG network, trained before and frozen, in equal shares
        with the cross-entropy (equation 4 with alpha = 0.5). "at+cl" and "at+sd+cl":
        first the attention maps of the EEG network (equation 3), without any label, then
        the cross-entropy alone or as in "sd+cl".
    n_classes : {4, 3}, default=4
        Wake, light sleep, deep sleep and REM (W, L, D, R), or W, N and R.
    variant : {"paper", "reference"}, default="paper"
        "reference" follows the published code where that differs from the paper and can
        be followed; see the notes.
    random_state : int, RandomState or None, default=None
        Seed of the stager that is returned. The EEG network inside it draws its seed from
        this one, so that the taught methods of one ``random_state`` share their teacher.
    **params
        Parameters for each stager in the method, the EEG network's too, such as
        ``max_epochs=10``, ``module__filters=...`` or ``validation=MassSplit(subjects)``.
        Those of one alone are set afterwards: ``set_params(alpha=0.9)``,
        ``set_params(memory=...)``.

    Returns
    -------
    estimator
        A stager or, for "eeg", a ``Pipeline`` that picks the source first. Not fitted.

    Raises
    ------
    ValueError
        If the method, the number of classes or the variant is unknown.

    Notes
    -----
    Where the recipe departs from the paper:

    - The weights are those of the pass with the best kappa on the validation subjects;
      the paper's measure is weighted F1, looked at after every second pass. (Of the
      attention step, they are those with the lowest loss, as in the paper.)
    - ``validation="auto"`` draws 10 % of the training subjects. The paper's own are drawn
      once: ``validation=MassSplit(subjects)`` (:class:`~skleepkd.datasets.MassSplit`).
    - Equation 3 is a sum over layers and here a mean: the step has no other term, and
      Adam does not see a constant factor.
    - Equation 6 writes logarithms on both sides; this is the divergence KL(teacher ||
      student) of the probabilities, summed over classes and averaged over epochs.

    ``variant="reference"`` has no class weights (the published code computes them and
    never uses them); it divides the divergence by the number of classes as well, which in
    the same ratio is ``alpha=1 / (n_classes + 1)``; and its attention maps are normalised
    over the batch, compared by their mean absolute difference, and averaged over groups
    of layers in which the decoder's last map counts twice. The maps of a layer are kept as
    often as it is counted, which takes nearly four times the memory. It does not reproduce
    how the code's scripts pick a checkpoint by its file name, which can pick a wrong one.

    References
    ----------
    Joshi, V., Vijayarangan, S., Preejith, S. P. and Sivaprakasam, M. (2021). A deep
    knowledge distillation framework for EEG assisted enhancement of single-lead ECG based
    sleep staging. arXiv:2112.07252.

    Examples
    --------
    >>> from skleepkd.recipes import joshi2021
    >>> student = joshi2021("at+sd+cl", n_classes=3, random_state=0)
    >>> student.strategy, student.feature_loss, student.alpha, student.classes
    ('two-step', 'attention', 0.5, 'wnr')
    """
    if n_classes not in _SCHEMES:
        raise ValueError(
            f"n_classes is 4 (W, L, D, R) or 3 (W, N, R); given {n_classes!r}."
        )
    if variant not in ("paper", "reference"):
        raise ValueError(f"variant is 'paper' or 'reference'; given {variant!r}.")
    reference = variant == "reference"
    shared = {
        "classes": _SCHEMES[n_classes],
        "class_weight": None if reference else "balanced",
        "max_epochs": 150,
        "batch_size": 256,
        "lr": 1e-3,
        "optimizer": Adam,
        "validation": "auto",
        **params,
    }
    attention = {"strategy": "two-step", "feature_loss": "attention"}
    if reference:
        attention |= {"feature_loss": BatchAttentionTransfer(), "layers": _REFERENCE_LAYERS}
    alpha = 1 / (n_classes + 1) if reference else 0.5

    if method == "eeg":
        stager = SleepStager("UTime", random_state=random_state, **shared)
        return Pipeline([("source", SourceSelector()), ("stager", stager)])
    if method == "ecg":
        return SleepStager("UTime", random_state=random_state, **shared)
    terms = {
        "sd+cl": {"strategy": "offline", "feature_loss": None, "alpha": alpha},
        "at+cl": {**attention, "alpha": 0.0},
        "at+sd+cl": {**attention, "alpha": alpha},
    }
    if method not in terms:
        raise ValueError(
            f"Unknown method {method!r}; the paper's are 'eeg', 'ecg', 'sd+cl', 'at+cl' "
            "and 'at+sd+cl'."
        )
    return DistilledSleepStager(
        SleepStager("UTime", **shared),
        random_state=random_state,
        **terms[method],
        **shared,
    )
