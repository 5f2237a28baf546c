"""Open loop: Poisson arrivals at a share of a server's own saturation, and what came back in time."""

from dataclasses import dataclass

import numpy as np

from bench.targets import Target
from server.cli.bench import summary
from server.load.generator import TICK, Generator
from server.load.outcome import poisson

CALM_DEADLINE = 1.0
"""Seconds given to calls where latency is the question; one without an answer counts as having taken as long."""
TIGHT_DEADLINE = 0.1
"""Seconds given to calls where overload is the question."""
TIGHT_TICK = 0.004
"""Seconds that the generator sleeps there between two looks: each takes 0.1 ms of CPU from the server."""


@dataclass(frozen=True)
class Open:
    """One open-loop run."""

    share: float
    """Offered, as a part of the saturation it is measured by."""
    offered: float
    """Calls a second that were sent."""
    goodput: float
    """Answers with OK within the deadline, a second."""
    p50_ms: float
    p99_ms: float
    p999_ms: float
    cpu_us: float | None
    codes: dict[str, int]
    generator_share: float
    late_ms: float
    caution: str


def run(target: Target, message: bytes, rate: float, share: float, seconds: float, seed: int) -> Open:
    """Offer `rate` calls a second for so long; above saturation the deadline is tight."""
    deadline, tick = (CALM_DEADLINE, TICK) if share < 1 else (TIGHT_DEADLINE, TIGHT_TICK)
    generator = Generator(target.address, target.path, message, deadline=deadline, connections=4, tick=tick)
    cpu = target.cpu_seconds()
    try:
        outcome = generator.open_loop(poisson(rate, seconds, seed))
    finally:
        generator.close()
    used = (target.cpu_seconds() - cpu) / max(outcome.sent, 1) * 1e6 if target.process else None
    good = [latency for latency in outcome.latencies if latency <= deadline]
    every = np.array(good + [deadline] * (outcome.sent - len(good)))
    p50, p99, p999 = (float(np.percentile(every, q)) * 1000 if len(every) else 0.0 for q in (50, 99, 99.9))
    said = summary(outcome, 1)
    late = float(np.median(outcome.late)) * 1000 if outcome.late else 0.0
    return Open(
        share, outcome.sent / seconds, len(good) / seconds, p50, p99, p999, used,
        {str(code): count for code, count in sorted(outcome.codes.items())},
        outcome.cpu_seconds / outcome.seconds, late, str(said["caution"]),
    )  # fmt: skip
