"""A run of the suite as tables and pictures."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from bench.results import WIDE, Results, median, spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {
    "sluice": "#0b7285",
    "naive-aio": "#c92a2a",
    "thread-pool": "#e67700",
    "echo": "#868e96",
    "core-echo": "#495057",
}


def table(results: Results) -> str:
    """Return the tables in Markdown."""
    parts = [f"{results.date}; {'; '.join(results.machine.values())}", *_closed(results), *_open(results)]
    loops = [
        [model, f"{results.best_loop(model):.0f}", spread(results.wide[model], "rows_per_second")]
        for model in results.loops
    ]
    head = ["model", "bare loop", f"sluice, {WIDE} rows a request"]
    parts.append("Rows/s, the bare session loop at its best batch size and threads\n\n" + _grid(head, loops))
    memory = [[name, spread(runs, "rss"), spread(runs, "pss")] for name, runs in results.memory.items()]
    parts.append("Memory with all three models, MB\n\n" + _grid(["server", "RSS", "PSS"], memory))
    variants = [[name, spread(runs, "rate"), spread(runs, "cpu_us")] for name, runs in results.variants.items()]
    parts.append("churn, 256 in flight, turn by turn\n\n" + _grid(["variant", "calls/s", "CPU us/call"], variants))
    return "\n\n".join([*parts, *_cautions(results)]) + "\n"


def _closed(results: Results) -> Iterator[str]:
    head = [
        "server",
        "in flight",
        "calls/s",
        "p50 ms",
        "p99 ms",
        "p99.9 ms",
        "CPU us/call",
        "switches",
        "rows/batch",
        "padded",
    ]
    keys = ("rate", "p50_ms", "p99_ms", "p999_ms", "cpu_us", "switches", "batch_rows", "padded_rows")
    for model, servers in results.closed.items():
        rows = [
            [name, level, *(spread(runs, key) for key in keys)]
            for name, levels in servers.items()
            for level, runs in levels.items()
        ]
        yield f"{model}, closed loop\n\n" + _grid(head, rows)


def _open(results: Results) -> Iterator[str]:
    head = [
        "server",
        "of saturation",
        "offered/s",
        "goodput/s",
        "p50 ms",
        "p99 ms",
        "p99.9 ms",
        "CPU us/call",
        "generator",
    ]
    keys = ("offered", "goodput", "p50_ms", "p99_ms", "p999_ms", "cpu_us", "generator_share")
    for model, servers in results.open.items():
        rows = [
            [name, _label(label), *(spread(runs, key) for key in keys)]
            for name, labels in servers.items()
            for label, runs in labels.items()
        ]
        yield f"{model}, open loop\n\n" + _grid(head, rows)


def _label(label: str) -> str:
    return "50 % of sluice's" if label == "same" else f"{float(label):.0%}"


def _grid(head: list[str], rows: Iterable[list[str]]) -> str:
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cautions(results: Results) -> Iterator[str]:
    for kind, models in (("in flight", results.closed), ("of saturation", results.open)):
        for model, servers in models.items():
            for name, labels in servers.items():
                for label, runs in labels.items():
                    said = [run["caution"] for run in runs if run["caution"]]
                    if said:
                        yield f"CAUTION {model}, {name}, {label} {kind}: {said[-1]} ({len(said)} of {len(runs)} runs)"


def plots(results: Results, folder: Path) -> None:
    """Draw bench-cost.png (throughput and CPU) and bench-overload.png (p99 and goodput) for each model."""
    import matplotlib as mpl  # noqa: PLC0415 - only where pictures are wanted

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    plt.rcParams.update(
        {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3}
    )
    folder.mkdir(parents=True, exist_ok=True)
    models = list(results.closed)
    for name, draw, titles in (
        ("cost", _draw_cost, ("calls/s", "CPU us per call")),
        ("overload", _draw_overload, ("p99 ms", "goodput / saturation")),
    ):
        figure, axes = plt.subplots(
            2, len(models), figsize=(3.6 * len(models), 5.6), layout="constrained", squeeze=False
        )
        for column, model in enumerate(models):
            draw(results, model, axes[0][column], axes[1][column])
            axes[0][column].set_title(model)
        for row, title in enumerate(titles):
            axes[row][0].set_ylabel(title)
        figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
        figure.savefig(folder / f"bench-{name}.png", dpi=130)
        plt.close(figure)


def _draw_cost(results: Results, model: str, upper: "Axes", lower: "Axes") -> None:
    for server, levels in results.closed[model].items():
        where = list(map(int, levels))
        for axis, key in ((upper, "rate"), (lower, "cpu_us")):
            if all(run[key] is not None for runs in levels.values() for run in runs):
                axis.plot(
                    where,
                    [median(runs, key) for runs in levels.values()],
                    "o-",
                    color=COLOURS.get(server),
                    label=server,
                )
                axis.set_xscale("log")
                axis.set_yscale("log")
    lower.set_xlabel("calls in flight")


def _draw_overload(results: Results, model: str, upper: "Axes", lower: "Axes") -> None:
    for server, labels in results.open[model].items():
        own = {float(label): runs for label, runs in labels.items() if label != "same"}
        upper.plot(
            list(own), [median(runs, "p99_ms") for runs in own.values()], "o-", color=COLOURS.get(server), label=server
        )
        parts = [
            median([run | {"part": run["goodput"] / run["saturation"]} for run in runs], "part")
            for runs in own.values()
        ]
        lower.plot(list(own), parts, "o-", color=COLOURS.get(server), label=server)
    upper.set_yscale("log")
    lower.set_ylim(0, 1.25)
    lower.set_xlabel("offered / own saturation")
