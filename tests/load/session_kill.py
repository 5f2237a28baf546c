"""Kills the session child with SIGKILL under steady load: nothing is lost, little is run twice, and it is back soon.

Every kill may cost a retry of the rows that ran at that moment and of no others; the first call that begins after the
kill must be answered within a second of it.
"""

import argparse
import bisect
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

from tests.load import harness
from tests.server_process import ServerProcess, serve

EVERY = 2.5
"""Seconds between kills; far enough apart for the restart budget."""
BACK = 1.0
BUSY_BACK = 10.0
DEADLINE = 20.0
MODEL = 'model="heavy",version="1"'


def run(arguments: argparse.Namespace) -> dict[str, object]:
    """Offer half of what the server can do and kill its session again and again."""
    kills: list[float] = []
    body = harness.message("heavy")
    with tempfile.TemporaryDirectory() as folder:
        store = harness.store_with(Path(folder), "heavy", {"1": harness.heavy()}, "dynamic_batching { }\n")
        with serve("--intra-op-threads", "1", store=store) as server:
            rate = harness.capacity(server.grpc, body, 2.0) / 2
            stop = threading.Event()
            killer = threading.Thread(target=_kill, args=(server, stop, kills))
            killer.start()
            began = time.monotonic()
            outcome = harness.offered(server.grpc, body, rate, arguments.seconds, DEADLINE, seed=arguments.seed)
            stop.set()
            killer.join()
            samples = server.scrape()
    # An answer that was under way at the kill says nothing of the time after it.
    done = sorted((began + at, began + at + took) for at, took in zip(outcome.instants, outcome.latencies, strict=True))
    gaps = [min(end for _, end in done[bisect.bisect(done, (kill, 0.0)) :]) - kill for kill in kills]
    retried = samples.get(f"sluice_retried_rows_total{{{MODEL}}}", 0.0)
    restarts = samples[f"sluice_session_restarts_total{{{MODEL}}}"]
    most = len(kills) * 64
    failures = []
    if set(outcome.codes) != {harness.OK}:
        failures.append(f"calls ended with {outcome.codes}, expected only OK")
    if not kills or restarts != len(kills):
        failures.append(f"{len(kills)} kills, {restarts:.0f} restarts")
    if retried > most:
        failures.append(f"{retried:.0f} rows were run again, expected at most a batch a kill, {most}")
    if max(gaps, default=0.0) > (BUSY_BACK if arguments.relaxed else BACK):
        failures.append(f"back after {max(gaps):.2f} s, expected at most {BACK} s")
    return {
        "calls": outcome.sent, "rate": round(rate), "kills": len(kills), "retried_rows": retried,
        "back_after_s": [round(gap, 3) for gap in gaps], "failures": failures,
    }  # fmt: skip


def _kill(server: ServerProcess, stop: threading.Event, kills: list[float]) -> None:
    while not stop.wait(EVERY):
        for process in psutil.Process(server.process.pid).children(recursive=True):
            if process.name() == "sluice-session":
                process.kill()
                kills.append(time.monotonic())


if __name__ == "__main__":
    sys.exit(harness.main(run, seconds=11.0))
