"""Phan et al. (2019): from one channel of a large cohort to another of a small one."""

from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.utils.validation import check_is_fitted
from torch.optim import Adam

from skleepkd.distillation.teacher import is_frozen
from skleepkd.estimators import FineTunedSleepStager, SleepStager
from skleepkd.estimators.callbacks import StepwiseValidation

#: What each row of the paper's tables trains, by SeqSleepNet's groups of parameters.
_TRAINABLE = {
    "direct": None,
    "softmax": ("head",),
    "softmax+arnn": ("head", "epoch_encoder"),
    "softmax+seqrnn": ("head", "sequence_encoder"),
    "all": "all",
}


def phan2019(method, pretrained=None, variant="paper", *, random_state=None, **params):
    """SeqSleepNets of Phan et al. (2019): from scratch, or transferred and fine-tuned.

    A stager of spectrograms, so that a step comes before it, which learns mean and
    deviation of each frequency from the training recordings of the target (for direct
    transfer too, as in the paper)::

        make_pipeline(LogSpectrogram(), phan2019("all", load("c4-a1.safetensors")))

    All methods share the paper's training: Adam with a learning rate of 0.0001, batches of
    32 sequences of 20 epochs, 10 passes, dropout of 0.25, an L2 penalty of 0.001 on all
    weights but the filters, cross-entropy without class weights, weights chosen by
    evaluations every 10 steps
    (:class:`~skleepkd.estimators.callbacks.StepwiseValidation`), answers of overlapping
    sequences multiplied.

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
    variant : {"paper", "reference"}, default="paper"
        "reference" follows the published code where that differs from the paper and can
        be followed by parameters; see the notes.
    random_state : int, RandomState or None, default=None
        Seed of the stager that is returned. All methods of one ``random_state`` hold out
        the same subjects.
    **params
        Parameters for the stager, such as ``max_epochs=3`` or
        ``validation=SleepEdfFolds()``, and for a network that is pretrained in the fold.

    Returns
    -------
    SleepStager or FineTunedSleepStager
        Not fitted.

    Raises
    ------
    ValueError
        If the method or the variant is unknown.

    Notes
    -----
    The paper's pretraining is ``phan2019("scratch", validation=None)`` on the large cohort.
    One that happens in the fold goes through all of its passes too and keeps the last
    weights, as no validation of it is described.

    Where the recipe departs from the paper:

    - The training stops after 50 *evaluations* without improvement (500 steps), and not
      before step 1000, as in the published code; the text says 50 steps.
    - ``validation="auto"`` draws 10 % of the training subjects where there are ten at
      least, and else keeps the last weights. The paper's four of nineteen are
      ``validation=SleepEdfFolds()`` (:class:`~skleepkd.datasets.SleepEdfFolds`) or, drawn
      by chance, ``validation=4``.
    - ``LogSpectrogram`` in a pipeline learns from all training recordings, those of the
      subjects who validate among them.
    - A sequence ends where an epoch is missing; the paper's run on across it.
    - There are no projections after the recurrent networks: equations 1 and 5 have them,
      the published code has not (``module__projections=True``).
    - Without ``pretrained``, both networks learn from the same people, in the paper from
      two cohorts.

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
    if variant not in ("paper", "reference"):
        raise ValueError(f"variant is 'paper' or 'reference'; given {variant!r}.")
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
        "validation": "auto",
        "callbacks__best_weights": StepwiseValidation(),
    }
    if method == "scratch":
        return SleepStager(
            "SeqSleepNet", random_state=random_state, **{**network, **training, **params}
        )
    if method not in _TRAINABLE:
        raise ValueError(
            f"Unknown method {method!r}; the paper's are 'scratch', "
            f"{', '.join(map(repr, _TRAINABLE))}."
        )
    trainable = _TRAINABLE[method]
    if variant == "reference" and method == "softmax+arnn":
        trainable = ("epoch_encoder",)
    if pretrained is None:
        inner = {
            name: value
            for name, value in {**network, **training, **params}.items()
            if not name.startswith("callbacks__best_weights")
        }
        pretrained = SleepStager("SeqSleepNet", callbacks__best_weights=None, **inner)
        # The network, its classes and its sequences are carried over.
        params = {
            name: value
            for name, value in params.items()
            if name not in network and not name.startswith("module__")
        }
    return FineTunedSleepStager(
        _as_frozen(pretrained),
        trainable=trainable,
        random_state=random_state,
        **{**training, **params},
    )


def _as_frozen(pretrained):
    """Mark a stager that is fitted already."""
    if is_frozen(pretrained):
        return pretrained
    try:
        check_is_fitted(pretrained)
    except NotFittedError:
        return pretrained
    return FrozenEstimator(pretrained)
