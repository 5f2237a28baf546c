"""Draw the dashboards from a running Prometheus: `python -m deploy.render_dashboards http://HOST:PORT --out docs/img`.

The same panels in the same places asking the same expressions as Grafana's, read from the committed JSON; for pages and
reviews where no Grafana can be had. Colours and legends are matplotlib's. Needs matplotlib (extra `train`).
"""

import argparse
import math
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import matplotlib.dates as mdates
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from deploy.grafana.panels import COLUMNS
from deploy.grafana.queries import Json, Prometheus, concrete, load

mpl.use("Agg")

COLUMN_INCHES, ROW_INCHES = 0.62, 0.34
"""Size of one unit of Grafana's grid."""

TITLE_ROWS = 1.2
POINTS = 180
LEGEND_LINES = 6
MOST_TICKS = 6
TICK_SECONDS = (10, 30, 60, 300, 600, 1800, 3600, 21600, 86400)
DAY = 86400.0
"""matplotlib counts days since the epoch."""
SCALES = {
    "s": ((1, "s"), (1e-3, "ms"), (1e-6, "µs")),
    "bytes": ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (1, "B")),
    "reqps": ((1, "/s"),),
    "cps": ((1, "/s"),),
    "percentunit": ((0.01, "%"),),
    "watt": ((1, "W"),),
    "joule": ((1, "J"), (1e-3, "mJ")),
    "celsius": ((1, "°C"),),
}
"""Grafana's units: the largest scale that leaves at least 1 is shown."""


def human(value: float, unit: str) -> str:
    """Return a value with its unit, e.g. 2.5 ms."""
    if value == 0:
        return "0"
    scales = SCALES.get(unit, ((1, ""),))
    size, name = next((scale for scale in scales if abs(value) >= scale[0]), scales[-1])
    return f"{value / size:.3g} {name}".rstrip()


def label(legend: str, series: Json) -> str:
    """Return a legend with the series' labels filled in; Grafana shows the braces' content empty when it is missing."""
    return (
        re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda found: series["metric"].get(found[1], ""), legend).strip() or "no model"
    )


class Window:
    """The stretch of time that all panels show."""

    def __init__(self, server: Prometheus, seconds: float) -> None:
        self._server = server
        self.end = time.time()  # noqa: TID251 - Prometheus speaks wall clock
        self.start = self.end - seconds
        self.step = max(5.0, seconds / POINTS)

    def series(self, target: Json) -> list[Json]:
        """Return what one target of a panel has in the window."""
        return self._server.range(concrete(target["expr"]), self.start, self.end, self.step)

    def now(self, target: Json) -> list[Json]:
        """Return what it has at the end."""
        return self._server.now(concrete(target["expr"]))


def points(series: Json) -> tuple[list[float], list[float]]:
    """Return the instants (days) and values of a series; a gap stays a gap."""
    return [at / DAY for at, _ in series["values"]], [float(value) for _, value in series["values"]]


def draw_lines(axes: Axes, panel: Json, window: Window) -> None:
    """Draw a time series panel."""
    defaults = panel["fieldConfig"]["defaults"]
    found = [(label(target["legendFormat"], one), one) for target in panel["targets"] for one in window.series(target)]
    if not found:
        draw_nothing(axes)
        return
    if defaults["custom"]["stacking"]["mode"] == "normal":
        stack(axes, found)
    else:
        for name, one in found:
            axes.plot(*points(one), label=name, linewidth=1.1)
    axes.set_xlim(window.start / DAY, window.end / DAY)
    if "scaleDistribution" in defaults["custom"]:
        axes.set_yscale("log")
    else:
        axes.set_ylim(0, max(axes.get_ylim()[1], 1e-9) * 1.15)  # room for the legend
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: human(value, defaults["unit"])))
    axes.legend(fontsize=6, ncols=3, frameon=False, loc="upper left", labels=legend_of([name for name, _ in found]))
    dates(axes)


def stack(axes: Axes, found: list[tuple[str, Json]]) -> None:
    """Draw series on top of each other; where one has no value it counts as nothing."""
    instants = sorted({at for _, one in found for at, _ in one["values"]})
    heights = [[float(dict(map(tuple, one["values"])).get(at, 0)) for at in instants] for _, one in found]
    axes.stackplot([at / DAY for at in instants], heights, labels=[name for name, _ in found], alpha=0.7)


def legend_of(names: list[str]) -> list[str]:
    """Return as many names as a small panel has room for."""
    return names if len(names) <= LEGEND_LINES else [*names[:LEGEND_LINES], f"and {len(names) - LEGEND_LINES} more"]


def draw_number(axes: Axes, panel: Json, window: Window) -> None:
    """Draw a single number over a faint line of its past."""
    target, defaults = panel["targets"][0], panel["fieldConfig"]["defaults"]
    now = [float(one["value"][1]) for one in window.now(target)]
    axes.set_axis_off()
    if not now or math.isnan(now[0]):
        axes.text(0.5, 0.5, defaults["noValue"], ha="center", va="center", fontsize=15, color="grey")
        return
    steps = defaults["thresholds"]["steps"]
    colour = next(step["color"] for step in reversed(steps) if step["value"] is None or now[0] >= step["value"])
    past = axes.twinx()
    past.set_axis_off()
    for one in window.series(target):
        past.fill_between(*points(one), color=colour, alpha=0.12, linewidth=0)
    axes.text(0.5, 0.5, human(now[0], defaults["unit"]), ha="center", va="center", fontsize=17, color=colour,
              transform=axes.transAxes)  # fmt: skip


def draw_heat(axes: Axes, panel: Json, window: Window) -> None:
    """Draw a histogram over time; buckets are cumulative, so each is what its bound adds."""
    found = sorted(window.series(panel["targets"][0]), key=lambda one: float(one["metric"]["le"]))
    if not found:
        draw_nothing(axes)
        return
    instants = [at for at, _ in found[-1]["values"]]
    below = [0.0] * len(instants)
    cells = []
    for one in found:
        counts = dict(map(tuple, one["values"]))
        total = [float(counts.get(at, 0)) for at in instants]
        cells.append([max(0.0, upto - under) for upto, under in zip(total, below, strict=True)])
        below = total
    days = [at / DAY for at in instants]
    axes.pcolormesh(days, list(range(len(found))), cells, cmap="Blues", shading="nearest")
    axes.set_yticks(range(len(found)), [f"≤ {one['metric']['le'].removesuffix('.0')}" for one in found], fontsize=6)
    dates(axes)


def draw_table(axes: Axes, panel: Json, window: Window) -> None:
    """Draw the labels of each series as a row."""
    axes.set_axis_off()
    hidden = panel["transformations"][0]["options"]["excludeByName"]
    found = window.now(panel["targets"][0])
    columns = sorted({name for one in found for name in one["metric"]} - set(hidden))
    if not columns:
        draw_nothing(axes)
        return
    rows = sorted([one["metric"].get(column, "") for column in columns] for one in found)
    drawn = axes.table(cellText=rows, colLabels=columns, loc="upper center", cellLoc="left", edges="horizontal")
    drawn.auto_set_font_size(value=False)
    drawn.set_fontsize(7)


def draw_nothing(axes: Axes) -> None:
    """Say that there is nothing, as Grafana does."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.text(0.5, 0.5, "No data", ha="center", va="center", color="grey", transform=axes.transAxes)


def dates(axes: Axes) -> None:
    """Label an axis of instants at round times, few enough to be read."""
    start, end = (day * DAY for day in axes.get_xlim())
    step = next((step for step in TICK_SECONDS if (end - start) / step <= MOST_TICKS), TICK_SECONDS[-1])
    first = math.ceil(start / step) * step
    axes.set_xticks([(first + number * step) / DAY for number in range(int((end - first) / step) + 1)])
    axes.xaxis.set_major_formatter(mdates.DateFormatter("%H:%M:%S"))  # type: ignore[no-untyped-call]


DRAW: dict[str, Callable[[Axes, Json, Window], None]] = {
    "timeseries": draw_lines,
    "stat": draw_number,
    "heatmap": draw_heat,
    "table": draw_table,
}


def render(dashboard: Json, window: Window, path: Path) -> None:
    """Draw one dashboard into a PNG file."""
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in dashboard["panels"])
    figure = plt.figure(figsize=(COLUMNS * COLUMN_INCHES, (height + TITLE_ROWS) * ROW_INCHES))
    figure.text(0.01, 1 - 0.8 * TITLE_ROWS / (height + TITLE_ROWS), dashboard["title"], fontsize=12)
    for panel in dashboard["panels"]:
        axes = figure.add_axes(place(panel["gridPos"], height + TITLE_ROWS))
        axes.set_title(panel["title"], fontsize=8, loc="left")
        axes.tick_params(labelsize=6)
        axes.grid(alpha=0.2)
        DRAW[panel["type"]](axes, panel, window)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def place(grid: Json, height: float) -> tuple[float, float, float, float]:
    """Return left, bottom, width and height of a panel's axes as shares of a page that is `height` rows high.

    Inside its cells a panel needs room for its title above, and for the labels of its axes on the left and below.
    """
    left, right, above, below = 1.3, 0.25, 0.8, 0.9
    bottom = height - TITLE_ROWS - grid["y"] - grid["h"] + below
    size = ((grid["w"] - left - right) / COLUMNS, (grid["h"] - above - below) / height)
    return (grid["x"] + left) / COLUMNS, bottom / height, *size


def main() -> int:
    """Draw them all."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", maxsplit=1)[0])
    parser.add_argument("prometheus", metavar="http://HOST:PORT")
    parser.add_argument("--out", type=Path, default=Path("docs/img"), help="(default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=5.0, help="how far back (default: %(default)g)")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    window = Window(Prometheus(arguments.prometheus), arguments.minutes * 60)
    for name, dashboard in load().items():
        render(dashboard, window, arguments.out / f"dashboard-{name}.png")
        sys.stdout.write(f"{arguments.out}/dashboard-{name}.png\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
