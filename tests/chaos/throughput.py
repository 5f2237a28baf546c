"""What Redis costs: the path in one process, the path through Redis, and bare Redis, side by side in one run.

    python -m tests.chaos.throughput --rounds 5 --seconds 2

Queue alone: one and the same scheduler and instance that answers at once, behind the queue in memory, and in a worker
process behind Redis; bare Redis carries the same bytes. End to end: real `sluice serve` processes with the churn model,
role all, and a frontend and a worker with Redis between them. Every round measures each, so that what disturbs the
machine disturbs all; the table has medians and the least and most of the rounds. Exit code 1 when what binds is missed.
"""

import argparse
import asyncio
import sys
from dataclasses import dataclass

from tests.chaos.harness.closed_loop import Loop
from tests.chaos.harness.paths import end_to_end, queue_alone

IN_FLIGHT = 256


@dataclass(frozen=True)
class Bars:
    """`rate`: requests a second through Redis, or as many as the path in one process does where that is fewer."""

    rate: float = 5000.0
    added_ms: float = 2.0
    """p50 through Redis less p50 in one process, one request in flight. Binding for the queue alone: end to end the
    threads and the session child of two servers are woken as well, so there it is only said whether it is missed."""


@dataclass(frozen=True)
class Figure:
    """One path at one load: median, least and most of the rounds."""

    rate: tuple[float, float, float]
    p50_ms: tuple[float, float, float]
    cpu_us: float | None
    failed: int


Figures = dict[str, Figure]


def summed(loops: dict[str, list[Loop]]) -> Figures:
    """Return the figures of each path."""
    return {name: _figure(runs) for name, runs in loops.items()}


def _figure(runs: list[Loop]) -> Figure:
    cpu = [run.cpu_us for run in runs if run.cpu_us is not None]
    return Figure(
        _spread([run.rate for run in runs]),
        _spread([run.p50_ms for run in runs]),
        _spread(cpu)[0] if cpu else None,
        sum(run.failed for run in runs),
    )


def _spread(values: list[float]) -> tuple[float, float, float]:
    ordered = sorted(values)
    return ordered[len(ordered) // 2], ordered[0], ordered[-1]


def table(light: Figures, full: Figures) -> str:
    """Return what a person reads."""
    lines = [f"{'':26}{f'requests/s, {IN_FLIGHT} in flight':>34}{'CPU us each':>13}{'p50 ms, 1 in flight':>28}"]
    for name, figure in full.items():
        rate, p50 = figure.rate, light[name].p50_ms
        cpu = f"{figure.cpu_us:.0f}" if figure.cpu_us is not None else ""
        lines.append(
            f"{name:26}{rate[0]:>12,.0f} ({rate[1]:>7,.0f} to {rate[2]:>7,.0f}){cpu:>13}"
            f"{p50[0]:>12.2f} ({p50[1]:.2f} to {p50[2]:.2f})"
        )
    return "\n".join(lines)


def judge(what: str, light: Figures, full: Figures, bars: Bars, *, latency_binds: bool) -> tuple[bool, str]:
    """Return whether the path through Redis holds what binds it beside the one in one process, and its verdicts."""
    memory, redis = f"{what}, in memory", f"{what}, Redis"
    rate, wanted = full[redis].rate[0], min(bars.rate, full[memory].rate[0])
    added = light[redis].p50_ms[0] - light[memory].p50_ms[0]
    failed = sum(figure.failed for figures in (light, full) for figure in figures.values())
    fast, near = rate >= wanted and not failed, added <= bars.added_ms
    return fast and (near or not latency_binds), (
        f"{'PASS' if fast else 'FAIL'} {what}: {rate:,.0f}/s through Redis (bar {wanted:,.0f}), {failed} failed\n"
        f"{'PASS' if near else 'FAIL' if latency_binds else 'MISSED'} {what}: added p50 {added:.2f} ms "
        f"(bar {bars.added_ms:g} ms{'' if latency_binds else ', not binding here'})"
    )


async def measure(seconds: float, rounds: int, bars: Bars) -> bool:
    """Measure both, print tables and verdicts; return whether all bars hold."""
    verdicts = []
    for what, paths in (("queue alone", queue_alone), ("end to end", end_to_end)):
        async with paths(seconds, IN_FLIGHT) as runs:
            loops = await asyncio.to_thread(runs.side_by_side, rounds)
        light, full = summed(loops[1]), summed(loops[IN_FLIGHT])
        print(table(light, full), flush=True)
        verdicts.append(judge(what, light, full, bars, latency_binds=what == "queue alone"))
    print(*(line for _, line in verdicts), sep="\n")
    return all(good for good, _ in verdicts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    return 0 if asyncio.run(measure(args.seconds, args.rounds, Bars())) else 1


if __name__ == "__main__":
    sys.exit(main())
