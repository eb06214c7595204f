"""Fitted stagers as ONNX files, for programs without Python."""

import copy
import io
import json
import warnings
from importlib.metadata import version
from itertools import product
from pathlib import Path

import numpy as np
import torch
from sklearn.utils import Bunch
from torch import nn

from skleepkd.distillation.teacher import final_stager
from skleepkd.memory import replace_file
from skleepkd.networks.build import uncompiled
from skleepkd.pipelines import split_pipeline
from skleepkd.warn import warn


class ExportReport(Bunch):
    """What :func:`export_onnx` found; printed as one line."""

    def __str__(self):
        steps = ", ".join(self.steps_before)
        given = f", to be given what {steps} make of the epochs" if steps else ""
        return (
            f"{self.path}: {self.n_bytes / 1e6:.2f} MB, {self.n_parameters:,} parameters, "
            f"probabilities within {self.max_difference:.1e} of torch's{given}"
        )

    __repr__ = __str__


def export_onnx(stager, path):
    """Write the network of a fitted stager as an ONNX file, and check what it computes.

    The file takes ``"epochs"``, float32 of shape (batch, n_channels, n_times) in
    microvolts, and returns ``"probabilities"`` of shape (batch, n_classes), those of
    ``predict_proba``. With a ``sequence_length`` above 1 it takes windows of consecutive
    epochs, (batch, sequence_length, n_channels, n_times), and returns (batch, n_classes,
    sequence_length), whose overlaps the reader fuses (:class:`skleepkd.sequences.Fusion`).
    Epochs of spectrograms have a trailing axis of frequencies.

    Parameters
    ----------
    stager : SleepStager, DistilledSleepStager, FineTunedSleepStager or Pipeline
        Fitted; frozen or not, or a fitted search. Of a ``Pipeline`` the steps before its
        stager are not written: the file is to be given their output.
    path : str or pathlib.Path
        The file, by custom ``*.onnx``. What was there before is replaced at once, or stays.

    Returns
    -------
    ExportReport
        A :class:`sklearn.utils.Bunch` of ``path``, ``n_bytes``, ``n_parameters``,
        ``max_difference`` (of a probability, from torch) and ``steps_before`` (names).

    Raises
    ------
    ImportError
        If ONNX or ONNX Runtime is not installed (``pip install skleepkd[onnx]``).
    TypeError, sklearn.exceptions.NotFittedError
        If it is no stager, or not fitted.
    RuntimeError
        If torch cannot write the network, or the file's probabilities of random epochs, flat
        to a spread of 1 mV, differ from torch's by more than 1e-4 in ONNX Runtime.
    OSError
        If the file cannot be written.

    Warns
    -----
    UserWarning
        If a ``Pipeline`` has steps before the stager.

    Notes
    -----
    The file's metadata are text: ``format``, ``skleepkd`` (the version), ``network``,
    ``unit`` and ``fusion``; and JSON: ``classes``, ``sfreq`` (hertz), ``n_chans``,
    ``n_times``, ``ch_names``, ``sequence_length`` and ``steps_before``. The file computes in
    single precision: with ``autocast=True`` ``predict_proba`` differs by 6e-4 or so.
    """
    try:
        import onnx
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "export_onnx needs onnx and onnxruntime: pip install 'skleepkd[onnx]'."
        ) from error

    steps, last = split_pipeline(stager)
    if final_stager(last) is None:
        kind = type(stager).__name__
        raise TypeError(f"export_onnx takes a stager or a Pipeline of one; given {kind}.")
    last.check_is_fitted()
    names = [name for name, _ in steps]
    if steps:
        made = f"what {', '.join(names)} make of the epochs, pipeline[:-1].transform(X)"
        warn(f"The network alone is written: give it {made}.")
    network = _Probabilities(last).eval()
    try:
        model = onnx.load_from_string(_trace(network))
        onnx.helper.set_model_props(model, _metadata(last, steps))
        data = model.SerializeToString()
        difference = _largest_difference(data, network)
    except Exception as error:  # torch's and ONNX Runtime's have no common kind
        reason = str(error).strip().partition("\n")[0][:300]  # torch may add its graph
        name = type(network.network).__name__
        raise RuntimeError(f"torch cannot write {name} as ONNX ({reason}).") from error
    replace_file(path, data)
    return ExportReport(
        path=str(Path(path)),
        n_bytes=len(data),
        n_parameters=sum(p.numel() for p in last.module_.parameters()),
        max_difference=difference,
        steps_before=names,
    )


class _Probabilities(nn.Module):
    """A copy of a stager's network on the CPU whose output are probabilities."""

    def __init__(self, stager):
        super().__init__()
        self.network = copy.deepcopy(uncompiled(stager.module_)).cpu()
        # ONNX has no word for how constrained weights (braindecode's EEGNet) are computed.
        for module in list(self.network.modules()):
            for name in getattr(module, "parametrizations", ()):
                module.parametrizations[name] = _Constant(getattr(module, name).detach())
        self.nonlinearity = stager._get_predict_nonlinearity()
        self.length = stager.sequence_length_
        one = tuple(map(int, stager.epoch_shape_))
        self.shape = one if self.length == 1 else (self.length, *one)

    def forward(self, epochs):
        network = self.network
        if self.length > 1 and hasattr(network, "encode_epochs"):
            # The length is constant, so that the recurrent layer's batch may vary:
            # (batch, sequence, ...) -> (batch * sequence, n_features) -> (batch, sequence, ...)
            features = network.encode_epochs(epochs.flatten(0, 1))
            features = features.reshape(-1, self.length, features.shape[-1])
            return self.nonlinearity(network.classify_sequence(features).float())
        return self.nonlinearity(network(epochs).float())


class _Constant(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.register_buffer("value", value)

    def forward(self):
        return self.value


def _trace(network):
    """Write by tracing: torch's other exporter takes up to twenty seconds for the same."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        # Of deprecation, and of shapes compared in Python, which a batch does not change.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (torch.ones(2, *network.shape),),
            buffer,
            input_names=["epochs"],
            output_names=["probabilities"],
            dynamic_axes={"epochs": {0: "batch"}, "probabilities": {0: "batch"}},
            opset_version=18,  # read by ONNX Runtime since 1.14
            dynamo=False,
        )
    return buffer.getvalue()


def _metadata(stager, steps):
    # What steps or a spectrogram make is no longer in microvolts.
    is_signal = not steps and len(stager.epoch_shape_) == 2
    as_json = {
        "classes": stager.classes_.tolist(),
        "sfreq": stager.signal_.get("sfreq"),
        "n_chans": int(stager.epoch_shape_[0]),
        "n_times": int(stager.epoch_shape_[1]),
        "ch_names": stager.ch_names_,
        "sequence_length": int(stager.sequence_length_),
        "steps_before": {name: repr(step) for name, step in steps},
    }
    return {
        "format": "1",
        "skleepkd": version("skleepkd"),
        "network": type(uncompiled(stager.module_)).__name__,
        "unit": "microvolts" if is_signal else "none: as the steps before make it",
        "fusion": stager.fusion if stager.sequence_length_ > 1 else "none",
        **{key: json.dumps(value, default=str) for key, value in as_json.items()},
    }


def _largest_difference(data, network):
    """Largest difference of a probability from torch's; an error where it is too large."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what goes wrong is raised
    session = onnxruntime.InferenceSession(data, options, ["CPUExecutionProvider"])
    noise = np.random.default_rng(0).standard_normal((5, *network.shape), dtype=np.float32)
    largest = 0.0
    # Flat, weak, usual and extreme epochs.
    for batch, spread in product((1, 2, 5), np.float32([0, 1, 30, 1000])):
        epochs = spread * noise[:batch]
        (found,) = session.run(["probabilities"], {"epochs": epochs})
        with torch.no_grad():
            expected = network(torch.from_numpy(epochs)).numpy()
        difference = float(np.abs(found - expected).max())
        if found.shape != expected.shape or not difference <= 1e-4:  # nor NaN
            raise ValueError(
                f"probabilities of ONNX Runtime differ by {difference:.2g} for {batch} epochs"
            )
        largest = max(largest, difference)
    return largest
