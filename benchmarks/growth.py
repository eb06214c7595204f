"""Time and memory over thirty times the epochs, and what they say of 10,000 nights.

What is measured, and how, stands at the beginning of the page. Run it with
``python benchmarks/growth.py`` (on Linux). It writes ``growth.md``, ``.csv`` and ``.png``.
``--sizes`` and ``--nights`` make it smaller.
"""

import tempfile
import time
import tracemalloc

import numpy as np
from matplotlib.figure import Figure
from measure import (
    BATCH_SIZE,
    COMMON,
    FEATURES,
    Peak,
    noise,
    private_bytes,
    stages,
    training_pass,
)
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GroupKFold, cross_validate
from skorch.history import History
from study import Setting, Study, in_new_process, load_of_machine, parse, texts
from tables import markdown_table
from torch import nn

from skleepkd import DistilledSleepStager, PairedEpochs, SleepStager
from skleepkd.distillation.teacher import OUTPUT_IN_MEMORY

text = texts(__file__)
NETWORKS = {"small": "LogPowerNet", "U-Sleep": "USleep"}
#: Nobody is held out, whatever the number of subjects.
OPTIONS = COMMON | {"validation": None}
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
NIGHTS = "nights of rows alone; the estimate is for the last"
SETTINGS = {
    "sizes": Setting("epochs with signals", [300, 1000, 3000, 9000], [64, 128]),
    "nights": Setting(NIGHTS, [100, 1000, 10_000], [8, 16]),
}


class TwoLayers(nn.Module):
    """Features, as many as those of the small network, and stages."""

    feature_layers = ("features",)

    def __init__(self, n_chans, n_times, n_outputs):
        super().__init__()
        self.features = nn.Linear(n_chans * n_times, 96)
        self.head = nn.Linear(96, n_outputs)

    def forward(self, x):
        """Return the logits of epochs of shape (batch, n_chans, n_times)."""
        return self.head(self.features(x.flatten(1)))


def about(n_epochs):
    """Return the subject, the night and the onset of each epoch."""
    night, number = np.divmod(np.arange(n_epochs), NIGHT)
    names = np.array([f"subject-{k:05}" for k in range(night[-1] + 1)])[night]
    return {"subject": names, "recording": names.copy(), "onset": 30.0 * number}


def with_signals(folder, n_epochs, network):
    """Train, distil and predict with the first epochs of a memory map.

    Seconds are medians of three; memory is private, the most above the imports.
    """
    seconds, module = {}, NETWORKS[network]

    def clock(name, function):
        times = []
        for _ in range(3):
            started = time.process_time()
            function()
            times.append(time.process_time() - started)
        seconds[name] = float(np.median(times))

    with Peak() as peak:
        X, y = PairedEpochs.from_memmap(folder)[:n_epochs], stages(n_epochs)
        teacher = SleepStager(module, **OPTIONS)
        clock("training pass", training_pass(teacher, X.source_epochs, y))
        unused = SleepStager(module, **OPTIONS | {"max_epochs": 0})
        clock("checks", lambda: unused.fit(X.source_epochs, y))
        student = DistilledSleepStager(FrozenEstimator(teacher), **FEATURES | OPTIONS)
        clock("distillation pass", training_pass(student, X, y))
        clock("teacher asked", lambda: student.strategy_.prepare(student, X, y))
        clock("prediction", lambda: student.predict(X.target_epochs))
    features = student.strategy_.prepare(student, X, y).values()
    return {
        "seconds": seconds,
        "map_mb": (X["target"].nbytes + X["source"].nbytes) / 1e6,
        "features_mb": sum(array.nbytes for array in features) / 1e6,
        "memory_mb": peak.above / 1e6,
    }


def rows_alone(n_epochs):
    """Cross-validate, one fold of eight, over epochs that are all the same one.

    Private memory is that of the pair and its stages, of the fold at most, and of what
    skorch records of the batches of 32 of a pass.
    """
    with Peak() as peak:
        epochs = np.broadcast_to(noise(1, 1, 16), (n_epochs, 1, 16))
        X, y = PairedEpochs(epochs, source=epochs, **about(n_epochs)), stages(n_epochs)
        pair = private_bytes() - peak.start
        started = time.process_time()
        settings = OPTIONS | {"batch_size": 4096}
        teacher = SleepStager(TwoLayers, **settings)
        student = DistilledSleepStager(teacher, **FEATURES | settings)
        fold = next(GroupKFold(8).split(X, y, groups=X.subject))
        cross_validate(student, X, y, cv=[fold])
        seconds = time.process_time() - started
    tracemalloc.start()
    history = History()
    history.new_epoch()
    for batch in range(n_epochs // BATCH_SIZE):
        history.new_batch()
        history.record_batch("train_loss", float(batch))
        history.record_batch("train_batch_size", BATCH_SIZE)
    history_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()  # else all that this process does from here on is several times slower
    return {
        "seconds": seconds,
        "pair_mb": pair / 1e6,
        "memory_mb": peak.above / 1e6,
        "history_mb": history_bytes / 1e6,
        "name_bytes": X.subject.itemsize,
    }


# ---------------------------------------------------------------- the page
#
# ``small`` and ``u_sleep`` hold what was measured with signals, ``rows`` what was of rows
# alone, by the number of epochs.


def seconds_of(found, name):
    """List the seconds of all sizes."""
    return [one["seconds"][name] for one in found.values()]


def exponent(found, name):
    """Slope of the logarithm of seconds over the logarithm of epochs."""
    return np.polyfit(np.log(list(found)), np.log(seconds_of(found, name)), 1)[0]


def table_of_sizes(small):
    """Seconds and memory with signals, and the exponents of their growth."""
    lines = []
    for n, found in small.items():
        line = {"Epochs": n, "Map (MB)": f"{found['map_mb']:.0f}"}
        line |= {f"{name} (s)": f"{found['seconds'][name]:.3g}" for name in COLORS}
        line["features (MB)"] = f"{found['features_mb']:.2g}"
        lines.append(line | {"memory (MB)": f"{found['memory_mb']:.0f}"})
    exponents = {f"{name} (s)": f"{exponent(small, name):.2f}" for name in COLORS}
    return markdown_table([*lines, {"Epochs": "exponent", **exponents}])


def table_of_rows(rows):
    """Memory and seconds of rows alone."""
    names = {"pair_mb": "pair (MB)", "memory_mb": "fold (MB)"}
    names |= {"history_mb": "history of a pass (MB)", "seconds": "fold (s)"}
    return markdown_table(
        [
            {"Epochs": n, "Nights": n // NIGHT}
            | {title: f"{found[name]:.3g}" for name, title in names.items()}
            for n, found in rows.items()
        ]
    )


def estimate(small, u_sleep, rows):
    """Estimate the cost of the largest number of rows, as a table and in words."""
    n, row = max(rows), rows[max(rows)]
    # For the one size of U-Sleep the time per epoch; for several sizes the slope of a line,
    # since what a pass begins with does not grow.
    columns = [
        {name: np.polyfit(list(small), seconds_of(small, name), 1)[0] for name in COLORS},
        {name: seconds_of(u_sleep, name)[0] / min(u_sleep) for name in COLORS},
    ]
    hours = {name: [n * column[name] / 3600 for column in columns] for name in COLORS}
    days = {name: np.multiply(of, PASSES / 24) for name, of in hours.items()}
    both, size = (small, u_sleep), max(small)
    features = [n / max(of) * of[max(of)]["features_mb"] / 1e3 for of in both]
    most = [max(found["memory_mb"] for found in of.values()) for of in both]
    # A student keeps its teacher, and so the history of both.
    history = 2 * PASSES * row["history_mb"]
    memory = [(row["memory_mb"] + of_network + history) / 1e3 for of_network in most]
    map_gb = n / size * small[size]["map_mb"] / 1e3
    rates = [1 / column["training pass"] for column in columns]
    passes = f"{PASSES} passes of"
    lines = {
        "a pass over all epochs, hours on one core": hours["training pass"],
        f"{passes} the teacher, days": days["training pass"],
        f"{passes} the student, days": days["distillation pass"],
        "the teacher asked, once a fit, hours": hours["teacher asked"],
        "checks of one side, once a fit, hours": hours["checks"],
        "prediction, hours": hours["prediction"],
        "disk: the map of both sides, GB": [map_gb] * 2,
        "disk: the features' temporary map, GB": features,
        f"private memory, the history of {passes} both with it, GB": memory,
        "epochs that a pass asks the disk for in a second": rates,
        "MB that it asks for in a second": np.multiply(rates, map_gb / n * 1e3 / 2),
    }
    lines = [
        {"What": what, "small network": f"{one:,.4g}", "U-Sleep": f"{other:,.4g}"}
        for what, (one, other) in lines.items()
    ]
    held = (row["memory_mb"] + history) / n * NIGHT
    return text(
        "estimate",
        **{"n": n, "n_nights": n // NIGHT, "n_passes": PASSES, "memory": memory[0]},
        **{"history": history / 1e3, "n_fit": (16e3 - most[0]) / held},
        **{"name_bytes": row["name_bytes"], "features": 1e6 * features[1] / n},
        n_few=n // NIGHT // PASSES,
        table=markdown_table(lines),
    )


def draw(small, rows):
    """Draw seconds and memory over epochs, both on logarithmic axes."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    sizes, wide = np.array(list(small)), np.array([min(small), max(rows)])
    for name, color in COLORS.items():
        left.plot(sizes, seconds_of(small, name), "o-", color=color, label=name)
    most = seconds_of(small, "training pass")[-1]
    left.plot(sizes, 1.6 * most * sizes / sizes[-1], ":", color="0.4", label="linear")
    left.set(ylabel="Seconds on one core", title="Small network, noise in a memory map")
    map_mb = small[sizes[-1]]["map_mb"] / sizes[-1]
    right.plot(wide, map_mb * wide, ":", color="0.4", label="size of the map")
    for found, name, label, color in (
        (small, "memory_mb", "trainings with signals", "black"),
        (rows, "memory_mb", "a fold, rows alone", "tab:red"),
        (rows, "pair_mb", "pair and stages, rows alone", "tab:purple"),
    ):
        values = [one[name] for one in found.values()]
        right.plot(list(found), values, "o-", color=color, label=label)
    right.set(ylabel="Private memory above the imports (MB)", title="Memory")
    for ax in (left, right):
        ax.set(xscale="log", yscale="log", xlabel="Epochs")
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False, fontsize="small")
    return figure


def page_of(small, u_sleep, rows):
    """Write the page below its head."""
    (size,), sizes = u_sleep, list(small)
    of_u_sleep = u_sleep[size]["seconds"].items()
    return text(
        "page",
        factor=sizes[-1] / sizes[0],
        sizes=table_of_sizes(small),
        u_sleep_size=size,
        u_sleep=", ".join(f"{name} {seconds:.3g} s" for name, seconds in of_u_sleep),
        in_memory=OUTPUT_IN_MEMORY / 1e9,
        rows=table_of_rows(rows),
        estimate=estimate(small, u_sleep, rows),
    )


def lines_of(signals):
    """Everything that was measured, as lines of a table."""
    for data, by_size in signals.items():
        for n_epochs, found in by_size.items():
            values = {name: of for name, of in found.items() if name != "cpu_seconds"}
            if data != "rows alone":
                seconds = values.pop("seconds").items()
                values |= {f"seconds: {name}": value for name, value in seconds}
            for what, value in values.items():
                about = {"data": data, "epochs": n_epochs, "what": what}
                yield about | {"value": f"{value:.6g}"}


def read_options(argv=None):
    """Read the command line."""
    options = parse(__doc__, SETTINGS, argv)
    if len(options.sizes) < 2 or min(options.nights) < 8:
        options.error("A line needs two sizes, and eight folds eight nights.")
    return options


def main(argv=None):
    """Measure what is missing, and write the page, the table and the picture."""
    options = read_options(argv)
    study, sizes = Study("growth", options), options.sizes
    tasks = {("small", n): {"n_epochs": n, "network": "small"} for n in sizes}
    n = min(sizes)
    tasks["U-Sleep", n] = {"n_epochs": n, "network": "U-Sleep"}
    with tempfile.TemporaryDirectory() as folder:
        n_all = max(sizes)
        target, source = (noise(n_all, 3, 1920, seed=k) for k in (0, 1))
        PairedEpochs(target, source=source, **about(n_all), sfreq=64.0).to_memmap(folder)
        del target, source
        found = study.run(in_new_process, tasks, function=with_signals, folder=folder)
    tasks = {n * NIGHT: {"n_epochs": n * NIGHT} for n in options.nights}
    rows = study.run(in_new_process, tasks, function=rows_alone)
    small, u_sleep = {n: found["small", n] for n in sizes}, {n: found["U-Sleep", n]}
    page = page_of(small, u_sleep, rows)
    lines = list(lines_of({"small": small, "U-Sleep": u_sleep, "rows alone": rows}))
    head = study.head("Growth", load_of_machine())
    study.write("growth", [*head, page], lines, draw(small, rows))


if __name__ == "__main__":
    main()
