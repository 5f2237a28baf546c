"""What one run of the suite found, as it is written to JSON, and the medians of it."""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from bench.targets import ROOT

Run = dict[str, Any]
LIBRARIES = ("grpcio", "protobuf", "onnxruntime", "numpy")


def _runs() -> defaultdict[str, list[Run]]:
    return defaultdict(list)


def _by_server() -> defaultdict[str, defaultdict[str, defaultdict[str, list[Run]]]]:
    return defaultdict(lambda: defaultdict(_runs))


@dataclass
class Results:
    """Every run, in the order it was made."""

    machine: dict[str, str]
    date: str
    closed: defaultdict[str, defaultdict[str, defaultdict[str, list[Run]]]] = field(default_factory=_by_server)
    """Model -> server -> calls in flight -> runs."""
    open: defaultdict[str, defaultdict[str, defaultdict[str, list[Run]]]] = field(default_factory=_by_server)
    """Model -> server -> share of saturation -> runs."""
    wide: defaultdict[str, list[Run]] = field(default_factory=_runs)
    """Model -> runs of Sluice with `WIDE` rows a request; rates are of requests."""
    loops: defaultdict[str, list[list[Run]]] = field(default_factory=lambda: defaultdict(list))
    """Model -> rounds of the bare session loop."""
    variants: defaultdict[str, list[Run]] = field(default_factory=_runs)
    switched: list[float] = field(default_factory=list)
    """Throughput with metrics over that without, of neighbouring stretches of one process."""
    memory: defaultdict[str, list[Run]] = field(default_factory=_runs)

    def add_closed(self, model: str, server: str, in_flight: int, run: Run) -> None:
        """Keep a closed-loop run."""
        self.closed[model][server][str(in_flight)].append(run)

    def add_open(self, model: str, server: str, label: str, run: Run) -> None:
        """Keep an open-loop run."""
        self.open[model][server][label].append(run)

    def best_loop(self, model: str) -> float:
        """Return the rows a second that ONNX Runtime alone made of a model with the best setting, as a median."""
        return median(self._best(model), "rows_per_second")

    def wide_share(self, model: str) -> float:
        """Return the rows a second of wide requests over those of the loop at its best, just before and behind."""
        best = [run["rows_per_second"] for run in self._best(model)]
        shares = [2 * run["rows_per_second"] / (best[run["loop"]] + best[run["loop"] + 1]) for run in self.wide[model]]
        return float(statistics.median(shares))

    def _best(self, model: str) -> Sequence[Run]:
        return max(zip(*self.loops[model], strict=True), key=lambda runs: median(runs, "rows_per_second"))


WIDE = 32
"""Rows of a request where the question is what the sessions can do, not what a request costs."""


def median(runs: Sequence[Run], key: str) -> float:
    """Return the median of one figure."""
    return float(statistics.median(run[key] for run in runs))


def paired(runs: Sequence[Run], others: Sequence[Run], key: str) -> float:
    """Return the median of one figure over the same of another's, turn by turn: a machine's slow minute has both."""
    return float(statistics.median(run[key] / other[key] for run, other in zip(runs, others, strict=True)))


def spread(runs: Sequence[Run], key: str) -> str:
    """Return median and range of one figure, as a person reads it."""
    values = [run[key] for run in runs if run[key] is not None]
    if not values:
        return "-"
    digits = 0 if statistics.median(values) >= 100 else 1 if statistics.median(values) >= 10 else 2
    text = f"{statistics.median(values):.{digits}f}"
    return text if len(values) < 2 else f"{text} ({min(values):.{digits}f}..{max(values):.{digits}f})"


def bare_loop(folder: Path, options: argparse.Namespace) -> list[Run]:
    """Run the session loop in a process of its own."""
    seconds = str(0.1 if options.quick else 0.4)
    command = [sys.executable, "-m", "bench.baselines.session_loop", str(folder), "--seconds", seconds]
    found: list[Run] = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout)  # noqa: S603
    return found


def machine() -> dict[str, str]:
    """Describe where this runs."""
    with Path("/proc/cpuinfo").open() as file:
        models = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    return {
        "cpu": f"{len(os.sched_getaffinity(0))} cores, {models[0] if models else platform.machine()}",
        "system": f"{platform.system()} {platform.release().split('-')[0]}, Python {platform.python_version()}",
        "libraries": ", ".join(f"{name} {metadata.version(name)}" for name in LIBRARIES),
        "load": f"{os.getloadavg()[0]:.2f} at the start",
    }
