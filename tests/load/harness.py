"""What the load scripts share: a store with a model of known cost, calls on a schedule, percentiles, a verdict."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from server.cli.load import LoadClient, Outcome, closed_loop, open_loop, poisson
from tests import models, oip

INFER = "/inference.GRPCInferenceService/ModelInfer"
OK, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED = 0, 4, 8


def store_with(folder: Path, name: str, versions: dict[str, bytes], config: str = "") -> Path:
    """Write a model store of one model and return it."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / name / "config.pbtxt").write_text(f'name: "{name}"\nbackend: "onnxruntime"\n{config}')
    for version, data in versions.items():
        models.write_version(folder / name / version, data)
    return folder


def heavy(width: int = 1024, depth: int = 32) -> bytes:
    """Return a model that costs some milliseconds a batch and less a row the more rows run together."""
    return models.matrix_chain(width, depth)


def message(name: str, width: int = 1024) -> bytes:
    """Return one serialised request row for `heavy`."""
    return oip.request(
        name, [("x", "FP32", (1, width), np.zeros((1, width), np.float32).tobytes())]
    ).SerializeToString()


def capacity(client: LoadClient, body: bytes, seconds: float, in_flight: int = 64) -> float:
    """Return the rows a second a closed loop gets out of the server."""
    outcome = closed_loop(client, INFER, body, in_flight, seconds)
    return len(outcome.latencies) / outcome.seconds


def offered(client: LoadClient, body: bytes, rate: float, seconds: float, deadline: float, seed: int) -> Outcome:
    """Send `rate` calls a second, Poisson, whatever comes back."""
    return open_loop(client, INFER, body, poisson(rate, seconds, seed), deadline)


def percentile(values: list[float], q: float) -> float:
    """Return the q-th percentile, infinity of nothing."""
    return float(np.percentile(values, q)) if values else float("inf")


def main(run: Callable[[argparse.Namespace], dict[str, object]], *, seconds: float) -> int:
    """Run a script: flags, its figures as one line of JSON, and a one-line verdict. Returns the exit code."""
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--seconds", type=float, default=seconds, help="of each phase (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument(
        "--relaxed", action="store_true", help="bars for a busy machine: what must never break, not how fast"
    )
    arguments = parser.parse_args()
    figures = run(arguments)
    failures = figures.pop("failures")
    print(json.dumps(figures))
    print(f"seed {arguments.seed}: " + ("held" if not failures else f"BROKEN: {'; '.join(failures)}"))
    return 1 if failures else 0
