"""Which subjects of the training set are held out to choose the weights."""

import math

import numpy as np

#: Below this many subjects, "auto" holds nobody out: to choose a pass on one or two
#: people is mostly noise.
SUBJECTS_FOR_AUTO = 10


class HeldOut:
    """Hold out these subjects; what a student hands to its teacher."""

    def __init__(self, subjects=()):
        self.subjects = tuple(subjects)

    def __call__(self, subjects):
        """Return the subjects to hold out of the training subjects."""
        return self.subjects

    def __eq__(self, other):
        return isinstance(other, HeldOut) and self.subjects == other.subjects

    def __hash__(self):
        return hash(self.subjects)

    def __repr__(self):
        return f"HeldOut({self.subjects!r})"


def draw_held_out(validation, subjects, random_state):
    """Draw the subjects that validate, of those of the scored training rows."""
    nobody = np.array([])
    known = None if subjects is None else np.unique(subjects)
    if validation is None:
        return nobody
    if isinstance(validation, str):
        if validation != "auto":
            raise ValueError(
                "validation is 'auto', None, a number of subjects, a fraction of them or a "
                f"callable; given {validation!r}."
            )
        if known is None or len(known) < SUBJECTS_FOR_AUTO:
            return nobody
        validation = 0.1
    if isinstance(validation, HeldOut) and not validation.subjects:
        return nobody
    if known is None:
        raise ValueError(
            f"validation={validation!r} holds out subjects, but none are known. Give "
            "groups= to fit, or a PairedEpochs with subject=."
        )
    if callable(validation):
        chosen = np.asarray(list(validation(known)))
        strangers = set(chosen.tolist()) - set(known.tolist())
        if strangers:
            raise ValueError(
                f"validation returned {sorted(map(str, strangers))}, who are not among the "
                f"training subjects {[str(name) for name in known]}."
            )
    else:
        if isinstance(validation, (float, np.floating)):
            if not 0 < validation < 1:
                raise ValueError(
                    f"validation={validation!r}: a fraction lies between 0 and 1; a number "
                    "of subjects is an int."
                )
            number = max(1, math.floor(validation * len(known) + 0.5))
        else:
            number = int(validation)
            if number < 1:
                raise ValueError(
                    f"validation={validation!r}: give at least one subject, or None for "
                    "no validation."
                )
        chosen = random_state.permutation(known)[:number]
    if len(chosen) >= len(known):
        raise ValueError(
            f"validation={validation!r} would hold out all of the {len(known)} training "
            "subjects; nobody would be left to train on."
        )
    return np.sort(chosen)
