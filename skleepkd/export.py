"""Fitted stagers as ONNX files, for programs without Python."""

import copy
import io
import json
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from sklearn.utils import Bunch
from torch import nn

from skleepkd.distillation.teacher import final_stager
from skleepkd.memory import replace_file
from skleepkd.networks.build import uncompiled
from skleepkd.pipelines import split_pipeline

#: Largest difference between probabilities of ONNX Runtime and of torch.
_TOLERANCE = 1e-4


class ExportReport(Bunch):
    """What :func:`export_onnx` found; printed as one line."""

    def __repr__(self):
        line = (
            f"{self.path}: {self.n_bytes / 1e6:.2f} MB, {self.n_parameters:,} parameters, "
            f"probabilities within {self.max_difference:.1e} of torch's"
        )
        steps = ", ".join(self.steps_before)
        return f"{line}, to be given what {steps} make of the epochs" if steps else line

    __str__ = __repr__


def export_onnx(stager, path):
    """Write the network of a fitted stager as an ONNX file, and check what it computes.

    The file takes ``"epochs"``, float32 of shape (batch, n_channels, n_times) in
    microvolts, and returns ``"probabilities"`` of shape (batch, n_classes), those of
    ``predict_proba``. With a ``sequence_length`` above 1 it takes windows of consecutive
    epochs, (batch, sequence_length, n_channels, n_times), and returns (batch, n_classes,
    sequence_length): of overlapping windows the reader takes the votes together, as
    ``fusion`` says (:class:`skleepkd.sequences.Fusion`). Epochs of spectrograms have a
    trailing axis of frequencies. The batch may have any size.

    Before it is put in place, the file is run by ONNX Runtime on batches of random epochs,
    from flat ones to a spread of 1 mV, and held against torch on the CPU.

    Parameters
    ----------
    stager : SleepStager, DistilledSleepStager, FineTunedSleepStager or Pipeline
        Fitted; frozen or not, or a fitted search. Of a distilled stager the student is
        written. Of a ``Pipeline`` the steps before its stager are not: a warning, the
        metadata and the report name them, whose output the file is to be given.
    path : str or pathlib.Path
        The file, by custom ``*.onnx``; its folder exists. What was there before is
        replaced at once, or stays.

    Returns
    -------
    ExportReport
        A :class:`sklearn.utils.Bunch` that prints as a line, with ``path``, ``n_bytes``,
        ``n_parameters``, ``max_difference`` (of a probability, from torch) and
        ``steps_before`` (names of the steps that are not in the file).

    Raises
    ------
    ImportError
        If ONNX or ONNX Runtime is not installed (``pip install skleepkd[onnx]``).
    TypeError
        If it is no stager.
    sklearn.exceptions.NotFittedError
        If it is not fitted.
    RuntimeError
        If torch cannot write the network, or the file's probabilities differ from torch's
        by more than 1e-4.
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
    ``n_times``, ``ch_names``, ``sequence_length`` and ``steps_before``. Names of subjects
    and recordings are not in it. The file computes in single precision: with
    ``autocast=True`` ``predict_proba`` differs by what bfloat16 rounds (6e-4 were seen).

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from skleepkd import SleepStager, export_onnx
    >>> rng = np.random.default_rng(0)
    >>> X, y = 30 * rng.standard_normal((16, 1, 400)), np.tile([0, 2], 8)
    >>> small = {"module__filters": (4, 4), "module__pools": (4,)}
    >>> stager = SleepStager("UTime", max_epochs=1, **small).fit(X, y)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     report = export_onnx(stager, f"{folder}/ear.onnx")
    >>> report.n_parameters, report.max_difference < 1e-4
    (680, True)
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
        raise TypeError(
            "export_onnx takes a stager, or a Pipeline that ends in one; given "
            f"{type(stager).__name__}. (Of a RecordingStager give its stager.)"
        )
    last.check_is_fitted()
    names = [name for name, _ in steps]
    if steps:
        warnings.warn(
            f"The file holds the network alone, not the steps before it: it is to be given "
            f"what {', '.join(names)} of this pipeline make of the epochs "
            "(pipeline[:-1].transform).",
            stacklevel=2,
        )
    network = _Probabilities(last).eval()
    try:
        model = onnx.load_from_string(_trace(network))
        onnx.helper.set_model_props(model, _metadata(last, steps))
        data = model.SerializeToString()
        difference = _largest_difference(data, network)
    except Exception as error:  # torch's and ONNX Runtime's have no common kind
        first_line = str(error).strip().partition("\n")[0][:300]  # torch may add its graph
        name = type(network.network).__name__
        raise RuntimeError(f"torch cannot write {name} as ONNX ({first_line}).") from error
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
    names = stager.ch_names_
    as_json = {
        "classes": stager.classes_.tolist(),
        "sfreq": stager.signal_.get("sfreq"),
        "n_chans": int(stager.epoch_shape_[0]),
        "n_times": int(stager.epoch_shape_[1]),
        "ch_names": None if names is None else list(map(str, names)),
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
    run = onnxruntime.InferenceSession(
        data, options, providers=["CPUExecutionProvider"]
    ).run
    noise = np.random.default_rng(0).standard_normal((5, *network.shape), dtype=np.float32)
    largest = 0.0
    for batch in (1, 2, 5):
        for spread in (0.0, 1.0, 30.0, 1000.0):  # flat, weak, usual and extreme epochs
            epochs = np.float32(spread) * noise[:batch]
            (found,) = run(["probabilities"], {"epochs": epochs})
            with torch.no_grad():
                expected = network(torch.from_numpy(epochs)).numpy()
            if found.shape != expected.shape:
                raise ValueError(f"shape {found.shape}, where torch has {expected.shape}")
            difference = float(np.abs(found - expected).max())
            if not difference <= _TOLERANCE:  # nor NaN
                raise ValueError(
                    f"probabilities of ONNX Runtime differ from torch's by {difference:.2g} "
                    f"on {batch} epochs of a spread of {spread:g}"
                )
            largest = max(largest, difference)
    return largest
