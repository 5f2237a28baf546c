"""The decisions of one model version's scheduler: who is let in, what runs where, who is answered what.

Pure bookkeeping: no lock, no thread, no clock, and nothing outside is called. Every method that decides something
takes `now` and writes what has to be done into `Effects`, which the scheduler carries out once its lock is released.
This module must never know how an instance is started or a reply is delivered.

The state, all of it:
    _batcher    what waits
    _free       slots that can take a batch now
    _again      batches of a failed one, which go before everything else
    open        requests accepted and not yet settled; `_bytes` is what they hold in memory
"""

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from server.admission import Admission, Limits
from server.batcher import Batcher
from server.cost import CostCurve
from server.errors import DeadlineExceeded, ServingError
from server.messages import Tensor
from server.pending import Outcome, Pending
from server.recovery import EXPIRED, Pieces, recover
from server.running import Run, Slot
from server.sessions.base import BatchError, BatchOutputs, CostPoint, OutOfMemory, RunTimedOut
from server.spec import ModelSpec
from server.statistics import ModelStatistics, QueueStatistics

EXPIRED_IN_QUEUE = "the deadline passed while the request was queued"
DOOMED = "the deadline could no longer be met"
PAUSE = 0.5
"""Of a full batch's time, the part for which it is worth to let newcomers gather: one at least runs before them."""
SHORT_RUN = 0.25
"""Seconds. Stopping a run can cost its session child, and starting another takes about as long as this: under overload
whole batches miss their deadlines, and must not cost the model its sessions on top of it."""


@dataclass(slots=True)
class Effects:
    """What a decision asks for. `wake` is the instant to ask for batches again, infinity if a request or run will."""

    runs: list[Run] = field(default_factory=list)
    outcomes: list[tuple[Pending, Outcome]] = field(default_factory=list)
    stops: list[Slot] = field(default_factory=list)
    wake: float = math.inf


class Dispatcher:
    """See the module; used under the scheduler's lock."""

    def __init__(self, spec: ModelSpec, slots: Sequence[Slot], costs: Iterable[CostPoint], limits: Limits) -> None:
        self.open = 0
        self.statistics = ModelStatistics()
        self._limits = limits
        self._costs = CostCurve((point.rows, point.seconds) for point in costs)
        self._batcher: Batcher[Pending] = Batcher(spec.config.batching, self._costs, _largest_batch(spec, self._costs))
        self._admission = Admission(spec, limits, self._costs, len(slots))
        self._slots = slots
        self._free = list(slots)
        self._again: deque[Pieces] = deque()
        self._bytes = 0

    @property
    def max_batch_rows(self) -> int:
        """The most rows a batch may have now."""
        return self._batcher.limit

    @property
    def cost_points(self) -> tuple[tuple[int, float], ...]:
        """What a batch of each measured size is expected to take now: rows and seconds."""
        return self._costs.points()

    @property
    def any_free(self) -> bool:
        """Whether a slot could take a batch."""
        return bool(self._free)

    @property
    def crowd(self) -> float:
        """Seconds that a newcomer waits at least, where more than a batch waits already; 0 where it may be sooner."""
        batcher = self._batcher
        return PAUSE * self._costs.seconds_at_most(batcher.limit) if batcher.rows > batcher.limit else 0.0

    @property
    def idle(self) -> bool:
        """Whether everything accepted is settled and nothing runs."""
        return not self.open and not any(slot.run for slot in self._slots)

    def accept(self, pending: Pending, now: float) -> None:
        """Let a request in, or raise why not: DeadlineExceeded, QueueFull, DeadlineUnreachable."""
        batcher = self._batcher
        self._admission.set_terms(pending, now)
        try:
            self._admission.check(pending, batcher, self._bytes)
            self._admission.predict(pending, batcher, self._free_at)
        except ServingError as refusal:
            self.statistics.reject(refusal.reason)
            if self._free and not batcher.rows:
                self._costs.doubt()
            raise
        batcher.add(pending)
        self.open += 1
        self._bytes += pending.bytes

    def claim(self, now: float, effects: Effects) -> None:
        """Form a batch for each free slot while there are any; whoever carries the effects out starts them."""
        while self._free:
            run = (self._retry(now) if self._again else None) or self._form(now, effects)
            if run is None:
                return
            run.slot.run = run
            effects.runs.append(run)

    def release(self, slot: Slot) -> None:
        """Let a slot have its next batch."""
        if not slot.run and not slot.stopping and slot not in self._free:
            self._free.append(slot)

    def put_back(self, run: Run) -> None:
        """Take a batch back that its instance could not start; it goes first when the next slot is free."""
        run.slot.run = None
        self._again.appendleft(run.pieces)

    def settle(self, pending: Pending, outcome: ServingError, now: float, effects: Effects) -> None:
        """Decide that a request ends badly, unless its end was decided before."""
        if pending.settled:
            return
        self._leave(pending)
        self._batcher.discard(pending)
        self.statistics.give_up(outcome.reason, now - pending.arrival)
        effects.outcomes.append((pending, outcome))

    def stop_abandoned(self, now: float, effects: Effects, *, spare: float = SHORT_RUN) -> None:
        """Have runs stopped that nobody waits for any more; their slots get no new one until that is done.

        One that is `spare` seconds young and has no more than that to go is left to end by itself.
        """
        for slot in self._slots:
            run = slot.run
            if run is None or run.stopped or not all(piece[0].settled for piece in run.pieces):
                continue
            if now - run.started >= spare or run.expected_end - now >= spare:
                slot.stopping = run.stopped = True
                effects.stops.append(slot)

    def unsettled(self) -> Iterator[Pending]:
        """Iterate over everybody who is owed an answer."""
        yield from self._batcher
        for pieces in self._under_way():
            for pending, _, _ in pieces:
                if not pending.settled:
                    yield pending

    def expire(self, now: float, effects: Effects) -> float:
        """Answer everybody whose deadline has passed, waiting or running; return the next deadline."""
        for pending in self._batcher.expire(now):
            self.settle(pending, DeadlineExceeded(EXPIRED_IN_QUEUE), now, effects)
        following = self._batcher.next_deadline()
        for pieces in self._under_way():
            for pending, _, _ in pieces:
                if pending.end <= now:
                    self.settle(pending, DeadlineExceeded(EXPIRED), now, effects)
                elif not pending.settled:
                    following = min(following, pending.end)
        return following

    def detach(self, run: Run, result: BatchOutputs | BatchError, now: float) -> None:
        """Take a finished run off its slot and learn how long it took."""
        run.slot.run = None
        # A run that was stopped would have taken at least as long; other failures say nothing about time.
        if isinstance(result, BatchOutputs) or (isinstance(result, RunTimedOut) and now >= run.expected_end):
            self._costs.observe(run.rows, now - run.started)

    def recover(self, run: Run, error: BatchError, now: float, effects: Effects) -> None:
        """Give what a failed run held another chance before everything else, where it deserves one."""
        if isinstance(error, OutOfMemory):
            self._batcher.limit = max(1, min(self._batcher.limit, run.rows // 2))
        recovery = recover(run.pieces, error, now)
        self._again.extend(recovery.again)
        self.statistics.retried_rows += sum(piece[2] for pieces in recovery.again for piece in pieces)
        for pending, failure in recovery.failed:
            self.settle(pending, failure, now, effects)

    def succeed(self, run: Run, outputs: BatchOutputs, now: float) -> list[tuple[Pending, tuple[Tensor, ...]]]:
        """Settle the requests that a run completed and return them with their outputs."""
        answered: list[tuple[Pending, tuple[Tensor, ...]]] = []
        queued: list[float] = []
        served = 0.0
        for (pending, start, rows), tensors in zip(run.pieces, outputs.parts, strict=True):
            whole = tensors if rows == pending.rows else pending.collect(start, tensors)
            if pending.settled or whole is None:
                continue
            self._leave(pending)
            answered.append((pending, whole))
            queued.append(pending.started - pending.arrival)
            served += now - pending.arrival
        self.statistics.executed(run.rows, outputs, served, queued)
        return answered

    def queue_statistics(self, now: float) -> QueueStatistics:
        """Return what waits and runs."""
        oldest = min((pending.arrival for pending in self._batcher), default=now)
        return QueueStatistics(
            depth=self._batcher.entries,
            rows=self._batcher.rows,
            running=sum(len(slot.run.pieces) for slot in self._slots if slot.run),
            oldest_age=max(now - oldest, 0.0),
            max_depth=self._limits.max_requests,
        )

    def _leave(self, pending: Pending) -> None:
        pending.settled = True
        self.open -= 1
        self._bytes -= pending.bytes

    def _under_way(self) -> Iterator[Pieces]:
        yield from (slot.run.pieces for slot in self._slots if slot.run)
        yield from self._again

    def _free_at(self, now: float) -> float:
        """Return when a slot can take the next batch; one that is being replaced is expected at any moment."""
        if self._free:
            return now
        first = math.inf
        for slot in self._slots:  # no comprehension, no min(): under overload every request asks
            if slot.run and slot.run.expected_end < first:
                first = slot.run.expected_end
        return first if now < first < math.inf else now

    def _form(self, now: float, effects: Effects) -> Run | None:
        batch = self._batcher.take(now)
        for pending in batch.dropped:
            self.settle(pending, DeadlineExceeded(DOOMED), now, effects)
        if not batch.rows:
            effects.wake = min(effects.wake, batch.not_before)
            if batch.dropped and len(self._free) == len(self._slots):
                self._costs.doubt()
            return None
        for pending, start, _ in batch.pieces:
            if not start:
                pending.started = max(now, pending.arrival)
        if batch.size:
            self.statistics.sized_bytes += batch.sizes
            self.statistics.padded_bytes += batch.size * batch.rows - batch.sizes
        return self._run(batch.pieces, batch.rows, batch.latest, now)

    def _retry(self, now: float) -> Run | None:
        while self._again:
            pieces = [piece for piece in self._again.popleft() if not piece[0].settled]
            if pieces:
                rows = sum(piece[2] for piece in pieces)
                return self._run(pieces, rows, max(piece[0].end for piece in pieces), now)
        return None

    def _run(self, pieces: Pieces, rows: int, latest: float, now: float) -> Run:
        return Run(self._free.pop(), pieces, rows, now, now + self._costs.seconds(rows), latest)


def _largest_batch(spec: ModelSpec, costs: CostCurve) -> int:
    """Return the config's max batch size, the knee of the curve where it names none, 1 without a batch dimension."""
    if not spec.batches:
        return 1
    return spec.config.max_batch_size or min(costs.knee(), spec.max_batch_size)
