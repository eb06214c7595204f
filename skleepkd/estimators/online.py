"""The online teacher: a stager that takes its own steps while its student takes others."""

import numpy as np

from skleepkd.estimators.labels import find_classes
from skleepkd.estimators.net import seeded


def begin_online(stager, source, y, held_out, classes):
    """Build the network and the optimiser of an online teacher.

    Parameters
    ----------
    stager : SleepStager
        The teacher, not fitted.
    source : PairedEpochs
        The source of the training rows, as a pair of its own.
    y : ndarray of shape (n_epochs,)
        Labels.
    held_out : ndarray
        Subjects that the student holds out.
    classes : ndarray of shape (n_classes,)
        The student's labels, which must be the teacher's too.

    Raises
    ------
    ValueError
        If the teacher was given other classes.
    """
    stager.held_out_, stager.best_epoch_ = held_out, None
    if stager.classes is None:
        stager.classes = classes.tolist()
    if not np.array_equal(find_classes(stager.classes, y), classes):
        raise ValueError(
            "An online teacher needs the student's classes; leave the teacher's classes= out."
        )
    # The weights that are kept are those of the student's best pass.
    stager.set_params(callbacks__best_weights=None)
    stager._take_data(source, y)
    seed, _ = stager._draw_seeds()
    with seeded(seed, stager.device):
        stager.initialize()


def online_step(stager, source, y, layers, training):
    """Take a step of an online teacher, and return what it answered before it.

    The step is the stager's own training step on its own cross-entropy, so nothing of
    the student's losses can reach it.

    Parameters
    ----------
    stager : SleepStager
        The teacher.
    source : torch.Tensor of shape (batch, n_channels, n_times)
        The source of the batch.
    y : torch.Tensor of shape (batch,)
        Codes of the stages, -1 where unscored.
    layers : sequence of str
        Layers whose features are wanted.
    training : bool
        Whether it learns from the batch.

    Returns
    -------
    loss, logits : torch.Tensor
        The teacher's loss, and its logits of shape (batch, n_classes); detached.
    features : list of torch.Tensor
        One tensor a layer, detached.
    """
    batch = ({"target": source}, y)
    stager.notify("on_batch_begin", batch=batch, training=training)
    with stager.capture(layers) as seen:
        step = (stager.train_step if training else stager.validation_step)(batch)
    prefix = "train" if training else "valid"
    stager.history.record_batch(f"{prefix}_loss", step["loss"].item())
    stager.history.record_batch(f"{prefix}_batch_size", len(y))
    stager.notify("on_batch_end", batch=batch, training=training, **step)
    features = [seen[name].detach() for name in layers]
    return step["loss"].detach(), step["y_pred"].detach(), features
