"""Swaps the version every second under steady load: no call may fail, every answer is wholly of one version."""

import argparse
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from onnx import helper

from server.pb import open_inference_pb2 as oip
from tests import models
from tests import oip as wire
from tests.load import harness
from tests.server_process import serve

ROWS, RATE, DEADLINE = 4, 150.0, 10.0


def constant_version(number: int) -> bytes:
    """Return a model that answers its own version number for every row, whatever it is asked."""
    weights = models.constant("version", np.array([[number]], np.float32))
    zero = models.constant("zero", np.array([0], np.float32))
    nodes = [
        helper.make_node("Mul", ["x", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "version"], ["y"]),
    ]
    inputs, outputs = [models.value("x", "FP32", ["N", 1])], [models.value("y", "FP32", ["N", 1])]
    return models.model(nodes, inputs, outputs, [zero, weights])


def publish(store: Path, number: int) -> None:
    """Put a version into the store as a trainer does: written beside, then renamed."""
    beside = store / "swapped" / f".{number}.partial"
    models.write_version(beside, constant_version(number))
    beside.replace(store / "swapped" / str(number))
    if number > 3:
        shutil.rmtree(store / "swapped" / str(number - 3))


def run(arguments: argparse.Namespace) -> dict[str, object]:
    """As many swaps as there are seconds, between two stretches without any, which are the baseline together."""
    seen: dict[str, int] = {}
    torn: list[str] = []

    def check(code: int, answer: bytes) -> None:
        if code == harness.OK:
            response = oip.ModelInferResponse.FromString(answer)
            values = np.frombuffer(response.raw_output_contents[0], np.float32)
            seen[response.model_version] = seen.get(response.model_version, 0) + 1
            if not (values == float(response.model_version)).all():
                torn.append(response.model_version)

    with tempfile.TemporaryDirectory() as folder:
        store = harness.store_with(Path(folder), "swapped", {"1": constant_version(1)}, "dynamic_batching { }\n")
        with serve("--model-control", "poll", "--poll-seconds", "0.2", store=store) as server:
            body, seconds, seed = _body(), arguments.seconds, arguments.seed
            harness.capacity(server.grpc, body, 1.0, in_flight=4)
            calm = [harness.offered(server.grpc, body, RATE, seconds / 2, DEADLINE, seed=seed, check=check)]
            stop = threading.Event()
            swapper = threading.Thread(target=_swap, args=(store, stop))
            swapper.start()
            swapped = harness.offered(server.grpc, body, RATE, seconds, DEADLINE, seed=seed + 1, check=check)
            stop.set()
            swapper.join()
            calm.append(harness.offered(server.grpc, body, RATE, seconds / 2, DEADLINE, seed=seed + 2, check=check))
    before = harness.percentile([latency for outcome in calm for latency in outcome.latencies], 99)
    during = harness.percentile(swapped.latencies, 99)
    failures = [
        f"{name}: calls ended with {outcome.codes}, expected only OK"
        for name, outcome in (("before", calm[0]), ("swapping", swapped), ("after", calm[1]))
        if set(outcome.codes) != {harness.OK}
    ]
    if torn:
        failures.append(f"{len(torn)} answers were not wholly of the version they named")
    if len(seen) < arguments.seconds / 2:
        failures.append(f"expected about {arguments.seconds:.0f} versions to answer, {len(seen)} did")
    if during > 2 * before and not arguments.relaxed:
        failures.append(f"p99 {during * 1000:.1f} ms while swapping, {before * 1000:.1f} ms without")
    return {
        "calls": swapped.sent, "versions": len(seen), "p99_ms_without": round(before * 1000, 2),
        "p99_ms_swapping": round(during * 1000, 2), "failures": failures,
    }  # fmt: skip


def _body() -> bytes:
    zeros = np.zeros((ROWS, 1), np.float32).tobytes()
    return wire.request("swapped", [("x", "FP32", (ROWS, 1), zeros)]).SerializeToString()


def _swap(store: Path, stop: threading.Event) -> None:
    number = 2
    while not stop.wait(max(0.0, 1.0 - time.monotonic() % 1.0)):
        publish(store, number)
        number += 1


if __name__ == "__main__":
    sys.exit(harness.main(run, seconds=20.0))
