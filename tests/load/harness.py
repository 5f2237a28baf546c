"""What the load scripts share: a store with a model of known cost, calls on a schedule, percentiles, a verdict."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from server.load.generator import Check, Generator
from server.load.outcome import Outcome, poisson
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


def heavy(width: int = 1024, depth: int = 96) -> bytes:
    """Return a model that costs a core some three milliseconds a row: the other core is for generator and refusals."""
    return models.matrix_chain(width, depth)


def message(name: str, width: int = 1024) -> bytes:
    """Return one serialised request row for `heavy`."""
    return oip.request(
        name, [("x", "FP32", (1, width), np.zeros((1, width), np.float32).tobytes())]
    ).SerializeToString()


def capacity(address: str, body: bytes, seconds: float, in_flight: int = 64) -> float:
    """Return the answers a second a closed loop gets out of the server."""
    generator = Generator(address, INFER, body)
    outcome = generator.closed_loop(in_flight, seconds)
    generator.close()
    return len(outcome.latencies) / outcome.seconds


def offered(
    address: str, body: bytes, rate: float, seconds: float, deadline: float, *, seed: int, check: Check | None = None
) -> Outcome:
    """Send `rate` calls a second, Poisson, whatever comes back; `deadline` is that of each gRPC call."""
    generator = Generator(address, INFER, body, deadline=deadline)
    outcome = generator.open_loop(poisson(rate, seconds, seed), check=check)
    generator.close()
    return outcome


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
