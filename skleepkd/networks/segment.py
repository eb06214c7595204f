"""Answers of a network at another resolution than the epoch's, with the same weights."""

import torch.nn.functional as F

from skleepkd.networks.declared import uncompiled


def segment(module, x, step):
    """Compute logits for every ``step`` samples of a signal.

    Parameters
    ----------
    module : torch.nn.Module
        A network with a method ``segment(x, step)``, as :class:`~skleepkd.networks.UTime`
        has one, or braindecode's U-Sleep.
    x : Tensor of shape (batch, n_chans, times)
        A signal of at least one epoch.
    step : int
        Samples for each answer.

    Returns
    -------
    Tensor of shape (batch, n_outputs, times // step)

    Raises
    ------
    ValueError
        If the network knows whole epochs alone.

    Notes
    -----
    U-Sleep takes the mean of its scores over an epoch and two layers with a nonlinearity
    between them turn it into logits; here the mean is over ``step`` samples. Because of
    that nonlinearity its answers do not average to the longer step's, as U-Time's do.
    """
    module = uncompiled(module)
    if hasattr(module, "segment"):
        return module.segment(x, step)
    kind = type(module)
    if kind.__name__ == "USleep" and kind.__module__.startswith("braindecode."):
        return _segment_usleep(module, x, step)
    raise ValueError(
        f"{kind.__name__} answers whole epochs alone. UTime and braindecode's USleep answer "
        "at any resolution, and so does a network with a method segment(x, step) that "
        "returns logits of shape (batch, n_outputs, times // step)."
    )


def _segment_usleep(module, x, step):
    def mean_over_steps(_, scores, __):
        return F.avg_pool1d(*scores, step)  # (batch, filters, times // step)

    # The last layer of clf is the mean over an epoch; its answer is replaced.
    with module.clf[-1].register_forward_hook(mean_over_steps):
        answers = module(x)
    # A single answer comes without its time axis, as (batch, n_outputs).
    return answers[..., None] if answers.ndim == 2 else answers
