"""The page and the picture of the growth benchmark, and its estimate for many nights."""

import numpy as np
from _runs import markdown_table
from matplotlib.figure import Figure

from skleepkd.distillation.teacher import OUTPUT_IN_MEMORY

#: Epochs in a night of eight hours.
NIGHT = 960
#: Passes of a training, as in Anandakumar et al. (2022).
PASSES = 100
#: What is timed, in the order of the table, and its colour in the picture.
COLORS = {
    "checks": "0.6",
    "training pass": "black",
    "teacher asked": "tab:blue",
    "distillation pass": "tab:orange",
    "prediction": "tab:green",
}


def page_of(signals, rows):
    """Write tables and estimate, in Markdown.

    Parameters
    ----------
    signals : dict of (str, int) to dict
        What was measured with signals, by network ("small", several sizes, and
        "U-Sleep", one) and number of epochs.
    rows : dict of int to dict
        What was measured of rows alone, by number of epochs.
    """
    small = of_network(signals, "small")
    (u_sleep_size,) = of_network(signals, "U-Sleep")
    what = [*COLORS]
    header = ["Epochs", "Map (MB)", *(f"{name} (s)" for name in what)]
    lines = [
        [n, f"{found['map_mb']:.0f}"]
        + [f"{found['seconds'][name]:.3g}" for name in what]
        + [f"{found['features_mb']:.2g}", f"{found['memory_mb']:.0f}"]
        for n, found in small.items()
    ]
    exponents = [f"{exponent(small, name):.2f}" for name in what]
    lines.append(["exponent", "", *exponents, "", ""])
    with_signals = markdown_table([*header, "features (MB)", "memory (MB)"], lines)
    alone = markdown_table(
        [
            "Epochs",
            "Nights",
            "pair (MB)",
            "fold (MB)",
            "history of a pass (MB)",
            "fold (s)",
        ],
        [
            [n, n // NIGHT, f"{found['pair_mb']:.0f}", f"{found['memory_mb']:.0f}"]
            + [f"{found['history_mb']:.2g}", f"{found['seconds']:.3g}"]
            for n, found in rows.items()
        ],
    )
    sizes, n_nights = list(small), max(rows) // NIGHT
    return f"""
## {sizes[-1] / sizes[0]:.3g} times the epochs

The small network. An exponent is the slope of the logarithm of the seconds over that of
the epochs: 1 is linear. Memory hardly grows with the map, which is never read as a whole.

{with_signals}

U-Sleep, {u_sleep_size} epochs: {seconds_of(signals["U-Sleep", u_sleep_size])}.

![Time and memory over epochs](growth.png)

## Rows alone

The pair and its stages; at most in a fold of eight, trained for a pass of teacher and
student, in batches of 4,096; what skorch's history notes of a pass in batches of 32; and
the seconds of the fold. Up to {OUTPUT_IN_MEMORY / 1e9:.2f} GB (1 GiB) a layer's features
are in memory (16 bit, 192 bytes an epoch here), above that in a temporary memory map.

{alone}

## An estimate for {n_nights:,} nights

{estimate(signals, rows)}"""


def of_network(signals, network):
    """Pick what was measured of a network, by the number of epochs, in order."""
    sizes = sorted(n for name, n in signals if name == network)
    return {n: signals[network, n] for n in sizes}


def seconds_of(found):
    """Write seconds as text."""
    return ", ".join(f"{name} {found['seconds'][name]:.3g} s" for name in COLORS)


def exponent(small, name):
    """Slope of the logarithm of seconds over the logarithm of epochs."""
    seconds = [found["seconds"][name] for found in small.values()]
    return np.polyfit(np.log(list(small)), np.log(seconds), 1)[0]


def estimate(signals, rows):
    """Estimate the cost of the largest number of rows, with the assumptions."""
    n = max(rows)
    small, u_sleep = (of_network(signals, name) for name in ("small", "U-Sleep"))
    # For the one size of U-Sleep the time per epoch; for several sizes the slope of a line,
    # since what a pass begins with does not grow.
    columns = [
        {name: np.polyfit(list(small), of(small, name), 1)[0] for name in COLORS},
        {name: of(u_sleep, name)[0] / min(u_sleep) for name in COLORS},
    ]
    last = [found[max(found)] | {"epochs": max(found)} for found in (small, u_sleep)]
    features = [n * found["features_mb"] / found["epochs"] / 1e3 for found in last]
    base = [max(found["memory_mb"] for found in of.values()) for of in (small, u_sleep)]
    row = rows[n]
    # A student keeps its teacher, and so the history of both.
    history = 2 * PASSES * row["history_mb"]
    memory = [(row["memory_mb"] + constant + history) / 1e3 for constant in base]
    map_gb = n * last[0]["map_mb"] / last[0]["epochs"] / 1e3
    epoch_kb = map_gb / n * 1e6 / 2
    rates = [1 / column["training pass"] for column in columns]
    hours = {name: [n * column[name] / 3600 for column in columns] for name in COLORS}
    days = [PASSES * of_pass / 24 for of_pass in hours["training pass"]]
    student_days = [PASSES * of_pass / 24 for of_pass in hours["distillation pass"]]

    def line(title, values, form="{:,.3g}"):
        return [title, *(form.format(value) for value in values)]

    table = markdown_table(
        ["What", "small network", "U-Sleep"],
        [
            line("a pass over all epochs, hours on one core", hours["training pass"]),
            line(f"{PASSES} passes of the teacher, days", days),
            line(f"{PASSES} passes of the student, days", student_days),
            line("the teacher asked, once a fit, hours", hours["teacher asked"]),
            line("checks of one side, once a fit, hours", hours["checks"]),
            line("prediction, hours", hours["prediction"]),
            line("disk: the map of both sides, GB", [map_gb, map_gb], "{:,.0f}"),
            line("disk: the features' temporary map, GB", features),
            line(f"private memory, the history of {PASSES} passes of both with it, GB", memory),
            line("epochs that a pass asks the disk for in a second", rates, "{:,.0f}"),
            line("MB that it asks for in a second", [rate * epoch_kb / 1e3 for rate in rates]),
        ],
    )  # fmt: skip
    before = sorted(rows)[-2] if len(rows) > 1 else 0
    held = (row["memory_mb"] - rows[before]["memory_mb"]) / (n - before) if before else 0
    held += history / n
    in_16_gb = (16e3 - base[0]) / held / NIGHT if held else float("nan")
    steps = n / 32
    return f"""\
{n:,} epochs. Nothing of this size was trained with signals; rows alone were.

{table}

What is assumed:

- Time goes on growing linearly, as it does above; the small network's is the slope of a
  line through its sizes, U-Sleep's the share of an epoch at its one size. Same core, one
  thread, 64 Hz, three channels a side, 960 epochs a night, single precision.
- The disk keeps up with the last two lines: epochs are read in random order, {epoch_kb:.0f} kB
  at a time, and a map of {map_gb:,.0f} GB is in no page cache. The times above are of a map
  that was.
- One fit to all epochs. Cross-validation costs as many times this as it has folds, one
  after the other in the same memory; with `n_jobs` processes, so many times the memory,
  while the map is shared.
- Private memory is that of the rows, which was measured, that of the network and its
  batches, the most of any size above, and skorch's history of every batch of
  every pass ({row["history_mb"] / steps * 1e6:.0f} bytes a batch of 32), which teacher and student keep.

What grows linearly and is held in memory: two columns of names ({row["name_bytes"]} bytes each for
a name of {row["name_bytes"] // 4} letters; numbers as names take 8), onsets, stages, the row numbers of a
fold, the order of a pass, answers, the history; and features up to 1 GiB. What grows
linearly and is not: signals, and features above that.

Where it stops being practical:

- **Time.** On one core, first of all: {days[0]:.3g} days for {PASSES} passes of the small network,
  {days[1]:.3g} of U-Sleep, and as many for a student's teacher. But one pass over {n // NIGHT:,}
  nights is {steps:,.0f} steps, as many as {PASSES} passes over {n // NIGHT // PASSES:,} nights: so many nights are
  for a few passes, or for a GPU.
- **Memory.** {history / 1e3:.3g} of the {memory[0]:.3g} GB are the history of {PASSES} passes. About {in_16_gb:,.0f}
  nights fit into 16 GB with it; beyond that, fewer passes, and numbers as names.
- **Disk.** {map_gb:,.0f} GB for the map. U-Sleep's features, {1e6 * features[1] / n:.0f} kB an epoch, need
  another {features[1]:,.0f} GB in the folder of temporary files (`TMPDIR`); distillation by
  softmax (`feature_loss=None, alpha=...`) or online needs none.
"""


def of(found, name):
    """List the seconds of all sizes."""
    return [one["seconds"][name] for one in found.values()]


def draw(signals, rows):
    """Draw seconds and memory over epochs, both on logarithmic axes."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    small = of_network(signals, "small")
    sizes = np.array(list(small))
    for name, color in COLORS.items():
        left.plot(sizes, of(small, name), "o-", color=color, label=name)
    most = small[sizes[-1]]["seconds"]["training pass"]
    left.plot(sizes, 1.6 * most * sizes / sizes[-1], ":", color="0.4", label="linear")
    left.set(ylabel="Seconds on one core", title="Small network, noise in a memory map")
    wide = np.array([sizes[0], max(rows)])
    map_mb = small[sizes[-1]]["map_mb"] / sizes[-1]
    right.plot(wide, map_mb * wide, ":", color="0.4", label="size of the map")
    held = {"a fold, rows alone": "memory_mb", "pair and stages, rows alone": "pair_mb"}
    memory = [found["memory_mb"] for found in small.values()]
    right.plot(sizes, memory, "o-", color="black", label="trainings with signals")
    for (label, key), color in zip(held.items(), ("tab:red", "tab:purple"), strict=True):
        right.plot(list(rows), [found[key] for found in rows.values()], "o-", color=color,
                   label=label)  # fmt: skip
    right.set(ylabel="Private memory above the imports (MB)", title="Memory")
    for ax in (left, right):
        ax.set(xscale="log", yscale="log", xlabel="Epochs")
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False, fontsize="small")
    return figure
