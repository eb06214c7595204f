"""What stages are called: by this package, by YASA, in EDF+ and in files of scorings."""

import numpy as np

from skleepkd.stages import (
    MISSING,
    SCHEMES,
    UNSCORED,
    UNSCORED_NAME,
    shortened,
    stage_of_text,
)
from skleepkd.warn import warn

#: Of each stage the end of EDF+'s text "Sleep stage ...", YASA's name and the meaning.
WORDS = {
    "W": ("W", "WAKE", "wakefulness"),
    "N1": ("1", "N1", "stage N1"),
    "N2": ("2", "N2", "stage N2"),
    "N3": ("3", "N3", "stage N3"),
    "REM": ("R", "REM", "REM sleep"),
    "L": ("L", "LIGHT", "light sleep (N1, N2)"),
    "D": ("D", "DEEP", "deep sleep (N3)"),
    "N": ("N", "NREM", "non-REM sleep (N1, N2, N3)"),
    "R": ("R", "REM", "REM sleep"),
    UNSCORED_NAME: ("?", "UNS", "unscored"),
}

#: Words for the stages of coarser schemes, and where finer stages go in them.
_COARSE = {"l": "L", "light": "L", "d": "D", "deep": "D", "n": "N", "nrem": "N"}
_MERGED = {
    "wldr": {"N1": "L", "N2": "L", "N3": "D", "REM": "R"},
    "wnr": {"N1": "N", "N2": "N", "N3": "N", "L": "N", "D": "N", "REM": "R"},
}

#: What scorings say of epochs without a stage, in lower case. In lists of events these may
#: be events, and are no stages.
_NO_STAGE = {
    *("a", "art", "artefact", "artifact", "artefakt", "movement", "bewegung", "mt", "m"),
    *("uns", "unknown", "unsure", "undefined", "not scored", "notscored", "-"),
    *("lights on", "lights off", "", *(text.lower() for text in MISSING)),
}

#: Codes of Rechtschaffen and Kales.
DEEP_IS_4 = {0: "W", 1: "N1", 2: "N2", 3: "N3", 4: "N3", 5: "REM"}
_AASM = (*SCHEMES["aasm"], UNSCORED_NAME)  # the last is that of -1


def names_of_classes(classes):
    """Return the scheme of classes that are names, or None, and their names in it."""
    names = classes.tolist()
    if classes.dtype.kind != "U":
        raise ValueError(
            f"Which stages the classes {names} are is not known. Name the scheme, as in "
            "stager.set_params(classes='wldr'), or fit the stager to names."
        )
    codes = [stage_of_text(name) for name in names]
    if set(codes) <= set(range(5)) and len(set(codes)) == len(codes):
        return "aasm", {name: _AASM[code] for name, code in zip(names, codes, strict=True)}
    coarse = [name for name in ("wldr", "wnr") if set(names) <= set(SCHEMES[name])]
    return coarse[0] if coarse else None, {name: name for name in names}


def words_of_classes(classes):
    """Return the scheme of classes, or None, and of each name what others call it."""
    scheme, names = names_of_classes(classes)
    words = {name: WORDS[known] if scheme else (name,) * 3 for name, known in names.items()}
    return scheme, words | {UNSCORED_NAME: WORDS[UNSCORED_NAME]}


def common_scheme(*classes):
    """Return classes that all given ones merge into, and of each the names' new names."""
    schemes, names = zip(*map(names_of_classes, classes), strict=True)
    if None in schemes:
        if len(set(map(frozenset, names))) > 1:
            listed = " and ".join(str(list(given)) for given in names)
            raise ValueError(f"The classes differ, and belong to no schemes: {listed}.")
        return list(names[0]), names
    coarsest = max(schemes, key=list(SCHEMES).index)
    merged = {name: name for name in SCHEMES[coarsest]} | _MERGED.get(coarsest, {})
    return SCHEMES[coarsest], [
        {name: merged[known] for name, known in given.items()} for given in names
    ]


def _name_of(word):
    """Name the stage that a word means, None where it means none; R is REM in every scheme."""
    code = stage_of_text(word)
    return _COARSE.get(shortened(word)) if code is None else _AASM[code]


def read_names(stages):
    """Return the scheme of scored stages and their names in it, "?" where unscored."""
    if stages.ndim != 1:
        raise ValueError(
            f"stages has the shape {stages.shape}; one for each epoch is expected."
        )
    if stages.dtype.kind in "iu":
        names = {code: _AASM[code] for code in range(UNSCORED, 5)}
    else:
        stages = stages.astype(str)
        # A 4 may be deep sleep or REM.
        texts = {text for text in stages.tolist() if not text.isdecimal()}
        names = {text: _name_of(text) for text in texts} | {"-1": UNSCORED_NAME}
    given, place = np.unique(stages, return_inverse=True)
    found = [names.get(stage) for stage in given.tolist()]
    for scheme, own in SCHEMES.items():
        known = {"REM" if name == "R" else name: name for name in (*own, UNSCORED_NAME)}
        if set(found) <= set(known):
            return scheme, np.array([known[name] for name in found], str)[place]
    pairs = zip(given.tolist(), found, strict=True)
    unknown = [stage for stage, name in pairs if name not in _AASM]
    raise ValueError(
        f"Unknown stages {unknown}. Known are W, N1, N2, N3, REM and ?, the whole schemes "
        f"{SCHEMES['wldr']} and {SCHEMES['wnr']}, and whole numbers 0 to 4, -1 where unscored."
    )


def is_number(text):
    """Whether a text is a whole number, as 2 or 2.0."""
    try:
        return float(text).is_integer()
    except ValueError:
        return False


def _key(text):
    """Write texts that mean the same alike."""
    text = str(text).strip().casefold()
    return str(int(float(text))) if is_number(text) else text


def _chosen(word):
    """Read what ``codes`` say, a word or a code of the package."""
    if isinstance(word, int | np.integer) and word in range(UNSCORED, 5):
        return _AASM[word]
    name = UNSCORED_NAME if _key(word) in _NO_STAGE else _name_of(word)
    if name is None or is_number(str(word)):
        raise ValueError(
            f"codes name stages W, N1, N2, N3, REM, ? (or L, D, N, R); given {word!r}. What a "
            "file's own description says wrongly, codes= replaces."
        )
    return name


def _doubts(digits, order, kales, words):
    """Say how codes could be meant otherwise, with what to write in either case."""
    present, asleep = set(order), [code for code in order if code > 0]
    within = " ".join(map(str, order)).strip("5 ")
    if words & set(range(5)):
        if 4 in digits and 4 not in words:
            yield (
                "4 is read as deep sleep, and none is REM. If 4 is REM: codes={4: 'REM'}; if it is "
                "deep sleep: codes={4: 'N3'}"
            )
        return
    if 5 in digits and (asleep[0] == 5 or (4 in digits and "5" not in within)):
        yield (
            "5 is read as REM and 4 as deep sleep, but sleep begins with 5, or it is at the ends "
            "alone. If 5 is unscored: codes={5: '?'}; if it is wake: codes={5: 'W', 4: 'REM', 3: "
            "'N1', 2: 'N2', 1: 'N3', 0: ...}; if it is REM: codes={5: 'REM'}"
        )
    if 2 in digits and 1 not in present and not kales:
        yield (
            "is no 1. If there are fewer stages, as YASA writes them: codes={2: 'L', 3: 'D', 4: "
            "'R'} or codes={2: 'N', 4: 'R'}; if there was no N1: codes={2: 'N2'}"
        )
    if 4 in digits and 3 not in digits and not kales:
        yield (
            "4 is read as REM, and there is neither 3 nor 5. If 4 is deep sleep: codes={4: "
            "'N3'}; if it is REM: codes={4: 'REM'}"
        )
    if 1 in digits and 0 not in present:
        yield (
            "is no 0, which is wake. If 1 is wake: codes={1: 'W', 2: 'N1', 3: 'N2', 4: 'N3', "
            "5: 'REM'}; if nobody woke: codes={1: 'N1'}"
        )
    if {1, 2} <= digits and max(present) < 4:
        yield (
            "is no 4, which is REM. If there are fewer stages: codes={1: 'N', 2: 'R'}, or "
            "codes={1: 'L', 2: 'D', 3: 'R'}; if there was no REM sleep: codes={2: 'N2'}"
        )


def stages_of_texts(texts, codes, where, *, events=False):
    """Name what each text of a scoring means: a stage, "?", or None where unknown."""
    # Dicts of codes go before what is known, the last one first.
    chosen = {_key(text): stage for given in codes for text, stage in given.items()}
    keys = {text: _key(text) for text in dict.fromkeys(texts)}
    order = [int(keys[text]) for text in texts if is_number(keys[text])]
    digits = {code for code in order if str(code) not in chosen}
    words = {stage_of_text(key) for key in keys.values() if not is_number(key)}
    five = chosen.get("5", "")
    kales = 5 in digits or five == 4 or stage_of_text(five) == 4  # 4 is REM's code
    numbers = DEEP_IS_4 if kales else dict(enumerate(SCHEMES["aasm"]))
    if words & set(range(5)):  # among letters, digits are sleep
        numbers = {code: DEEP_IS_4[code] for code in range(1, 5)}
    for doubt in _doubts(digits, order, kales, words):
        warn(f"{where}: among the codes {sorted(digits)} {doubt}.")
    found = {}
    for text, key in keys.items():
        if key in chosen:
            found[text] = _chosen(chosen[key])
        elif is_number(key):
            found[text] = UNSCORED_NAME if int(key) in (-2, -1) else numbers.get(int(key))
        elif key in _NO_STAGE:
            found[text] = None if events else UNSCORED_NAME
        else:
            found[text] = _name_of(key)
    return found
