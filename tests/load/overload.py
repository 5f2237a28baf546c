"""Offers 1.2, 2 and 5 times what the server can do, then half: goodput must hold and normal must come back.

Goodput counts answers within the 100 ms deadline, measured from the instant a call was meant to be sent; the deadline
is that of the gRPC calls. Capacity is measured before and after each overload, so that a drifting machine decides
nothing, and the session has one core of two: the other one sends, accepts and refuses.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from server.load.outcome import Outcome
from tests.load import harness
from tests.server_process import serve

DEADLINE = 0.1
BARS = {1.2: 0.95, 2.0: 0.95, 5.0: 0.9}
RELAXED = 0.1
RECOVERY = 2.0
"""Seconds after the load fell from which every call must succeed."""
ALLOWED = {harness.OK, harness.DEADLINE_EXCEEDED, harness.RESOURCE_EXHAUSTED}


def run(arguments: argparse.Namespace) -> dict[str, object]:
    """Measure capacity around each overload, then look at how normal comes back after the worst."""
    figures: dict[str, object] = {}
    failures: list[str] = []
    body = harness.message("heavy")
    with tempfile.TemporaryDirectory() as folder:
        store = harness.store_with(Path(folder), "heavy", {"1": harness.heavy()}, "dynamic_batching { }\n")
        with serve("--intra-op-threads", "1", store=store) as server:
            harness.capacity(server.grpc, body, 1.0)
            can = harness.capacity(server.grpc, body, arguments.seconds)
            for factor, bar in BARS.items():
                rate = factor * can
                outcome = harness.offered(server.grpc, body, rate, arguments.seconds, DEADLINE, seed=arguments.seed)
                if factor == max(BARS):
                    after = harness.offered(server.grpc, body, 0.5 * can, 2 * RECOVERY, DEADLINE, seed=arguments.seed)
                    figures["after"] = _judge_recovery(after, 0.5 * can, arguments, failures)
                before, can = can, harness.capacity(server.grpc, body, arguments.seconds)
                least = RELAXED if arguments.relaxed else bar
                figures[f"{factor}x"] = _judge(outcome, factor, least, (before, can), arguments, failures)
    return {**figures, "failures": failures}


def _judge(
    outcome: Outcome,
    factor: float,
    bar: float,
    capacities: tuple[float, float],
    arguments: argparse.Namespace,
    failures: list[str],
) -> dict[str, object]:
    can = sum(capacities) / 2
    share = sum(latency <= DEADLINE for latency in outcome.latencies) / arguments.seconds / can
    slowest = harness.percentile(outcome.latencies, 99)
    if share < bar:
        failures.append(f"{factor}x: goodput {share:.3f} of capacity, expected {bar}")
    if slowest > DEADLINE and not arguments.relaxed:
        failures.append(f"{factor}x: p99 of the admitted {slowest * 1000:.0f} ms, expected at most 100 ms")
    if set(outcome.codes) - ALLOWED:
        failures.append(f"{factor}x: codes {outcome.codes}")
    return {
        "capacity": [round(capacity) for capacity in capacities], "offered": round(outcome.sent / arguments.seconds),
        "goodput_share": round(share, 3), "p99_ms": round(slowest * 1000, 1), "codes": outcome.codes,
        "generator_cpu": round(outcome.cpu_seconds / outcome.seconds, 2),
        "late_p99_ms": round(harness.percentile(outcome.late, 99) * 1000, 2),
    }  # fmt: skip


def _judge_recovery(
    after: Outcome, rate: float, arguments: argparse.Namespace, failures: list[str]
) -> dict[str, object]:
    good = sum(instant > RECOVERY for instant in after.instants)
    due = sum(at > RECOVERY for at in harness.poisson(rate, 2 * RECOVERY, arguments.seed))
    if good != due and not (arguments.relaxed and good > RELAXED * due):
        failures.append(f"{RECOVERY:.0f} s after the load fell {due - good} of {due} calls still failed")
    return {"codes": after.codes, "p99_ms": round(harness.percentile(after.latencies, 99) * 1000, 1)}


if __name__ == "__main__":
    sys.exit(harness.main(run, seconds=5.0))
