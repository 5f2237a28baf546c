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

from server.cli.load import Check, LoadClient
from server.pb import open_inference_pb2 as oip
from tests import models
from tests import oip as wire
from tests.load import harness
from tests.server_process import serve

ROWS, RATE = 4, 150.0


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
    """Half of the time without swaps for the baseline, then as many swaps as there are seconds."""
    failures: list[str] = []
    seen: dict[str, int] = {}
    torn = 0
    lock = threading.Lock()

    def check(code: int, answer: bytes) -> None:
        nonlocal torn
        if code == 0:
            response = oip.ModelInferResponse.FromString(answer)
            values = np.frombuffer(response.raw_output_contents[0], np.float32)
            with lock:
                seen[response.model_version] = seen.get(response.model_version, 0) + 1
                torn += not (values == float(response.model_version)).all()

    with tempfile.TemporaryDirectory() as folder:
        store = harness.store_with(Path(folder), "swapped", {"1": constant_version(1)}, "dynamic_batching { }\n")
        with serve("--model-control", "poll", "--poll-seconds", "0.2", store=store) as server:
            client = LoadClient(server.grpc)
            body = _body()
            harness.capacity(client, body, 1.0, in_flight=4)
            steady = _steady(client, body, arguments.seconds, arguments.seed, check)
            stop = threading.Event()
            swapper = threading.Thread(target=_swap, args=(store, stop))
            swapper.start()
            swapped = _steady(client, body, arguments.seconds, arguments.seed + 1, check)
            stop.set()
            swapper.join()
            client.close()
    before, during = (harness.percentile(outcome.latencies, 99) for outcome in (steady, swapped))
    for name, outcome in (("steady", steady), ("swapping", swapped)):
        if set(outcome.codes) != {0}:
            failures.append(f"{name}: calls ended with {outcome.codes}, expected only OK")
    if torn:
        failures.append(f"{torn} answers were not wholly of the version they named")
    if len(seen) < arguments.seconds / 2:
        failures.append(f"expected about {arguments.seconds:.0f} versions to answer, {len(seen)} did")
    if during > 2 * before and not arguments.relaxed:
        failures.append(f"p99 {during * 1000:.1f} ms while swapping, {before * 1000:.1f} ms before")
    return {
        "calls": swapped.sent, "versions": len(seen), "p99_ms_before": round(before * 1000, 2),
        "p99_ms_swapping": round(during * 1000, 2), "failures": failures,
    }  # fmt: skip


def _body() -> bytes:
    zeros = np.zeros((ROWS, 1), np.float32).tobytes()
    return wire.request("swapped", [("x", "FP32", (ROWS, 1), zeros)]).SerializeToString()


def _steady(client: LoadClient, body: bytes, seconds: float, seed: int, check: Check) -> harness.Outcome:
    return harness.open_loop(client, harness.INFER, body, harness.poisson(RATE, seconds, seed), 10.0, check=check)


def _swap(store: Path, stop: threading.Event) -> None:
    number = 2
    while not stop.wait(max(0.0, 1.0 - time.monotonic() % 1.0)):
        publish(store, number)
        number += 1


if __name__ == "__main__":
    sys.exit(harness.main(run, seconds=20.0))
