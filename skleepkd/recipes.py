"""The estimators of published experiments, ready configured."""

import torch.nn.functional as F
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from torch.optim import Adam

from skleepkd.distillation import AttentionTransfer
from skleepkd.distillation.teacher import is_frozen
from skleepkd.estimators import DistilledSleepStager, FineTunedSleepStager, SleepStager
from skleepkd.estimators.callbacks import StepwiseValidation
from skleepkd.preprocessing import SourceSelector

__all__ = ["anandakumar2022", "joshi2021", "phan2019"]

#: How parameters begin that a fine-tuned stager takes from the pretrained one.
_OF_PRETRAINED = ("classes", "sequence_length", "module__")


def anandakumar2022(
    method, network="USleep", variant="paper", *, random_state=None, **params
):
    """Ear-EEG stagers of Anandakumar et al. (2022): supervised, transferred, distilled.

    Every method takes the same pairs, ear-EEG as the target and scalp-EEG as the source
    (three derivations each in the paper, L-R, LE and RE, and A1-A2, C3-O1 and C4-O2, at
    200 Hz, 0.2 to 42 Hz; in the published code in this order, in microvolts and not
    scaled), and has the paper's training: Adam with a learning rate of 0.001 and betas of 0.9 and 0.999, batches of 32
    epochs, 100 passes, cross-entropy without class weights.

    Parameters
    ----------
    method : {"scalp", "ear", "transfer", "offline", "online"}
        "scalp" and "ear": supervised, on one of the two signals. "transfer": all of the
        scalp network is trained on with ear-EEG. "offline" and "online": cross-entropy
        plus the distance of the features to those of a scalp network, which is trained
        before and frozen, or trained at the same time.
    network : str, type or callable, default="USleep"
        "USleep" or "EpochCrossModalTransformer", the paper's two, or whatever
        :class:`~skleepkd.SleepStager` takes as its module.
    variant : {"paper", "reference"}, default="paper"
        "reference" follows the published code where that differs from the paper and can
        be followed by parameters; see the notes.
    random_state : int, RandomState or None, default=None
        Seed of the stager that is returned. The scalp network inside it draws its seed
        from this one: transfer and offline distillation of one ``random_state`` share it.
    **params
        Parameters for each stager in the method, the scalp network's too, such as
        ``max_epochs=10``, ``module__depth=8`` or ``validation=1``. Those of one alone
        are set afterwards: ``set_params(teacher__lr=1e-4)``, ``set_params(memory=...)``.

    Returns
    -------
    estimator
        A stager or, for "scalp", a ``Pipeline`` that picks the source first. Not fitted.

    Raises
    ------
    ValueError
        If a name is unknown.

    Notes
    -----
    Where the recipe departs from the paper, or the paper does not say:

    - The features are those before the classifier, as in the published code; the paper
      calls them intermediate.
    - The feature term is a mean over every element of the features, as in the published
      code. Equation 2 reads as a sum over the features of an epoch, 36,000 of them for
      U-Sleep, which would outweigh the cross-entropy by more than ten thousand to one:
      it cannot be what was run with weights of 1 to 1.
      ``set_params(feature_loss=FeatureMSE(reduction="sum"))`` gives the sum.
    - ``validation=None``: the weights of the last pass are kept. The paper does not say
      which it keeps; the published code keeps those of the best pass on the test subject,
      with which every number is optimistic. To choose on a training subject, give
      ``validation=1``.
    - Weight decay is 0 for every method. The paper names none; the published code has
      1e-4 for supervised training and transfer and 0 for distillation, so that its
      comparison is one of weight decay too.
    - ``EpochCrossModalTransformer`` uses all of its channels; the published code reads the
      first of three twice and the third never.

    ``variant="reference"`` has that weight decay (the frozen teacher of "offline" was
    trained with it, both networks of "online" without) and Adam's epsilon of 1e-9. It
    reproduces neither the choice of weights on the test subject (by accuracy and by
    kappa) nor the channel that is never read. The code compared the logits and not the
    features until a week before the paper: ``set_params(layers=["output"])``.

    References
    ----------
    Anandakumar, M., Pradeepkumar, J., Kappel, S. L., Edussooriya, C. U. S. and
    De Silva, A. C. (2022). A knowledge distillation framework for enhancing ear-EEG
    based sleep staging with scalp-EEG data. arXiv:2211.02638.

    Examples
    --------
    >>> from skleepkd.recipes import anandakumar2022
    >>> student = anandakumar2022("online", random_state=0)
    >>> student.strategy, student.teacher.module, student.max_epochs
    ('online', 'USleep', 100)
    """
    _check_names(method, ("scalp", "ear", "transfer", "offline", "online"), variant)
    reference, seed = variant == "reference", {"random_state": random_state}
    training = {
        "max_epochs": 100,
        "batch_size": 32,
        "lr": 1e-3,
        "optimizer": Adam,
        "optimizer__betas": (0.9, 0.999),
        "optimizer__eps": 1e-9 if reference else 1e-8,
        "optimizer__weight_decay": 0.0,
        "validation": None,
        "class_weight": None,
        "classes": "aasm",
    }
    decay = {"optimizer__weight_decay": 1e-4} if reference else {}
    supervised, distilled = training | decay | params, training | params
    if method in ("scalp", "ear"):
        stager = SleepStager(network, **seed, **supervised)
        return _on_source(stager) if method == "scalp" else stager
    if method == "transfer":
        training = _without(supervised, *_OF_PRETRAINED)
        pretrained = SleepStager(network, **supervised)
        return FineTunedSleepStager(pretrained, trainable="all", **seed, **training)
    teacher = SleepStager(network, **(supervised if method == "offline" else distilled))
    terms = {"feature_loss": "mse", "feature_weight": 1.0, "alpha": 0.0}
    student = {"strategy": method, "start_from_teacher": False, **terms, **seed}
    return DistilledSleepStager(teacher, **student | distilled)


def joshi2021(method, n_classes=4, variant="paper", *, random_state=None, **params):
    """ECG stagers of Joshi et al. (2021): supervised, and distilled from an EEG stager.

    Every method takes the same pairs, one ECG lead as the target and one EEG derivation
    as the source (in the paper at 200 Hz; in the published code not filtered, each channel
    of each window scaled to run from 0 to 1), and stages in the codes of its scheme
    (:func:`skleepkd.stages.to_scheme`). Teacher and student are the same
    :class:`~skleepkd.networks.UTime`. All methods share the paper's training: a learning
    rate of 0.001, 150 passes (in two steps 150 each) and cross-entropy with weights of the
    classes, the teacher's too, here their inverse frequencies. Adam and batches of 256
    epochs are the published code's.

    Parameters
    ----------
    method : {"eeg", "ecg", "sd+cl", "at+cl", "at+sd+cl"}
        "eeg" and "ecg": supervised, on one of the two signals. "sd+cl": the divergence
        from the probabilities of an EEG network, trained before and frozen, in equal
        shares with the cross-entropy (equation 4 with the paper's alpha, 0.5). "at+cl" and
        "at+sd+cl": first the attention maps of the EEG network (equation 3), without any
        label, then the cross-entropy alone or as in "sd+cl".
    n_classes : {4, 3}, default=4
        Wake, light sleep, deep sleep and REM (W, L, D, R), or W, N and R.
    variant, random_state, **params
        As for :func:`anandakumar2022`; the distilled methods of one ``random_state`` share
        their teacher.

    Returns
    -------
    estimator
        A stager or, for "eeg", a ``Pipeline`` that picks the source first. Not fitted.

    Raises
    ------
    ValueError
        If a name or the number of classes is unknown.

    Notes
    -----
    Where the recipe departs from the paper, or the paper does not say:

    - The weights are those of the pass with the best kappa on the validation subjects.
      The paper names no measure; the published code's is weighted F1, looked at after
      every second pass. (Of the attention step, they are those with the lowest loss, as
      in the code.)
    - ``validation="auto"`` draws 10 % of the training subjects. The published code's own
      are ``validation=MassSplit(subjects)`` (:class:`~skleepkd.datasets.MassSplit`).
    - Equation 3 is a sum over layers and here a mean: Adam sees no constant factor.
    - Equation 6 writes logarithms on both sides; this is the divergence KL(teacher ||
      student) of the probabilities, summed over classes and averaged over epochs.

    ``variant="reference"`` has no class weights (the published code never uses those that
    it computes); it divides the divergence by the number of classes as well, which in the
    same ratio is ``alpha=1 / (n_classes + 1)``; and its attention maps are normalised over
    the batch, compared by their mean absolute difference, and averaged over groups of layers
    in which the decoder's last map counts twice, in nearly four times the memory. It does
    not reproduce how the code picks a checkpoint by its file name, which can be a wrong one.

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
    if n_classes not in (4, 3):
        raise ValueError(f"n_classes is 4 (W, L, D, R) or 3 (W, N, R); given {n_classes}.")
    _check_names(method, ("eeg", "ecg", "sd+cl", "at+cl", "at+sd+cl"), variant)
    reference = variant == "reference"
    shared = {
        "classes": "wldr" if n_classes == 4 else "wnr",
        "class_weight": None if reference else "balanced",
        "max_epochs": 150,
        "batch_size": 256,
        "lr": 1e-3,
        "optimizer": Adam,
        "validation": "auto",
        **params,
    }
    if method in ("eeg", "ecg"):
        stager = SleepStager("UTime", random_state=random_state, **shared)
        return _on_source(stager) if method == "eeg" else stager
    student = {"output_loss": "softmax", "temperature": 1.0, "start_from_teacher": False}
    features = {"strategy": "two-step", "feature_loss": "attention", "feature_weight": 1.0}
    if method == "sd+cl":
        features = {"strategy": "offline", "feature_loss": None}
    elif reference:
        features |= {"feature_loss": BatchAttentionTransfer(), "layers": _REFERENCE_LAYERS}
    alpha = 1 / (n_classes + 1) if reference else 0.5
    return DistilledSleepStager(
        SleepStager("UTime", **shared),
        alpha=0.0 if method == "at+cl" else alpha,
        random_state=random_state,
        **student | features | shared,
    )


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
    """Attention transfer as the code of Joshi et al. has it, normalised over the batch."""

    def summarise(self, features):
        """Return the maps as they are, (batch, times), of (batch, channels, times)."""
        return features.square().sum(dim=1).flatten(1)

    def compare(self, student, teacher):
        """Return the mean absolute difference of maps with the norm 1 over epochs."""
        return F.l1_loss(F.normalize(student, dim=0), F.normalize(teacher, dim=0))


def phan2019(method, pretrained=None, variant="paper", *, random_state=None, **params):
    """SeqSleepNets of Phan et al. (2019): from scratch, or transferred and fine-tuned.

    A stager of spectrograms, so that a step comes before it, which learns mean and
    deviation of each frequency from the training recordings of the target::

        make_pipeline(LogSpectrogram(), phan2019("all", load("c4-a1.safetensors")))

    All methods share the paper's training: Adam with a learning rate of 0.0001, batches of
    32 sequences of 20 epochs, 10 passes, cross-entropy without class weights and an L2
    penalty, probabilities of overlapping sequences multiplied. As in the published code
    the penalty is 0.001 on all weights but the filters, the dropout 0.25, and weights are
    chosen every 10 steps (:class:`~skleepkd.estimators.callbacks.StepwiseValidation`).

    Parameters
    ----------
    method : {"scratch", "direct", "softmax", "softmax+arnn", "softmax+seqrnn", "all"}
        "scratch": trained on the target alone. The others begin at the pretrained
        network's weights, and what the name says is trained further: nothing ("direct"),
        the last layer, that and the encoder of epochs, that and the encoder of
        sequences, or all of the network.
    pretrained : stager, default=None
        A SeqSleepNet that was trained on another channel. A fitted one, as
        :func:`~skleepkd.load` gives it, is taken as it is (``FrozenEstimator``); one that
        is not fitted is fitted on the source of the training rows, and None is such a one
        with this training. "scratch" needs none.
    variant, random_state
        As for :func:`anandakumar2022`; all methods of one ``random_state`` hold out the same
        subjects.
    **params
        Parameters for the stager, such as ``max_epochs=3``, and for a network that is
        pretrained in the fold.

    Returns
    -------
    SleepStager or FineTunedSleepStager
        Not fitted.

    Raises
    ------
    ValueError
        If a name is unknown.

    Notes
    -----
    The paper's pretraining is ``phan2019("scratch", validation=None)`` on the large cohort.
    One in the fold goes through all of its passes too and keeps the last weights.

    Where the recipe departs from the paper:

    - The training stops after 50 *evaluations* without improvement (500 steps), and not
      before step 1000, as in the published code; the text says 50 steps.
    - ``validation="auto"`` draws 10 % of the training subjects where there are ten at
      least, and else keeps the last weights. The paper has four of nineteen; which, only
      the published code says: ``validation=SleepEdfFolds()``
      (:class:`~skleepkd.datasets.SleepEdfFolds`) or, drawn by chance, ``validation=4``.
    - ``LogSpectrogram`` learns from the subjects who validate as well; the published code's
      statistics leave them out.
    - A sequence ends where an epoch is missing; the published code's run on across it.
    - There are no projections after the recurrent networks: equations 1 and 5 have them,
      the published code has not (``module__projections=True``).
    - Without ``pretrained``, both networks learn from the same subjects, not two cohorts.

    ``variant="reference"`` leaves the last layer fixed in "softmax+arnn", as the published
    code does by mistake. It does not reproduce that code's recurrent cells (LSTMs with
    batch normalisation for each time step, not built here; the text says GRU) nor the one
    or two batches that it leaves out of each pass.

    References
    ----------
    Phan, H., Chén, O. Y., Koch, P., Mertins, A. and De Vos, M. (2019). Deep transfer
    learning for single-channel automatic sleep staging with channel mismatch.

    Examples
    --------
    >>> from skleepkd.recipes import phan2019
    >>> stager = phan2019("softmax+seqrnn", random_state=0)
    >>> stager.trainable, stager.max_epochs, stager.pretrained.module
    (('head', 'sequence_encoder'), 10, 'SeqSleepNet')
    """
    trainable = {
        "direct": None,
        "softmax": ("head",),
        "softmax+arnn": ("head", "epoch_encoder"),
        "softmax+seqrnn": ("head", "sequence_encoder"),
        "all": "all",
    }
    _check_names(method, ("scratch", *trainable), variant)
    if variant == "reference":
        trainable["softmax+arnn"] = ("epoch_encoder",)
    network = {"classes": "aasm", "sequence_length": 20, "module__drop_prob": 0.25}
    training = {
        "fusion": "product",
        "max_epochs": 10,
        "batch_size": 32,
        "lr": 1e-4,
        "optimizer": Adam,
        # Beside a mean over the 32 sequences of a batch; the paper's loss is their sum.
        "optimizer__weight_decay": 1e-3 / 32,
        "optimizer__param_groups": [("filterbank*", {"weight_decay": 0.0})],
        "class_weight": None,
        "validation": "auto",
        "callbacks__best_weights": StepwiseValidation(),
    }
    if method == "scratch":
        whole = network | training | params
        return SleepStager("SeqSleepNet", random_state=random_state, **whole)
    if pretrained is None:
        inner = _without(network | training | params, "callbacks__best_weights")
        pretrained = SleepStager("SeqSleepNet", callbacks__best_weights=None, **inner)
        params = _without(params, *_OF_PRETRAINED)
    elif hasattr(pretrained, "classes_") and not is_frozen(pretrained):
        pretrained = FrozenEstimator(pretrained)
    own = {"trainable": trainable[method], "random_state": random_state}
    return FineTunedSleepStager(pretrained, **own, **(training | params))


def _check_names(method, methods, variant):
    if variant not in ("paper", "reference"):
        raise ValueError(f"variant is 'paper' or 'reference'; given {variant!r}.")
    if method not in methods:
        listed = ", ".join(map(repr, methods))
        raise ValueError(f"Unknown method {method!r}; the paper's are {listed}.")


def _on_source(stager):
    return Pipeline([("source", SourceSelector()), ("stager", stager)])


def _without(params, *prefixes):
    return {name: value for name, value in params.items() if not name.startswith(prefixes)}
