"""What does distillation do on real nights? Ten people of Sleep-EDF, two nights of UCDDB.

**Ten people.** Of each 30 s of Fpz-Cz and of Pz-Oz seven numbers are known
(:class:`skleepkd.preprocessing.BandPowers`). Both derivations together teach Pz-Oz alone, the
"wearable" here: where all nine other people are scored, where 1, 2 or 4 are, or nobody; and a
network that was trained on Fpz-Cz alone is fine-tuned on Pz-Oz. Each training has the same
number of steps, whatever the number of people. Settings were chosen on SC400 to SC404 alone.

**Two nights** (``real_nights_ucddb.py``): ready-made teachers, and students of a raw signal.

``--data`` is the folder of ``sleep_edf_features/features.npz`` and ``ucddb/ucddb018.npz`` and
the like. The first holds what the public repository matteo-omizzolo/sleep-EDF (MIT) computed
from Sleep-EDF Expanded (https://physionet.org/content/sleep-edfx), the second signals of the
repository kakao-bits/SleepEEgClassification, from UCDDB (https://physionet.org/content/ucddb).
Without them ``--sleep-edf FOLDER`` computes the same numbers from the recordings of Sleep-EDF
themselves (``skleepkd.datasets.fetch_sleep_edf`` downloads them), and UCDDB is left out.

    python benchmarks/real_nights.py --data ../shared/data --n-jobs 2
    python benchmarks/real_nights.py --data ../shared/data --development
"""

from pathlib import Path

import numpy as np
import tables
from matplotlib.figure import Figure
from real_nights_runs import (
    ALL,
    ALONE,
    CONTROL,
    FOLLOWED,
    NO_LABEL,
    OWN,
    TEACHER,
    TWICE,
    UNSCORED,
    compute_features,
    read_features,
    run_few,
    run_fold,
)
from real_nights_ucddb import TEXT as TWO_NIGHTS
from real_nights_ucddb import two_nights
from study import Setting, Study, parse, parser_of, tasks_of

from skleepkd.metrics import paired_test
from skleepkd.metrics.subjects import over_subjects

SETTINGS = {
    "seeds": Setting("seeds, each with its own draw of people", [0, 1, 2], [0]),
    "people": Setting("people, the first of SC400 to SC409", 10, 4),
    "scored": Setting("numbers of scored people", [1, 2, 4], [1]),
    "passes": Setting("passes, over which the learning rate falls as a cosine", 10, 1),
    "steps": Setting("steps of a pass, of 256 epochs", 12, 2),
    "sequence-steps": Setting("steps of a pass, of 32 sequences", 10, 2),
    "night-passes": Setting("passes of 25 steps of 32 epochs on UCDDB", 15, 1),
    "lr": Setting("learning rate (Adam)", 0.006),
    "feature-weight": Setting("weight of the feature term", 10.0),
    "alpha": Setting("share of the softmax term beside labels", 0.9),
    "temperature": Setting("temperature of the softmax term", 2.0),
}
#: What ``--development`` tries, one setting at a time, and on which runs.
SEARCH = {
    "lr": ("few", [0.002, 0.02], [ALONE, UNSCORED, NO_LABEL, CONTROL]),
    "steps": ("few", [6, 24], [ALONE, UNSCORED, NO_LABEL, CONTROL]),
    "alpha": ("few", [0.5, 1.0], [UNSCORED]),
    "temperature": ("few", [1.0, 4.0], [UNSCORED, NO_LABEL]),
    "feature_weight": ("fold", [1.0, 100.0], [ALONE, "offline"]),
    "sequence_steps": ("sequences", [20], [ALONE, "softmax"]),
}
#: What ``--quick`` prints.
QUICK = [TEACHER, ALONE, UNSCORED, NO_LABEL, CONTROL]
TEXT = """\
**Real nights**: 20 nights of ten people (SC400 to SC409) of Sleep-EDF Expanded (Kemp et al.
2000, IEEE TBME 47(9):1185-1194; Goldberger et al. 2000, Circulation 101(23):e215-e220),
staged by experts. Not signals but seven numbers of each epoch and derivation, computed by the
public repository matteo-omizzolo/sleep-EDF (MIT); what a network of raw signals would gain may
differ. Pz-Oz plays the wearable; it is a scalp electrode, and a real wearable is worse.

Kappa is the mean over {n_people} people of each person's mean over seeds, in brackets its 95 %
bootstrap interval over people. Differences are paired by person, p is that of an exact
sign-flip test, not corrected for the number of questions, "better for" counts people. "Not
shown" is not "equal": the interval says how much there may be. People who are tested have
trained the networks that test others, which intervals do not know. **Settings were chosen on
SC400 to SC404**, who are among the ten; the other five are shown apart (`--development` prints
the search). The steps of a pass were changed once, for speed, when a few runs of SC400 had been
seen. What was chosen suits the student a little better than the control, and is not the best for
offline distillation: with a feature weight of 1 it has 0.719 on those five instead of 0.711 (alone
0.722)."""
FEW = """\
Of the nine others, five belong to the teacher and four are "own" people, of whom so many are
scored; each seed draws anew. What is compared:

- *alone*: trained on the scored people's Pz-Oz;
- *teacher*: trained on Fpz-Cz with Pz-Oz of the five, which no wearable has; *with the
  teacher*: Pz-Oz alone, which follows it beside the labels (softmax); *and unscored people*: on
  the own people without labels too;
- *no label*: the teacher is followed on the four own people, of whom nobody is scored;
- *teacher's people's own Pz-Oz*: no distillation, just a stager trained on the five people's
  Pz-Oz and their labels, *too*: with the scored own people. **Whoever has these needs no
  teacher, unless it beats them**; where the teacher's people never wore the device there are none;
- *all of it*: the teacher is followed on all nine people, beside all labels of Pz-Oz;
- *with an own teacher*: it was trained on the scored people alone, and five more people are unscored.

Where somebody is scored, the last columns compare with *alone* at the same number; where
nobody is, with the teacher's people's own Pz-Oz."""
TUNED = """\
A network trained on Fpz-Cz of the five goes on with Pz-Oz of the scored people, all of it or a
part ("direct" is not trained on), and is compared with training from scratch on them."""
#: On whom nothing was chosen.
UNSEEN = [f"SC40{k}" for k in range(5, 10)]
# ---------------------------------------------------------------- tables


def averaged(results):
    """Average each person's scores over seeds: by method and number, then by person."""
    of = {}
    for (person, _), result in results.items():
        for key, scores in result["scores"].items():
            of.setdefault(key, {}).setdefault(person, []).append(scores["kappa"])
    return {
        key: {person: {"kappa": float(np.mean(k))} for person, k in persons.items()}
        for key, persons in of.items()
    }


def against(scores, one, other):
    """Difference of two methods over people: mean, interval, p-value, for how many it helps."""
    a, b = (np.array([of["kappa"] for of in scores[key].values()]) for key in (one, other))
    test = paired_test(a, b)
    gain = test.difference, *test.interval
    better = f"{(a > b).sum()} of {len(a)}"
    return [tables.signed(gain), f"{test.pvalue:.3f}", better, tables.verdict(gain)]


def table(scores, rows, baseline, gap=False):
    """Make a table of methods; ``baseline`` gives what each one is held against, or None."""
    lines = []
    for name, n in rows:
        own = scores[name, n]
        apart = [of["kappa"] for person, of in own.items() if person in UNSEEN]
        apart = f"{np.mean(apart):.3f}" if apart else "-"
        line = [name, n, tables.mean(own, "kappa"), apart, "", "", "", ""]
        other = baseline(name, n)
        if other is not None:
            line[4:] = against(scores, (name, n), other)
        if gap:
            of_gap = name not in (TEACHER, ALONE)
            shares = scores[TEACHER, n], scores[ALONE, n], own
            line.append(tables.share_of_gap(*shares) if of_gap else "")
        lines.append(line)
    header = ["method", "scored people", "kappa", "SC405 to SC409 alone", "difference"]
    header += ["p", "better for", ""] + ["gap closed"] * gap
    return tables.markdown_table(header, lines)


def questions(numbers):
    """List what a reader asks of few labels: a text, and the two that are compared."""
    no = f"{NO_LABEL}, "
    others = {
        "the teacher's people's own Pz-Oz and labels": CONTROL,
        "the teacher's stages instead of probabilities": f"{no}the teacher's stages",
        "a teacher that sees Pz-Oz alone": f"{no}taught by {CONTROL}",
        "a network trained on Fpz-Cz, as it is": "direct",
        "twice the passes": f"{no}twice the passes",
    }
    asked = [(f"no label, or {text}?", (NO_LABEL, 0), (k, 0)) for text, k in others.items()]
    for n in numbers:
        alone, joined = (ALONE, n), (f"{CONTROL} too", n)
        asked += [
            (f"no label, or {n} scored alone?", (NO_LABEL, 0), alone),
            (f"{n} scored: teacher and unscored people, or alone?", (UNSCORED, n), alone),
            (f"{n} scored: the teacher without unscored people?", (FOLLOWED, n), alone),
            (f"{n} scored: twice the passes?", (TWICE, n), alone),
            (f"{n} scored, who train the teacher too?", (OWN, n), alone),
            (f"{n} scored: that, or all labels of Pz-Oz?", (UNSCORED, n), joined),
            (f"{n} scored: all labels, and the teacher and unscored?", (ALL, n), joined),
            (f"{n} scored: fine-tuned from Fpz-Cz?", ("fine-tuned: all", n), alone),
        ]
    return asked


def draw(scores, numbers):
    """Draw kappa over the number of scored people."""
    figure = Figure(figsize=(7, 5), layout="constrained")
    ax = figure.subplots()
    lines = {
        ALONE: ("Pz-Oz alone", "black", "-"),
        UNSCORED: ("with a teacher of five others and the unscored ones", "tab:blue", "-"),
        f"{CONTROL} too": (
            "with the teacher's people's own Pz-Oz and labels",
            "tab:red",
            "-",
        ),
        NO_LABEL: ("no label at all: a teacher and four unscored", "tab:blue", "--"),
        CONTROL: ("the teacher's people's own Pz-Oz and labels alone", "tab:red", "--"),
    }
    for k, (name, (label, color, style)) in enumerate(lines.items()):
        at = [0] if (name, 0) in scores else numbers
        found = [over_subjects(tables.values_of(scores[name, n], "kappa")) for n in at]
        found = [(mean, *ends) for mean, ends in found]
        look = {"linestyle": style, "color": color}
        if at == [0]:
            ax.axhline(found[0][0], linewidth=1, **look)
        tables.error_bars(ax, np.array(at) + 0.04 * (k - 2), found, label=label, **look)
    ax.set(xlabel="Scored people", ylabel="Kappa", xticks=[0, *numbers])
    ax.legend(frameon=False, fontsize="small", loc="lower right")
    ax.set_title("Ten people of Sleep-EDF, 95 % intervals over people", fontsize="medium")
    return figure


# ---------------------------------------------------------------- the runs


def run_kind(study, kind, settings, X, y, only=None):
    """Run the folds of one kind ("few", "fold", "sequences"); return averaged scores."""
    function, more = run_few, {"only": only}
    if kind != "few":
        function, more["sequences"] = run_fold, kind == "sequences"
    settings = {n: v for n, v in settings.items() if n not in ("seeds", "people")}
    tasks = tasks_of(person=np.unique(X.subject).tolist(), seed=study.options.seeds)
    results = study.run(function, tasks, settings=settings, X=X, y=y, **more)
    return averaged(results)


def search(study, X, y):
    """Print what each setting gives on the development people, the others at their default."""
    settings, lines = study.options.settings | {"scored": [1]}, []
    for name, (kind, values, only) in SEARCH.items():
        for value in [settings[name], *values]:
            scores = run_kind(study, kind, settings | {name: value}, X, y, only)
            kappas = {
                f"{method} {n}": np.mean([of["kappa"] for of in persons.values()])
                for (method, n), persons in scores.items()
            }
            found = ", ".join(f"{method} {kappa:.3f}" for method, kappa in kappas.items())
            lines.append([name, value, found])
    print(tables.markdown_table(["setting", "value", "kappa"], lines))


def read_options(argv=None):
    """Read the command line."""
    parser = parser_of(__doc__)
    add = parser.add_argument
    add("--data", type=Path, help="folder of features and UCDDB (see above)")
    add("--sleep-edf", type=Path, help="folder of Sleep-EDF's recordings")
    add("--quick", action="store_true", help="print one draw of few labels, and no page")
    add("--development", action="store_true", help="print the search for settings")
    options = parse(parser, SETTINGS, argv)
    if options.data is None and options.sleep_edf is None:
        parser.error("give --data or --sleep-edf; --help names the public files")
    if options.development:
        options.people, options.seeds = 5, options.seeds[:1]
    if options.quick:
        options.seeds, options.settings["scored"] = options.seeds[:1], [1]
    return options


def main(argv=None):
    """Run everything, and write page, table and picture."""
    options = read_options(argv)
    study = Study("real_nights", options)
    of_files = options.sleep_edf is not None
    X, y = compute_features(options.sleep_edf) if of_files else read_features(options.data)
    rows = np.isin(X.subject, np.unique(X.subject)[: options.people])
    X, y = X[rows], y[rows]
    if options.development:
        search(study, X, y)
        return
    if options.quick:
        few = run_kind(study, "few", options.settings, X, y, QUICK)
        rows = sorted(few, key=lambda key: key[1])
        print(table(few, rows, in_few))
        return
    kinds = ("few", "fold", "sequences")
    # Sequences are slow: without twice the passes.
    only = {"sequences": [ALONE, "transfer", "offline", "online", "softmax"]}
    scores = {
        kind: run_kind(study, kind, options.settings, X, y, only.get(kind))
        for kind in kinds
    }
    for n in options.scored:  # with all own people scored nobody is left over
        scores["few"].setdefault((UNSCORED, n), scores["few"][FOLLOWED, n])
    parts, lines = ([], []) if of_files else two_nights(study, options.data)
    lines += [
        {"run": kind, "method": name, "scored": n, "subject": who, "kappa": of["kappa"]}
        for kind in kinds
        for (name, n), persons in scores[kind].items()
        for who, of in persons.items()
    ]
    figure = draw(scores["few"], options.scored)
    study.write("real_nights", page(study, scores, parts), lines, figure)


def over_alone(name, n):
    """Name what a method is held against where all others are scored."""
    return None if name in (TEACHER, ALONE) else (ALONE, n)


def in_few(name, n):
    """Name what a method is held against where few are scored, or nobody."""
    if name in (ALONE, CONTROL, TEACHER):
        return None
    return (ALONE, n) if n else (CONTROL, 0)


def page(study, scores, parts):
    """Put the page together."""
    few, numbers = scores["few"], study.options.scored
    asked = [[text, *against(few, *pair)] for text, *pair in questions(numbers)]
    tuned = [key for key in few if key[0] == "direct" or key[0].startswith("fine-tuned")]
    of_few = sorted((key for key in few if key not in tuned), key=lambda key: key[1])
    tuned += [(ALONE, n) for n in numbers]
    return [
        *study.head("Real nights"),
        TEXT.format(n_people=len(few[NO_LABEL, 0])),
        "## All others are scored",
        "Two hidden layers on five epochs:",
        table(scores["fold"], sorted(scores["fold"]), over_alone, gap=True),
        "A recurrent network over twenty epochs:",
        table(scores["sequences"], sorted(scores["sequences"]), over_alone, gap=True),
        "## Few are scored, or nobody",
        FEW,
        "![Kappa over the number of scored people](real_nights.png)",
        tables.markdown_table(["", "difference in kappa", "p", "better for", ""], asked),
        table(few, of_few, in_few),
        "## From Fpz-Cz to Pz-Oz",
        TUNED,
        table(few, tuned, lambda name, n: (ALONE, n) if n and name != ALONE else None),
        *(["## Two nights of UCDDB", TWO_NIGHTS, *parts] if parts else []),
    ]


if __name__ == "__main__":
    main()
