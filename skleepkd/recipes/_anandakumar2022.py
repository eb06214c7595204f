"""Anandakumar et al. (2022): ear-EEG from scalp-EEG."""

from sklearn.pipeline import Pipeline
from torch.optim import Adam

from skleepkd.estimators import DistilledSleepStager, FineTunedSleepStager, SleepStager
from skleepkd.preprocessing.paired import SourceSelector


def anandakumar2022(
    method, network="USleep", variant="paper", *, random_state=None, **params
):
    """Ear-EEG stagers of Anandakumar et al. (2022): supervised, transferred, distilled.

    Every method takes the same pairs, ear-EEG as the target and scalp-EEG as the source
    (three derivations each in the paper, paired A1-A2 with L-R, C3-O1 with LE and C4-O2
    with RE, at 200 Hz, 0.2 to 42 Hz, in microvolts and not scaled). All of them share
    the paper's training: Adam with a learning rate of 0.001 and betas of 0.9 and 0.999,
    batches of 32 epochs, 100 passes, cross-entropy without class weights.

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
        from this one: with the same ``random_state``, transfer and offline distillation
        have the same scalp network, and it does not begin at the ear network's weights.
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
        If the method or the variant is unknown.

    Notes
    -----
    Where the recipe departs from the paper:

    - The feature term is a mean over every element of the features, as in the published
      code. Equation 2 reads as a sum over the features of an epoch, 36,000 of them for
      U-Sleep: at the beginning of training it would outweigh the cross-entropy by more
      than ten thousand to one, so it cannot be what was run with weights of 1 to 1.
      ``set_params(feature_loss=FeatureMSE(reduction="sum"))`` gives the sum.
    - ``validation=None``: the weights of the last pass are kept. The paper's weights were
      those of the best pass on the test subject, which makes every number of it
      optimistic. To choose on a subject of the training set, give ``validation=1``; seven
      training subjects are too few for that to be more than noise.
    - Weight decay is 0 for every method. The paper names none; the published code has
      1e-4 for supervised training and transfer and 0 for distillation, so that its
      comparison is one of weight decay too.
    - ``EpochCrossModalTransformer`` uses all of its channels; the published one reads the
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
    if variant not in ("paper", "reference"):
        raise ValueError(f"variant is 'paper' or 'reference'; given {variant!r}.")
    reference = variant == "reference"
    shared = {
        "max_epochs": 100,
        "batch_size": 32,
        "lr": 1e-3,
        "optimizer": Adam,
        "optimizer__betas": (0.9, 0.999),
        "optimizer__eps": 1e-9 if reference else 1e-8,
        "optimizer__weight_decay": 0.0,
        "validation": None,
        "classes": "aasm",
    }
    decay = {"optimizer__weight_decay": 1e-4 if reference else 0.0}
    supervised = {**shared, **decay, **params}
    distilled = {**shared, **params}
    features = {"feature_loss": "mse", "feature_weight": 1.0, "alpha": 0.0}

    if method == "scalp":
        stager = SleepStager(network, random_state=random_state, **supervised)
        return Pipeline([("source", SourceSelector()), ("stager", stager)])
    if method == "ear":
        return SleepStager(network, random_state=random_state, **supervised)
    if method == "transfer":
        # The network and its classes are carried over from the scalp.
        carried = {
            name: value
            for name, value in supervised.items()
            if name != "classes" and not name.startswith("module__")
        }
        scalp = SleepStager(network, **supervised)
        return FineTunedSleepStager(
            scalp, trainable="all", random_state=random_state, **carried
        )
    if method == "offline":
        teacher = SleepStager(network, **supervised)
        return DistilledSleepStager(
            teacher, strategy="offline", random_state=random_state, **features, **distilled
        )
    if method == "online":
        teacher = SleepStager(network, **distilled)
        return DistilledSleepStager(
            teacher, strategy="online", random_state=random_state, **features, **distilled
        )
    raise ValueError(
        f"Unknown method {method!r}; the paper's are 'scalp', 'ear', 'transfer', 'offline' "
        "and 'online'."
    )
