"""Finds out about a loaded model by running it: how long batches take, and whether rows leave each other alone.

Runs go through the instance exactly as they will in service, so what is measured is what the scheduler will see.
"""

import threading
import time
from collections.abc import Sequence

import numpy as np

from server.messages import Tensor
from server.sessions.base import BatchError, BatchOutputs, CostPoint, Instance, Part
from server.sessions.dtypes import NUMPY

BUDGET = 1.5
"""Seconds the whole cost curve of one model may take."""

FEWEST_RUNS, MOST_RUNS = 3, 12
ROW_TOLERANCE = 1e-4
"""How far a row's answer may move with its batch-mates: rounding differs between batch sizes, meaning must not.

Ten times as far where the answer is given in half precision, whose own rounding is 1e-3; further where all of it is
computed in that, and errors add up.
"""
HALF_ROW_TOLERANCE = 5e-3


def run_now(instance: Instance, parts: Sequence[Part], timeout: float) -> BatchOutputs:
    """Run one batch and wait for it.

    Raises:
        BatchError: whatever became of it.
    """
    outcomes: list[BatchOutputs | BatchError] = []
    finished = threading.Event()

    def done(outcome: BatchOutputs | BatchError) -> None:
        outcomes.append(outcome)
        finished.set()

    instance.run(parts, timeout, done)
    finished.wait()
    if isinstance(outcomes[0], BatchError):
        raise outcomes[0]
    return outcomes[0]


def typical(rows: Sequence[Part]) -> Part:
    """Return the request of median length: every row of a batch costs what the longest does, so one length it is."""
    return sorted(rows, key=lambda row: sum([len(tensor.data) for tensor in row.inputs]))[len(rows) // 2]


def cost_curve(instance: Instance, row: Part, sizes: Sequence[int], timeout: float) -> tuple[CostPoint, ...]:
    """Return the seconds of an undisturbed batch for each of `sizes` (ascending), as far as the time budget reaches.

    The fastest of several runs counts: while one model is measured, others load and serve on the same cores.
    `row` is a request of one row, of which the batches are made. A size that does not fit in memory ends the curve; a
    first size that cannot run raises.

    Raises:
        BatchError: not even the smallest batch ran.
    """
    points: dict[int, CostPoint] = {}
    began = time.perf_counter()
    for size in sizes:
        try:
            run_now(instance, [row] * size, timeout)  # the first of its size allocates
            points[size] = CostPoint(size, _seconds(instance, [row] * size, timeout))
        except BatchError:
            if not points:
                raise
            break
        if points[size].seconds * FEWEST_RUNS > 2 * BUDGET / len(sizes):
            break  # the next one would take longer than all of them should
    runs = 1
    while runs < FEWEST_RUNS or (runs < MOST_RUNS and time.perf_counter() - began < BUDGET):
        _measure_again(instance, row, points, timeout)
        runs += 1
    return tuple(points.values())


def _measure_again(instance: Instance, row: Part, points: dict[int, CostPoint], timeout: float) -> None:
    """Run every size once more, one after the other: where the cores are busy for a moment, none of them looks dearer.

    One that does not run any more is left out, with all that are larger.
    """
    for size in tuple(points):
        try:
            seconds = _seconds(instance, [row] * size, timeout)
        except BatchError:
            for larger in [other for other in points if other >= size]:
                del points[larger]
            if not points:
                raise
            return
        points[size] = CostPoint(size, min(points[size].seconds, seconds))


def _seconds(instance: Instance, batch: Sequence[Part], timeout: float) -> float:
    started = time.perf_counter()
    run_now(instance, batch, timeout)
    return time.perf_counter() - started


def dependent_output(instance: Instance, rows: Sequence[Part], timeout: float, *, half: bool = False) -> str | None:
    """Return the name of an output in which a row's answer depends on its batch-mates, None if there is none.

    `half` says that it is computed in half precision, whatever the outputs are given in.

    Raises:
        BatchError: the rows cannot be run.
    """
    together = run_now(instance, rows, timeout).parts
    for row, answers in zip(rows, together, strict=True):
        (alone,) = run_now(instance, [row], timeout).parts
        for one, other in zip(alone, answers, strict=True):
            if not _alike(one, other, half=half):
                return one.name
    return None


def _alike(one: Tensor, other: Tensor, *, half: bool) -> bool:
    if one.datatype not in ("FP16", "FP32", "FP64"):
        return bytes(one.data) == bytes(other.data)
    a, b = (np.frombuffer(tensor.data, NUMPY[one.datatype]).astype(np.float64) for tensor in (one, other))
    tolerance = HALF_ROW_TOLERANCE if half else ROW_TOLERANCE if one.datatype != "FP16" else 10 * ROW_TOLERANCE
    return a.shape == b.shape and bool(np.allclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True))
