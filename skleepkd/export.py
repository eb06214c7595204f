"""Fitted stagers as ONNX files, for programs without Python."""

import copy
import io
import json
import statistics
import time
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from sklearn.utils import Bunch
from torch import nn
from torch.nn.utils import parametrize

from skleepkd.distillation.teachers import final_stager
from skleepkd.memory import replace_file
from skleepkd.networks.declared import uncompiled
from skleepkd.pipelines import split_pipeline

#: Format of the metadata.
FORMAT = 1

#: Version of ONNX's operators: read by ONNX Runtime since 1.14.
_OPERATORS = 18

#: Largest difference between probabilities of ONNX Runtime and of torch.
TOLERANCE = 1e-4

#: Spread of the random epochs that both are asked about: flat, weak, usual, extreme. In
#: microvolts, where the network sees a signal.
_SPREADS = (0.0, 1.0, 30.0, 1000.0)

#: Sizes of the batches.
_BATCHES = (1, 2, 5)

#: Runs of one epoch whose median is reported.
_RUNS = 20


class ExportReport(Bunch):
    """What :func:`export_onnx` found; printed as one line."""

    def __repr__(self):
        steps = (
            f", to be given what {', '.join(self.steps_before)} make of the epochs"
            if self.steps_before
            else ""
        )
        return (
            f"{self.path}: {self.n_bytes / 1e6:.2f} MB, {self.n_parameters:,} parameters, "
            f"{self.milliseconds:.2f} ms per epoch on one thread of ONNX Runtime, "
            f"probabilities within {self.max_difference:.1e} of torch's{steps}"
        )

    __str__ = __repr__


def export_onnx(stager, path):
    """Write the network of a fitted stager as an ONNX file, and check what it answers.

    The file takes ``"epochs"``, float32 of shape (batch, n_channels, n_times) in
    microvolts, and answers ``"probabilities"`` of shape (batch, n_classes), those of
    ``predict_proba``. With a ``sequence_length`` above 1 it takes windows of consecutive
    epochs, (batch, sequence_length, n_channels, n_times), and answers (batch, n_classes,
    sequence_length): of overlapping windows the reader takes the votes together, as
    ``fusion`` says (:class:`skleepkd.sequences.Fusion`). Epochs of spectrograms have a
    trailing axis of frequencies. The batch may have any size.

    Before it is put in place, the file is run by ONNX Runtime on batches of random epochs,
    from flat ones to a spread of 1 mV, and held against torch on the CPU.

    Parameters
    ----------
    stager : SleepStager, DistilledSleepStager, FineTunedSleepStager or Pipeline
        Fitted; frozen or not, or a fitted search. Of a distilled stager the student is
        written. Of a ``Pipeline`` that ends in a stager only that stager is: a warning, the
        metadata and the report name the steps before it, whose answers the file is to be
        given. (Of ``pipeline[-1]`` alone they cannot: it does not know what stood before
        it.)
    path : str or pathlib.Path
        The file, by custom ``*.onnx``; its folder exists. What was there before is
        replaced at once, or stays.

    Returns
    -------
    ExportReport
        A :class:`sklearn.utils.Bunch` that prints as a line, with ``path``, ``n_bytes``,
        ``n_parameters``, ``max_difference`` (of a probability, from torch),
        ``milliseconds`` (to stage one epoch on one thread of this machine's CPU, the median
        of 20 runs; with sequences that of a window by its number of epochs) and
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
        If torch cannot write the network, or if what it wrote answers otherwise: by more
        than 1e-4.
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
    and recordings are not in it.

    The file computes in single precision: with ``autocast=True`` its answers differ from
    those of ``predict_proba`` by what bfloat16 rounds (6e-4 were seen).

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
    steps = dict(steps)
    if steps:
        warnings.warn(
            f"The file holds the network alone, not the steps before it: it is to be given "
            f"what {', '.join(steps)} of this pipeline make of the epochs "
            "(pipeline[:-1].transform).",
            stacklevel=2,
        )
    network = _Answering(last).eval()
    properties = _properties(last, steps)
    data, difference = _written(network, last, properties, onnx)
    replace_file(path, data)
    return ExportReport(
        path=str(Path(path)),
        n_bytes=len(data),
        n_parameters=sum(p.numel() for p in last.module_.parameters()),
        max_difference=difference,
        milliseconds=_milliseconds(data, _epochs(last, 1, 30.0)) / last.sequence_length_,
        steps_before=list(steps),
    )


class _Answering(nn.Module):
    """A stager's network on the CPU, that answers with probabilities."""

    def __init__(self, stager):
        super().__init__()
        self.network = copy.deepcopy(uncompiled(stager.module_)).cpu()
        self.sequence_length = stager.sequence_length_
        self.nonlinearity = stager._get_predict_nonlinearity()

    def forward(self, epochs):
        network = self.network
        if self.sequence_length > 1 and hasattr(network, "encode_epochs"):
            # The length is constant, so that the recurrent layer's batch may vary:
            # (batch, sequence, ...) -> (batch * sequence, n_features) -> (batch, sequence, ...)
            features = network.encode_epochs(epochs.flatten(0, 1))
            features = features.reshape(-1, self.sequence_length, features.shape[-1])
            return self.nonlinearity(network.classify_sequence(features).float())
        return self.nonlinearity(network(epochs).float())


def _properties(stager, steps):
    """Return what the file's metadata say."""
    signal = stager.signal_
    # What steps or a spectrogram make is no longer in microvolts.
    is_signal = not steps and len(stager.epoch_shape_) == 2
    names = stager.ch_names_
    as_json = {
        "classes": stager.classes_.tolist(),
        "sfreq": signal.get("sfreq"),
        "n_chans": int(stager.epoch_shape_[0]),
        "n_times": int(stager.epoch_shape_[1]),
        "ch_names": None if names is None else list(map(str, names)),
        "sequence_length": int(stager.sequence_length_),
        "steps_before": {name: repr(step) for name, step in steps.items()},
    }
    return {
        "format": str(FORMAT),
        "skleepkd": version("skleepkd"),
        "network": type(uncompiled(stager.module_)).__name__,
        "unit": "microvolts" if is_signal else "none: as the steps before make it",
        "fusion": stager.fusion if stager.sequence_length_ > 1 else "none",
        **{key: json.dumps(value, default=str) for key, value in as_json.items()},
    }


def _written(network, stager, properties, onnx):
    """Write the network by the first of torch's two ways that answers as torch does."""
    failures = []
    for way in (_traced, _exported):
        try:
            with warnings.catch_warnings(), torch.no_grad(), parametrize.cached():
                # Of shapes that are compared in Python, which a batch does not change, and
                # of deprecation; the answers are checked below.
                warnings.simplefilter("ignore")
                epochs = _epochs(stager, 2, 30.0)
                # Asked once before, so that weights that are computed from others
                # (braindecode's EEGNet) are constants, which only the second way takes.
                network(epochs)
                model = way(network, epochs, onnx)
            onnx.helper.set_model_props(model, properties)
            data = model.SerializeToString()
            return data, _check(data, network, stager)
        except Exception as error:  # torch's and ONNX Runtime's have no common kind
            failures.append(error)
    name = type(network.network).__name__
    # torch adds its graph to some messages.
    said = [str(error).strip().partition("\n")[0][:300] for error in failures]
    raise RuntimeError(
        f"torch cannot write {name} as ONNX, by tracing it ({said[0]}) or by exporting it "
        f"({said[1]})."
    ) from failures[0]


def _traced(network, epochs, onnx):
    """Write by tracing.

    torch says that this way is deprecated, for the other one. It is tried first since it
    takes a fraction of a second for the networks here, the other one up to twenty, and
    since their answers are the same. Where a later torch no longer has it, the other
    one follows.
    """
    buffer = io.BytesIO()
    torch.onnx.export(
        network,
        (epochs,),
        buffer,
        input_names=["epochs"],
        output_names=["probabilities"],
        dynamic_axes={"epochs": {0: "batch"}, "probabilities": {0: "batch"}},
        opset_version=_OPERATORS,
        dynamo=False,
    )
    return onnx.load_from_string(buffer.getvalue())


def _exported(network, epochs, onnx):
    """Write what ``torch.export`` finds."""
    return torch.onnx.export(
        network,
        (epochs,),
        input_names=["epochs"],
        output_names=["probabilities"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        opset_version=_OPERATORS,
        dynamo=True,
        verbose=False,
    ).model_proto


def _epochs(stager, batch, spread):
    """Draw random epochs, or windows of them, as the network sees them."""
    shape = tuple(map(int, stager.epoch_shape_))
    if stager.sequence_length_ > 1:
        shape = (int(stager.sequence_length_), *shape)
    epochs = np.random.default_rng(0).standard_normal((batch, *shape), dtype=np.float32)
    return torch.from_numpy(np.float32(spread) * epochs)


def _session(data):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what goes wrong is raised
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def _check(data, network, stager):
    """Return the largest difference from torch, or raise where it is too large."""
    session = _session(data)
    largest = 0.0
    for batch in _BATCHES:
        for spread in _SPREADS:
            epochs = _epochs(stager, batch, spread)
            (found,) = session.run(["probabilities"], {"epochs": epochs.numpy()})
            with torch.no_grad():
                expected = network(epochs).numpy()
            if found.shape != expected.shape:
                raise ValueError(
                    f"ONNX Runtime answers {found.shape}, torch {expected.shape}"
                )
            difference = np.abs(found - expected).max()
            if not difference <= TOLERANCE:  # nor NaN
                raise ValueError(
                    f"probabilities of ONNX Runtime differ from torch's by {difference:.2g} "
                    f"on {batch} epochs of a spread of {spread:g}"
                )
            largest = max(largest, float(difference))
    return largest


def _milliseconds(data, epochs):
    """Measure the median time of a run on one thread."""
    session, given = _session(data), {"epochs": epochs.numpy()}
    times = []
    for _ in range(_RUNS + 3):  # the first ones find their memory
        start = time.perf_counter()
        session.run(None, given)
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times[3:])
