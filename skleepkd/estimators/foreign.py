"""A trained network from elsewhere as a fitted stager."""

import copy

import numpy as np
import torch

from skleepkd.epochs import PairedEpochs
from skleepkd.estimators.labels import find_classes
from skleepkd.networks.build import check_output
from skleepkd.stages import EPOCH_SECONDS, scheme_names


def from_module(cls, network, *, classes, sfreq, ch_names=None, n_chans=None, **params):
    """Make a fitted stager of a trained network.

    Parameters
    ----------
    network : torch.nn.Module
        Takes epochs of shape (batch, n_chans, n_times) in microvolts, ``n_times`` being
        those of 30 s, and puts out logits of shape (batch, n_classes). It is copied.
    classes : {"aasm", "wldr", "wnr"} or list
        The stages in the order of the network's outputs: codes or names, or a scheme for
        its codes. ``classes_`` and the columns of ``predict_proba`` are sorted.
    sfreq : float
        Sampling rate in hertz.
    ch_names : list of str, optional
        The channels in the order in which the network takes them.
    n_chans : int, optional
        Their number, where their names are not known.
    **params
        Further parameters of :class:`SleepStager`; ``predict_nonlinearity=None`` if the
        network puts out probabilities.

    Returns
    -------
    SleepStager
        It predicts as it is; ``FrozenEstimator(stager)`` is a teacher, or what a
        :class:`FineTunedSleepStager` begins with; ``fit`` goes on from the weights. The
        subjects that it was trained on are not known. :func:`skleepkd.load` of a saved
        one needs ``module=stager.module``.

    Raises
    ------
    ValueError
        If neither the channels nor their number are given, or the output for two epochs is
        not of shape (2, n_classes).

    Examples
    --------
    >>> import numpy as np, torch
    >>> from skleepkd import SleepStager
    >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(300, 3))
    >>> stager = SleepStager.from_module(
    ...     network, classes=["W", "NREM", "REM"], sfreq=10.0, ch_names=["C3-M2"]
    ... )
    >>> stager.predict_proba(np.random.default_rng(0).normal(0, 30, (4, 1, 300))).shape
    (4, 3)
    >>> stager.classes_.tolist()
    ['NREM', 'REM', 'W']
    """
    script = isinstance(network, torch.jit.ScriptModule)  # which cannot be copied
    is_network = isinstance(network, torch.nn.Module) and not script
    if not is_network or (ch_names is None and n_chans is None):
        raise ValueError(
            "from_module takes a trained torch.nn.Module (no TorchScript) and ch_names=[...] or "
            f"n_chans=; given {type(network).__name__}, {ch_names=}, {n_chans=}."
        )
    scheme = isinstance(classes, str)
    given = np.arange(len(scheme_names(classes))) if scheme else np.asarray(classes)
    found, order = np.sort(find_classes(classes, given)), np.argsort(given)
    module = copy.deepcopy(network)
    if (order != np.arange(len(order))).any():
        # Among the weights, so that they do not fit a network without it.
        module.register_buffer("order_of_outputs", torch.from_numpy(order))
        module.register_forward_hook(_put_in_order)
    stager = cls(module=module, classes=classes if scheme else found.tolist(), **params)
    shape = (len(ch_names) if n_chans is None else n_chans, round(EPOCH_SECONDS * sfreq))
    silence = np.zeros((len(found), *shape), dtype=np.float32)
    silence = PairedEpochs(silence, sfreq=sfreq, ch_names=ch_names)
    stager.held_out_, stager.best_epoch_ = np.array([]), None
    stager._remember_input(silence, np.arange(len(found)), found, go_on=False)
    stager.n_scored_ = None
    stager.initialize()
    line = None if stager.predict_nonlinearity is None else "predict_nonlinearity=None"
    check_output(stager.module_, shape, len(found), stager.sequence_length_, line)
    return stager


def _put_in_order(module, inputs, output):
    return output.index_select(1, module.order_of_outputs)
