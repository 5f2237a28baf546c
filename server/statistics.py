"""Counters of one model version, as Triton's ModelStatistics reports them and metrics read them.

Written by the scheduler under its own lock, read as snapshots. Durations are kept in nanoseconds because the
protocol wants integers that only grow.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Protocol


@dataclass(slots=True)
class Duration:
    """How often something happened and the nanoseconds it took in all."""

    count: int = 0
    ns: int = 0

    def add(self, seconds: float, count: int = 1) -> None:
        """Count `count` events that took `seconds` in all."""
        self.count += count
        self.ns += int(seconds * 1e9)

    def copy(self) -> "Duration":
        """Return a snapshot."""
        return Duration(self.count, self.ns)


@dataclass(slots=True)
class BatchStatistics:
    """Executions of one batch size (rows that ran together)."""

    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)

    def copy(self) -> "BatchStatistics":
        """Return a snapshot."""
        return BatchStatistics(self.compute_input.copy(), self.compute_infer.copy(), self.compute_output.copy())


class Histogram:
    """A histogram cheap enough for the hot path: one bisect and three additions, no lock of its own.

    `prometheus_client`'s costs about 0.7 us an observation, a third more than this server spends on parsing.
    """

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> int:
        """Count one value and return its bucket."""
        bucket = bisect_left(self.bounds, value)
        self.counts[bucket] += 1
        self.sum += value
        return bucket

    def observe_all(self, values: Sequence[float]) -> None:
        """Count several values, at a quarter of what each costs alone where they come nearly in order, as waits do."""
        counts, bounds = self.counts, self.bounds
        ordered = sorted(values)
        at, end = 0, len(ordered)
        while at < end:
            bucket = bisect_left(bounds, ordered[at])
            following = bisect_right(ordered, bounds[bucket], at) if bucket < len(bounds) else end
            counts[bucket] += following - at
            at = following
        self.sum += sum(values)

    def observe_since(self, instants: Sequence[float], now: float) -> None:
        """Count the durations from several instants until now, without working each of them out."""
        counts, bounds = self.counts, self.bounds
        ordered = sorted(instants)
        bucket, left = bisect_left(bounds, now - ordered[-1]), len(ordered)
        while left:
            older = bisect_left(ordered, now - bounds[bucket], 0, left) if bucket < len(bounds) else 0
            counts[bucket] += left - older
            left = older
            bucket += 1
        self.sum += len(instants) * now - sum(instants)

    def bucket(self, value: float) -> int:
        """Return a value's bucket; one equal to a bound belongs to that bound's bucket, as Prometheus says."""
        return bisect_left(self.bounds, value)

    def copy(self) -> "Histogram":
        """Return a snapshot."""
        other = Histogram(self.bounds)
        other.counts = list(self.counts)
        other.sum = self.sum
        return other


SECONDS_BUCKETS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
"""From the 100 us a small model takes to the 10 s nobody waits longer than."""

GIVEN_UP = frozenset({"expired", "cancelled", "shutting_down"})
"""Reasons to give an accepted request up that are no failure of the model."""

ROWS_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Computed(Protocol):
    """What a run tells about itself: seconds, and rows of filler."""

    compute_input: float
    compute_infer: float
    compute_output: float
    padded_rows: int


_Execution = tuple[int, int, float, float, float, float, Sequence[float]]
"""A batch that ran: rows, rows of filler, seconds of input, inference and output; then of its requests the seconds they
took in all, together, and the seconds each of them was in the queue."""
FOLD = 32
"""Executions that are counted at once."""


@dataclass(frozen=True, slots=True)
class QueueStatistics:
    """What one model's queue holds at this moment; ages are seconds."""

    depth: int
    """Requests waiting, not those running."""
    rows: int
    running: int
    oldest_age: float
    max_depth: int


@dataclass(slots=True)
class ModelStatistics:
    """Everything one version counts since it was loaded. `last_inference_ms` is epoch milliseconds."""

    last_inference_ms: int = 0
    inference_count: int = 0
    """Rows that were inferred."""
    execution_count: int = 0
    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    cancel: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)
    cache_hit: Duration = field(default_factory=Duration)
    cache_miss: Duration = field(default_factory=Duration)
    batches: dict[int, BatchStatistics] = field(default_factory=dict)
    padded_rows: int = 0
    sized_bytes: int = 0
    """Bytes of variable length (BYTES inputs) that ran."""
    padded_bytes: int = 0
    """Bytes that shorter rows were padded by to the longest of their batch: the waste is this part of both."""
    rejected: dict[str, int] = field(default_factory=dict)
    """Requests refused at the entrance, by reason."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Requests given up after they were queued, by reason: expired, cancelled, shutting_down."""
    retried_rows: int = 0
    queue_seconds: Histogram = field(default_factory=lambda: Histogram(SECONDS_BUCKETS))
    compute_seconds: Histogram = field(default_factory=lambda: Histogram(SECONDS_BUCKETS))
    batch_rows: Histogram = field(default_factory=lambda: Histogram(ROWS_BUCKETS))
    _runs: list[_Execution] = field(default_factory=list, init=False, repr=False, compare=False)
    """Executions that are in none of these yet."""

    def snapshot(self) -> "ModelStatistics":
        """Return a copy that no longer changes."""
        self._fold()
        return ModelStatistics(**{field.name: _copy(getattr(self, field.name)) for field in fields(self) if field.init})

    def reject(self, reason: str, requests: int = 1) -> None:
        """Count requests refused at the entrance."""
        self.rejected[reason] = self.rejected.get(reason, 0) + requests

    def give_up(self, reason: str, seconds: float) -> None:
        """Count an accepted request that ended badly `seconds` after it was queued."""
        (self.cancel if reason == "cancelled" else self.fail).add(seconds)
        if reason in GIVEN_UP:
            self.dropped[reason] = self.dropped.get(reason, 0) + 1

    def executed(self, rows: int, run: Computed, served: float, waited: Sequence[float]) -> None:
        """Count one execution of `rows` that completed as many requests as there are in `waited`.

        `waited` are the seconds that each was in the queue, `served` the sum of those they took in all.
        """
        self._runs.append(
            (rows, run.padded_rows, run.compute_input, run.compute_infer, run.compute_output, served, waited)
        )
        if len(self._runs) >= FOLD:
            self._fold()

    def _fold(self) -> None:
        """Count what was kept: one execution after the other costs half of what each costs between other work."""
        runs, self._runs = self._runs, []
        for run in runs:
            self._count(run)

    def _count(self, run: _Execution) -> None:
        rows, padded, into, infer, out, served, waited = run
        answered = len(waited)
        self.execution_count += 1
        self.inference_count += rows
        self.padded_rows += padded
        self.success.add(served, answered)
        self.queue.add(sum(waited), answered)
        self.queue_seconds.observe_all(waited)
        self.compute_input.add(into * answered, answered)  # each request with all of its batch's, as Triton does
        self.compute_infer.add(infer * answered, answered)
        self.compute_output.add(out * answered, answered)
        self.batch_rows.observe(rows)
        self.compute_seconds.observe(infer)
        batch = self.batches.get(rows)
        if batch is None:
            batch = self.batches[rows] = BatchStatistics()
        batch.compute_input.add(into)
        batch.compute_infer.add(infer)
        batch.compute_output.add(out)


def _copy(value: Any) -> Any:  # noqa: ANN401 - whatever a field of ModelStatistics holds
    """Copy one field; by hand, because `copy.deepcopy` takes milliseconds and the scheduler's lock is held."""
    if isinstance(value, Duration | Histogram | BatchStatistics):
        return value.copy()
    return {key: _copy(item) for key, item in value.items()} if isinstance(value, dict) else value
