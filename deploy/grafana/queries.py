"""The questions that dashboards and rules ask, without Grafana: its variables filled in, its panels walked.

Three programs need them: the check by promtool, the check against a running Prometheus, and the one that draws.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

Json = dict[str, Any]
DASHBOARDS = Path(__file__).resolve().parent / "dashboards"
RATE_INTERVAL = "30s"
"""What Grafana makes of $__rate_interval at most zooms with our 5 s scrapes, rounded up."""

METRIC = re.compile(r"\b(?:sluice|nv|process)_[a-z0-9_]+|\bsluice:[a-z0-9_:]+|\bup\b")
"""The metrics of ours that an expression names."""


@dataclass(frozen=True, slots=True)
class Question:
    """One expression of one panel, and how its series are labelled."""

    dashboard: str
    panel: str
    expr: str
    legend: str


def load() -> dict[str, Json]:
    """Return the committed dashboards by file name without suffix."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(DASHBOARDS.glob("*.json"))}


def concrete(expr: str, model: str = ".*") -> str:
    """Return an expression with Grafana's variables filled in."""
    filled = expr.replace("$__rate_interval", RATE_INTERVAL).replace("$model", model)
    if "$" in filled:
        raise ValueError(f"expected only $__rate_interval and $model in a dashboard's expression, got {expr!r}")
    return filled


def questions(dashboards: dict[str, Json]) -> Iterator[Question]:
    """Yield every expression of every panel."""
    for name, dashboard in dashboards.items():
        for panel in dashboard["panels"]:
            for target in panel["targets"]:
                yield Question(name, panel["title"], concrete(target["expr"]), target["legendFormat"])


class Prometheus:
    """The HTTP API of a running Prometheus, read only."""

    def __init__(self, address: str) -> None:
        if not address.startswith("http"):
            raise ValueError(f"expected http://HOST:PORT of a Prometheus, got {address!r}")
        self._address = address.rstrip("/")

    def get(self, path: str, **parameters: str) -> Any:  # noqa: ANN401 - JSON of many shapes
        """Return the `data` of an answer. Raises OSError when nobody answers or the query is refused."""
        url = f"{self._address}/api/v1/{path}?{urlencode(parameters)}"
        with urlopen(url, timeout=10) as answer:  # noqa: S310 - the scheme was checked
            return json.load(answer)["data"]

    def now(self, expr: str) -> list[Json]:
        """Return the series that `expr` has at this moment."""
        found: list[Json] = self.get("query", query=expr)["result"]
        return found

    def range(self, expr: str, start: float, end: float, step: float) -> list[Json]:
        """Return the series of `expr` between two instants (epoch seconds), a point every `step` seconds."""
        found: list[Json] = self.get("query_range", query=expr, start=str(start), end=str(end), step=str(step))[
            "result"
        ]
        return found
