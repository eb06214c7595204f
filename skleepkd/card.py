"""A model card: what a stager is, what it was trained on and what is not known of it."""

import math
import operator
from importlib.metadata import version

import numpy as np

from skleepkd._files import fits_json, from_json, to_json
from skleepkd.distillation.leakage import seen_by
from skleepkd.distillation.teacher import final_stager, is_frozen, network_spec
from skleepkd.networks.build import uncompiled
from skleepkd.pipelines import class_names, split_pipeline
from skleepkd.recording import RecordingStager

#: What a card tells of how a student was taught, by the parameter that says whom by.
_TAUGHT = {
    "teacher": (
        "strategy",
        "alpha",
        "temperature",
        "feature_loss",
        "feature_weight",
        "adapter",
        "start_from_teacher",
    ),
    "pretrained": ("trainable",),
}


def model_card(stager):
    """Describe a fitted stager in a page of Markdown.

    The card says what the stager is and takes, how it was trained, on how many people, how
    it did on those who chose its weights, and what it was not tested on. It does not
    name anyone: subjects and recordings are counted. (A file of
    :func:`skleepkd.save` does name them.) It is a beginning: who was recorded, by which
    device, who scored, and how well the stager did on other people is for its author to
    add.

    Parameters
    ----------
    stager : SleepStager, DistilledSleepStager, FineTunedSleepStager, Pipeline or RecordingStager
        Fitted, or loaded by :func:`skleepkd.load`, which keeps what the card tells. A
        ``Pipeline`` ends in a stager.

    Returns
    -------
    str

    Raises
    ------
    TypeError
        If it is no such stager.
    sklearn.exceptions.NotFittedError
        If it is not fitted.

    References
    ----------
    Mitchell, M. et al. (2019). Model cards for model reporting.

    Examples
    --------
    >>> import numpy as np
    >>> from skleepkd import SleepStager, model_card
    >>> rng = np.random.default_rng(0)
    >>> X, y = 30 * rng.standard_normal((16, 1, 400)), np.tile(["W", "N2"], 8)
    >>> small = {"module__filters": (4, 4), "module__pools": (4,)}
    >>> print(model_card(SleepStager("UTime", max_epochs=1, **small).fit(X, y)))
    # Sleep stager: UTime
    <BLANKLINE>
    For research. Not a medical device: ...
    """
    whole, recording = stager, None
    if isinstance(stager, RecordingStager):
        recording, whole = stager, stager.stager
    steps, stager = split_pipeline(whole)
    if final_stager(stager) is None:
        raise TypeError(
            "model_card takes a stager, a Pipeline that ends in one or a RecordingStager; "
            f"given {type(whole).__name__}."
        )
    stager.check_is_fitted()
    parts = {
        "What it is": _what(stager),
        "What it takes": _signal(stager, steps, recording),
        "How it was trained": _training(stager),
        "What it was not tested on": _unknown(),
        "Versions": [f"{name} {number}" for name, number in _versions(stager).items()],
    }
    lines = [
        f"# Sleep stager: {_network_name(stager)}",
        "",
        "For research. Not a medical device: it is not to be used for the diagnosis or the "
        "treatment of anyone.",
    ]
    for title, items in parts.items():
        lines += ["", f"## {title}", "", *(f"- {item}" for item in items)]
    return "\n".join(lines) + "\n"


# ---------------------------------------------------------------- the card's parts


def _what(stager):
    origin = origin_of(stager)
    network = uncompiled(stager.module_)
    n_parameters = sum(parameter.numel() for parameter in network.parameters())
    n_bytes = sum(t.numel() * t.element_size() for t in network.state_dict().values())
    _, options = network_spec(stager)
    options = ", ".join(f"{name}={value!r}" for name, value in options.items())
    items = [
        f"Network: {_network_name(stager)}" + (f" ({options})" if options else ""),
        f"Size: {n_parameters:,} parameters, {n_bytes / 1e6:.2f} MB of weights",
        f"Answers: a probability for each of {_classes(stager)}, every 30 s",
        f"Trained as: {origin['stager']}",
    ]
    taught = from_json(origin["taught"])
    return items + [f"{name}: {value}" for name, value in (taught or {}).items()]


def _signal(stager, steps, recording):
    n_channels, _, *rest = stager.epoch_shape_
    names = stager.ch_names_
    names = ", ".join(map(str, names)) if names else "names not known"
    sfreq = stager.signal_.get("sfreq")
    rate = "sampling rate not known" if sfreq is None else f"{sfreq:g} Hz"
    unit = "as the steps below make it" if steps else "in microvolts"
    if rest:
        unit = "a spectrogram of each epoch" + (", " + unit if steps else "")
    shape = " x ".join(map(str, stager.epoch_shape_))
    items = [
        f"Channels: {n_channels} ({names}), in this order",
        f"Signal: {rate}; epochs of 30 s, {shape} values, {unit}",
    ]
    if stager.sequence_length_ > 1:
        items.append(
            f"Sequences: {stager.sequence_length_} consecutive epochs at a time, votes "
            f"fused by {stager.fusion}"
        )
    if recording is not None:
        items += [f"Preprocessor: {step!r}" for step in recording.preprocessors]
    return items + [f"Step: {name}, {_one_line(step)}" for name, step in steps]


def _training(stager):
    people, nights = seen_by(stager, "subject"), seen_by(stager, "recording")
    passes = len(stager.history_)
    best = getattr(stager, "best_epoch_", None)
    kept = "the last ones" if best is None else f"those after pass {best}"
    items = [
        f"Fitted on: {_count(people, 'subject')}, {_count(nights, 'recording')} (with those "
        "of a frozen teacher or pretrained stager)",
        f"Passes: {passes}; weights kept: {kept}",
        f"Batches of {stager.batch_size}, learning rate {stager.lr:g}, random_state "
        f"{stager.random_state!r}",
    ]
    if len(getattr(stager, "held_out_", ())):
        row = stager.history_[-1 if best is None else best - 1] if passes else {}
        kappa = row.get("valid_kappa", math.nan)
        items.append(
            f"Cohen's kappa on {_count(stager.held_out_, 'held-out subject')}: {kappa:.2f}. "
            "They chose the weights, so that it is optimistic."
        )
    else:
        items.append("Nobody was held out to choose the weights.")
    return items


def _count(names, what):
    if names is None:
        return f"{what}s not known"
    return f"{len(names)} {what}{'' if len(names) == 1 else 's'}"


def _classes(stager):
    """Classes, with the names of their codes where these are known."""
    pairs = zip(map(str, stager.classes_), map(str, class_names(stager)), strict=True)
    return ", ".join(
        label if label == name else f"{label} ({name})" for label, name in pairs
    )


def _unknown():
    return [
        "People, devices, montages and sampling rates other than those of its training: "
        "nothing is known of them unless it is written here.",
        "Patients, drugs, children and the old, unless they were among the people trained on.",
        "Recordings with artefacts, or with channels that came off, are staged as any other.",
        "Add a score on people who took no part in the training. A kappa on held-out "
        "subjects is no such score: they chose the weights.",
    ]


def _one_line(value):
    return " ".join(repr(value).split())


def _network_name(stager):
    return type(uncompiled(stager.module_)).__name__


# ---------------------------------------------------------------- where it came from


def origin_of(stager):
    """Tell what a stager was trained as, also of one that was loaded.

    Parameters
    ----------
    stager : SleepStager, DistilledSleepStager or FineTunedSleepStager
        Fitted.

    Returns
    -------
    dict
        ``stager`` (the class), ``taught`` (by whom and how; None for one that was trained
        alone) and ``versions`` (of the libraries), as JSON.
    """
    kept, passes = getattr(stager.history_, "origin", (None, []))
    now = list(stager.history_)
    if kept is not None and all(map(operator.is_, passes, now)) and len(passes) <= len(now):
        return kept
    taught = {}
    for by, names in _TAUGHT.items():
        if getattr(stager, f"{by}_", None) is not None:
            taught[by] = _describe(getattr(stager, f"{by}_"))
            params = stager.get_params(deep=False)
            taught.update({name: _plain(params[name]) for name in names if name in params})
    return {
        "stager": type(stager).__name__,
        "taught": to_json(taught) if taught else None,
        "versions": {name: version(name) for name in ("skleepkd", "torch", "numpy")},
    }


def read_origin(about):
    """Read what :func:`origin_of` wrote into a file; one of format 1 tells less."""
    origin = {name: about.get(name) for name in ("stager", "taught", "versions")}
    if about["format"] == 1:
        origin["versions"] = {"skleepkd": about["version"]}
    taught = from_json(origin["taught"])
    told = [origin["stager"], *origin["versions"], *origin["versions"].values()]
    if taught is not None:
        told += taught.keys()
    if not all(type(text) is str for text in told):
        raise ValueError(f"It tells {told!r} of its origin.")
    return origin


def keep_origin(stager, origin):
    """Remember what a loaded stager was trained as, until it is fitted anew."""
    # A new fit begins with a history of other passes; one that goes on keeps these.
    stager.history_.origin = origin, list(stager.history_)


def _versions(stager):
    return origin_of(stager)["versions"]


def _plain(value):
    if fits_json(value) and not isinstance(value, np.ndarray):
        return value
    return getattr(value, "__name__", type(value).__name__)


def _describe(teacher):
    """Name a teacher by its classes and its network."""
    steps, last = split_pipeline(teacher)
    names = [type(step).__name__ for _, step in steps]
    network = "" if final_stager(last) is None else f" of {_network_name(last)}"
    described = ", then ".join([*names, f"{type(last).__name__}{network}"])
    return f"{described}, frozen" if is_frozen(teacher) else described
