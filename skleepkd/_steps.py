"""Transformers, and preprocessors of recordings, as JSON that names no other code.

What a file names is looked up here and nowhere else: no module is imported, and nothing
called, because a file says so.
"""

import math
from importlib import import_module

import numpy as np
from sklearn.preprocessing import FunctionTransformer

from skleepkd._files import from_json, to_json
from skleepkd.preprocessing import (
    EpochScaler,
    EpochwiseTransformer,
    LogSpectrogram,
    PairedTransformer,
    SourceSelector,
)

#: Transformers that a file may name, and what ``fit`` learns.
_TRANSFORMERS = {
    EpochScaler: (),
    EpochwiseTransformer: (),
    # The identity, which PairedTransformer takes for None.
    FunctionTransformer: (),
    LogSpectrogram: (
        "epoch_shape_",
        "sfreq_",
        "window_",
        "hop_",
        "n_fft_",
        "mean_",
        "scale_",
        "source_",
    ),
    PairedTransformer: ("source_", "target_"),
    SourceSelector: (),
}

#: Functions that a file may name, by the module that holds them.
_FUNCTIONS = {
    "skleepkd.preprocessing": (
        "band_pass",
        "derive",
        "ear_derivations",
        "reject_ear_electrodes",
        "scalp_derivations",
    ),
    "braindecode.preprocessing": (
        "exponential_moving_demean",
        "exponential_moving_standardize",
        "filterbank",
    ),
}

#: Methods of ``mne.io.Raw`` that a file may name: they change the signal in memory, its
#: channels or their names, and neither read nor write a file, nor call what they are given.
_RAW_METHODS = (
    "add_reference_channels",
    "crop",
    "drop_channels",
    "filter",
    "interpolate_bads",
    "load_data",
    "notch_filter",
    "pick",
    "pick_channels",
    "pick_types",
    "rename_channels",
    "reorder_channels",
    "resample",
    "rescale",
    "savgol_filter",
    "set_channel_types",
    "set_eeg_reference",
)

#: Arguments of theirs that name a file or start processes.
_NOT_GIVEN = ("memmap", "n_jobs")


# ---------------------------------------------------------------- transformers


def step_to_json(step):
    """Write a transformer as JSON.

    Parameters
    ----------
    step : transformer
        Fitted or not.

    Returns
    -------
    dict

    Raises
    ------
    TypeError
        If it is none of ours, or has a parameter that no file can hold.
    """
    own = type(step).__name__
    if type(step) not in _TRANSFORMERS:
        raise TypeError(
            f"{own} is not one of skleepkd.preprocessing's transformers, which a file names "
            "and holds without code"
        )
    parameters = step.get_params(deep=False)
    if type(step) is FunctionTransformer:
        if parameters != FunctionTransformer().get_params():
            raise TypeError("a FunctionTransformer holds code of its own")
        parameters = {}
    fitted = [name for name in _TRANSFORMERS[type(step)] if hasattr(step, name)]
    try:
        return {
            "class": own,
            "parameters": {key: _to_value(value) for key, value in parameters.items()},
            "fitted": {name: _to_value(getattr(step, name)) for name in fitted},
        }
    except TypeError as error:
        raise TypeError(f"{own}: {error}") from error


def step_from_json(kept):
    """Read what :func:`step_to_json` wrote.

    Parameters
    ----------
    kept : dict
        Of :func:`json.loads`.

    Returns
    -------
    transformer

    Raises
    ------
    ValueError, TypeError, LookupError or AttributeError
        If it is not as :func:`step_to_json` writes it.
    """
    known = {kind.__name__: kind for kind in _TRANSFORMERS}
    if kept["class"] not in known:
        raise ValueError(f"There is no transformer called {kept['class']!r}.")
    kind = known[kept["class"]]
    parameters = {key: _from_value(value) for key, value in kept["parameters"].items()}
    unknown = set(parameters) - set(kind._get_param_names())
    if unknown or (kind is FunctionTransformer and parameters):
        raise ValueError(f"{kind.__name__} is given {', '.join(parameters)}.")
    step = kind(**parameters)
    fitted = {name: _from_value(value) for name, value in kept["fitted"].items()}
    learned = _TRANSFORMERS[kind]
    if fitted and set(fitted) != set(learned):
        raise ValueError(f"{kind.__name__} has learned {', '.join(fitted)}.")
    if not learned:
        step.fit(None)  # which checks the parameters, and looks at no epochs
    vars(step).update(fitted)
    if fitted and kind in _CHECKS:
        _CHECKS[kind](step)
    return step


def _to_value(value):
    """Write a parameter or what was learned: a transformer, a function or a plain value."""
    if type(value) in _TRANSFORMERS or hasattr(value, "transform"):
        return {"transformer": step_to_json(value)}
    if callable(value):
        return {"function": _name_of(value)}
    return to_json(value)


def _from_value(value):
    if isinstance(value, dict) and "transformer" in value:
        return step_from_json(value["transformer"])
    if isinstance(value, dict) and "function" in value:
        return _function_called(value["function"])
    return from_json(value)


def _check_paired(step):
    """Refuse a PairedTransformer that has learned anything but transformers."""
    for name in ("source", "target", "source_", "target_"):
        value = getattr(step, name)
        if type(value) not in _TRANSFORMERS and (value is not None or name == "target_"):
            raise ValueError(f"{name} of a PairedTransformer is {value!r}.")


def _check_spectrogram(step):
    """Refuse spectrograms whose parts do not belong together."""
    _need(type(step.epoch_shape_) is tuple, "epoch_shape_")
    n_channels, n_times = map(_whole, step.epoch_shape_)
    window, hop = round(step.window * step.sfreq_), round(step.hop * step.sfreq_)
    n_fft = _whole(step.n_fft_)
    _need(0 < step.sfreq_ <= 1e6 and 1 <= window <= n_times, "sfreq_")
    _need(step.hop_ == hop >= 1, "hop_")
    _need(n_fft >= window and step.n_fft in (None, n_fft), "n_fft_")
    _need(0 <= step.floor < math.inf, "floor")
    _need(step.window_.dtype == np.float32 and step.window_.shape == (window,), "window_")
    _need(np.isfinite(step.window_).all(), "window_")
    if step.standardize:
        for array in (step.mean_, step.scale_):
            _need(array.dtype == np.float64, "mean_ or scale_")
            _need(array.shape == (n_channels, n_fft // 2 + 1), "mean_ or scale_")
            _need(np.isfinite(array).all(), "mean_ or scale_")
        _need((step.scale_ > 0).all(), "scale_")
    else:
        _need(step.mean_ is None and step.scale_ is None, "mean_ or scale_")
    _need(step.source_ is None or type(step.source_) is LogSpectrogram, "source_")


_CHECKS = {LogSpectrogram: _check_spectrogram, PairedTransformer: _check_paired}


def _whole(number):
    """Refuse what is no number of samples or channels."""
    _need(type(number) is int and 0 < number <= 10**6, f"a number, {number!r},")
    return number


def _need(holds, what):
    if not holds:
        raise ValueError(f"{what} does not fit the rest of the transformer.")


# ---------------------------------------------------------------- functions


def _name_of(function):
    """Name a function that :func:`_function_called` finds again."""
    name = getattr(function, "__name__", "")
    package = str(getattr(function, "__module__", "")).partition(".")[0]
    for module, names in _FUNCTIONS.items():
        if name in names and module.startswith(f"{package}."):
            dotted = f"{module}.{name}"
            if _function_called(dotted) is function:
                return dotted
    raise TypeError(
        f"{function!r} is code, which no file holds; functions of skleepkd.preprocessing "
        "and of braindecode.preprocessing are named"
    )


def _function_called(dotted):
    """Find a function by its name, if it is one of the few that a file may name."""
    module, _, name = dotted.rpartition(".")
    if name not in _FUNCTIONS.get(module, ()):
        raise ValueError(f"There is no function called {dotted!r} that a file may name.")
    return getattr(import_module(module), name)


# ---------------------------------------------------------------- preprocessors


def preprocessor_to_json(step):
    """Write one of braindecode's preprocessors as JSON.

    Parameters
    ----------
    step : braindecode.preprocessing.Preprocessor
        Of a method of ``mne.io.Raw``, or of a function that a file may name.

    Returns
    -------
    dict

    Raises
    ------
    TypeError
        If it is anything else, or an argument is one that no file can hold.
    """
    from braindecode.preprocessing import Preprocessor

    own = type(step).__name__
    if not isinstance(step, Preprocessor) or type(step).apply is not Preprocessor.apply:
        raise TypeError(f"{own} is not braindecode's Preprocessor")
    # How many processes work on it is no part of what is done.
    kwargs = {key: value for key, value in step.kwargs.items() if key != "n_jobs"}
    if isinstance(step.fn, str):
        if step.fn not in _RAW_METHODS:
            raise TypeError(
                f"Raw.{step.fn} is not among the methods that a file may name: "
                f"{', '.join(_RAW_METHODS)}"
            )
        name = {"method": step.fn}
    else:
        name = {"function": _name_of(step.fn)}
    if "memmap" in kwargs:
        raise TypeError("memmap= names a file of this machine")
    try:
        kwargs = {key: to_json(value) for key, value in kwargs.items()}
    except TypeError as error:
        raise TypeError(f"{own}: {error}") from error
    return {**name, "apply_on_array": bool(step.apply_on_array), "kwargs": kwargs}


def preprocessor_from_json(kept):
    """Read what :func:`preprocessor_to_json` wrote.

    Parameters
    ----------
    kept : dict
        Of :func:`json.loads`.

    Returns
    -------
    braindecode.preprocessing.Preprocessor

    Raises
    ------
    ValueError, TypeError, LookupError or AttributeError
        If it is not as :func:`preprocessor_to_json` writes it.
    """
    from braindecode.preprocessing import Preprocessor

    on_array = kept["apply_on_array"]
    if "method" in kept:
        function = kept["method"]
        if function not in _RAW_METHODS or on_array:
            raise ValueError(f"There is no method {function!r} that a file may name.")
    else:
        function = _function_called(kept["function"])
    kwargs = {key: from_json(value) for key, value in kept["kwargs"].items()}
    given = [name for name in (*_NOT_GIVEN, "fn", "apply_on_array") if name in kwargs]
    if given or type(on_array) is not bool:
        raise ValueError(f"A preprocessor is given {', '.join(given)}.")
    return Preprocessor(function, apply_on_array=on_array, **kwargs)
