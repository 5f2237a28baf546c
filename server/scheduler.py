"""One model version's queue and the instances that work it off.

Pull-based: a batch is formed when an instance is free, by `Batcher`; this module is the shell around it that has a
lock, hears from instances, knows who is still owed an answer and sees to it that everybody gets exactly one.
It must never know a wire, a transport or a broker.

Threads: `submit` and `cancel` come from anywhere, `_done` from each instance's own, `_ring` from the alarm's.
One lock guards all state and is never held while an instance, a reply or a log is called, so all of them may call
back in. `_free` owns idle slots: whoever pops one under the lock is the only one to start its instance.

The state, all of it:
    _batcher    what waits
    _free       slots that can take a batch now
    _again      batches of a failed one, which go before everything else
    _open       requests accepted and not yet settled; `_bytes` is what they hold in memory
    _armed      the earliest instant the alarm was asked for
    _drained    whom to tell when nothing is left; set once draining
"""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

from server import log
from server.admission import Admission, Limits
from server.alarm import Alarm
from server.batcher import Batcher
from server.cost import CostCurve
from server.errors import Cancelled, DeadlineExceeded, ServingError, ShuttingDown
from server.messages import InferRequest, Reply, Tensor, Ticket
from server.ordering import OrderedReplies, reply
from server.pending import Outcome, Pending, Responder
from server.recovery import EXPIRED, Pieces, recover
from server.running import Run, Slot
from server.sessions.base import BatchError, BatchOutputs, CostPoint, Instance, OutOfMemory, RunTimedOut
from server.spec import ModelSpec
from server.statistics import ModelStatistics, QueueStatistics

Outcomes = list[tuple[Pending, Outcome]]
Answered = list[tuple[Pending, tuple[Tensor, ...]]]

SHORTEST_RUN = 0.001
"""Seconds a run may take at least, however near its deadlines are."""

DEADLINE_TOLERANCE = 0.002
"""Seconds by which expiry may be late, so that a queue full of deadlines rings at most 500 times a second."""


class Scheduler:
    """Takes validated requests of one model version, answers each exactly once."""

    def __init__(
        self,
        spec: ModelSpec,
        instances: Sequence[Instance],
        costs: Sequence[CostPoint],
        *,
        alarm: Alarm,
        limits: Limits,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.spec = spec
        self._clock = clock
        self._alarm = alarm
        self._limits = limits
        self._lock = threading.Lock()
        self._costs = CostCurve((point.rows, point.seconds) for point in costs)
        self._batcher: Batcher[Pending] = Batcher(spec.config.batching, self._costs, _largest_batch(spec, self._costs))
        self._admission = Admission(spec, limits, self._costs)
        self._responder = Responder(spec)
        self._ordered = OrderedReplies() if spec.config.batching.preserve_ordering else None
        self._statistics = ModelStatistics()
        self._slots = [Slot(instance) for instance in instances]
        self._free = list(self._slots)
        self._again: deque[Pieces] = deque()
        self._open = 0
        self._bytes = 0
        self._armed = math.inf
        self._draining = False
        self._drained: Callable[[], None] | None = None
        for slot in self._slots:
            slot.instance.on_available(partial(self._free_if_available, slot))

    @property
    def max_batch_rows(self) -> int:
        """The most rows a batch may have now: the config's or the knee, less where memory ran out."""
        return self._batcher.limit

    def submit(self, request: InferRequest, reply: Reply) -> Ticket:
        """Accept a request and, where an instance is free, start it; returns at once.

        Raises:
            QueueFull, DeadlineUnreachable: with `retry_after`.
            DeadlineExceeded: it had passed already.
            ShuttingDown: draining.
        """
        now = self._clock()
        pending = Pending(request, reply, self, now)
        outcomes: Outcomes = []
        with self._lock:
            self._admit(pending, now)
            self._batcher.add(pending)
            self._open += 1
            self._bytes += pending.bytes
            if self._ordered:
                self._ordered.accept(pending)
            if pending.deadline < self._armed:
                self._arm(pending.deadline)
            runs = self._claim(now, outcomes) if self._free else ()
        self._proceed(runs, outcomes)
        return pending

    def cancel(self, pending: Pending) -> None:
        """Give a request up; a run that nobody waits for any more is stopped."""
        now = self._clock()
        outcomes: Outcomes = []
        with self._lock:
            self._settle(pending, Cancelled("the request was cancelled"), now, outcomes)
            stopped = self._abandoned() if outcomes else ()
        self._stop(stopped)
        self._proceed((), outcomes)

    def statistics(self) -> ModelStatistics:
        """Return a snapshot of the counters."""
        with self._lock:
            return self._statistics.snapshot()

    def queue_statistics(self) -> QueueStatistics:
        """Return what waits and runs at this moment."""
        with self._lock:
            oldest = min((pending.arrival for pending in self._batcher), default=math.inf)
            return QueueStatistics(
                depth=self._batcher.entries,
                rows=self._batcher.rows,
                running=sum(len(slot.run.pieces) for slot in self._slots if slot.run),
                oldest_age=max(self._clock() - oldest, 0.0),
                max_depth=self._limits.max_requests,
            )

    def drain(self, done: Callable[[], None]) -> None:
        """Refuse what comes from now on and call `done` once everything accepted is answered and nothing runs."""
        with self._lock:
            self._draining = True
            self._drained = done
        self._proceed((), [])

    def close(self) -> None:
        """Answer everything left with ShuttingDown and stop what runs. Idempotent; the instances are the owner's."""
        now = self._clock()
        outcomes: Outcomes = []
        with self._lock:
            self._draining = True
            running = [piece[0] for slot in self._slots if slot.run for piece in slot.run.pieces]
            retried = [piece[0] for pieces in self._again for piece in pieces]
            for pending in (*self._batcher, *running, *retried):
                self._settle(pending, ShuttingDown("the model is shutting down"), now, outcomes)
            stopped = self._abandoned()
        self._stop(stopped)
        self._proceed((), outcomes)

    # The rest is called under the lock unless it says otherwise.

    def _admit(self, pending: Pending, now: float) -> None:
        if self._draining:
            raise ShuttingDown("the model is shutting down")
        batcher = self._batcher
        self._admission.set_terms(pending, now)
        try:
            self._admission.check(pending, batcher, self._bytes)
            self._admission.predict(pending, batcher, self._free_at(now), len(self._slots))
        except ServingError as refusal:
            self._statistics.reject(refusal.reason)
            if self._free and not batcher.rows:
                self._costs.doubt()
            raise

    def _free_at(self, now: float) -> float:
        """Return when an instance can take the next batch; one that is being replaced is expected at any moment."""
        if self._free:
            return now
        ends = [slot.run.expected_end for slot in self._slots if slot.run]
        return max(min(ends, default=now), now)

    def _claim(self, now: float, outcomes: Outcomes) -> list[Run]:
        """Form a batch for each free instance while there are any; whoever called starts them, without the lock."""
        runs: list[Run] = []
        while self._free:
            run = (self._retry(now) if self._again else None) or self._form(now, outcomes)
            if run is None:
                break
            run.slot.run = run
            run.slot.free = False
            runs.append(run)
        return runs

    def _form(self, now: float, outcomes: Outcomes) -> Run | None:
        batch = self._batcher.take(now)
        for pending in batch.dropped:
            self._settle(pending, DeadlineExceeded("the deadline could no longer be met"), now, outcomes)
        if batch.dropped and not batch.rows and len(self._free) == len(self._slots):
            self._costs.doubt()
        if not batch.rows:
            if batch.not_before < self._armed:
                self._arm(batch.not_before)
            return None
        for pending, start, _ in batch.pieces:
            if not start:
                pending.started = now
        if batch.size:
            self._statistics.sized_bytes += batch.sizes
            self._statistics.padded_bytes += batch.size * batch.rows - batch.sizes
        finish = now + self._costs.seconds(batch.rows)
        return Run(self._free.pop(), batch.pieces, batch.rows, now, finish, batch.latest)

    def _retry(self, now: float) -> Run | None:
        while self._again:
            pieces = [piece for piece in self._again.popleft() if not piece[0].settled]
            if pieces:
                rows = sum(piece[2] for piece in pieces)
                self._statistics.retried_rows += rows
                ends = [piece[0].end for piece in pieces]
                finish = now + self._costs.seconds(rows)
                return Run(self._free.pop(), pieces, rows, now, finish, max(ends))
        return None

    def _settle(self, pending: Pending, outcome: ServingError, now: float, outcomes: Outcomes) -> None:
        """Decide that a request ends badly, unless it was decided before."""
        if pending.settled:
            return
        self._leave(pending)
        self._batcher.discard(pending)
        self._statistics.give_up(outcome.reason, now - pending.arrival)
        outcomes.append((pending, outcome))

    def _leave(self, pending: Pending) -> None:
        pending.settled = True
        self._open -= 1
        self._bytes -= pending.bytes

    def _arm(self, instant: float) -> None:
        self._armed = instant
        self._alarm.call_at(instant, self._ring)

    def _abandoned(self) -> list[Slot]:
        """Return the slots whose run nobody waits for any more, marked as being stopped."""
        slots = [slot for slot in self._slots if slot.run and not slot.stopping and slot.run.abandoned()]
        for slot in slots:
            slot.stopping = True
        return slots

    def _expire(self, now: float, outcomes: Outcomes) -> float:
        """Answer everybody whose deadline has passed, waiting or running; return the next deadline."""
        for pending in self._batcher.expire(now):
            self._settle(pending, DeadlineExceeded("the deadline passed while the request was queued"), now, outcomes)
        following = self._batcher.next_deadline()
        for pieces in (*(slot.run.pieces for slot in self._slots if slot.run), *self._again):
            for pending, _, _ in pieces:
                if pending.end <= now:
                    self._settle(pending, DeadlineExceeded(EXPIRED), now, outcomes)
                elif not pending.settled:
                    following = min(following, pending.end)
        return following

    def _recover(self, run: Run, error: BatchError, now: float, outcomes: Outcomes) -> None:
        """Queue what gets another chance before everything else, and give up the rest."""
        if isinstance(error, OutOfMemory):
            self._batcher.limit = max(1, min(self._batcher.limit, run.rows // 2))
        recovery = recover(run.unsettled(), error, now)
        self._again.extend(recovery.again)
        for pending, failure in recovery.failed:
            self._settle(pending, failure, now, outcomes)

    def _succeed(self, run: Run, outputs: BatchOutputs, now: float) -> Answered:
        """Settle the requests a run completed and count what it took."""
        answered: Answered = []
        waited = 0.0
        for (pending, start, rows), tensors in zip(run.pieces, outputs.parts, strict=True):
            if pending.settled:
                continue
            whole = tensors if rows == pending.rows else pending.collect(start, tensors)
            if whole is None:
                continue
            self._leave(pending)
            answered.append((pending, whole))
            queued = pending.started - pending.arrival
            waited += queued
            self._statistics.queue_seconds.observe(queued)
        served = now * len(answered) - sum(pending.arrival for pending, _ in answered)
        self._statistics.executed(run.rows, outputs, len(answered), served, waited)
        return answered

    # From here on: called without the lock.

    def _proceed(self, runs: Sequence[Run], outcomes: Outcomes) -> None:
        """Start what was claimed, then answer what was settled, then see whether a drain is over."""
        for run in runs:
            self._start(run)
        for pending, outcome in outcomes:
            self._answer(pending, outcome)
        if self._drained is not None:
            self._finish_drain()

    def _answer(self, pending: Pending, outcome: Outcome) -> None:
        if self._ordered:
            self._ordered.deliver(pending, outcome)
        else:
            reply(pending, outcome)

    def _start(self, run: Run) -> None:
        instance = run.slot.instance
        if not instance.available:
            self._put_back(run)
            return
        timeout = min(max(run.latest - run.started, SHORTEST_RUN), self._limits.run_timeout)
        try:
            parts = [pending.part(start, rows) for pending, start, rows in run.pieces]
            instance.run(parts, timeout, partial(self._done, run))
        except Exception as error:  # noqa: BLE001 - an isolation point: accepted requests are owed an answer
            self._done(run, BatchError(f"run could not be started: {error!r}"))

    def _put_back(self, run: Run) -> None:
        """Give a batch to another instance, or to this one when it is back: it died while it was idle."""
        now = self._clock()
        outcomes: Outcomes = []
        with self._lock:
            run.slot.run = None
            self._again.appendleft(run.pieces)
            runs = self._claim(now, outcomes)
        self._proceed(runs, outcomes)
        self._free_if_available(run.slot)

    def _free_if_available(self, slot: Slot) -> None:
        """Give an instance that can run again its next batch."""
        now = self._clock()
        outcomes: Outcomes = []
        if not slot.instance.available:
            return
        with self._lock:
            if slot.run or slot.free or slot.stopping:
                return
            slot.free = True
            self._free.append(slot)
            runs = self._claim(now, outcomes)
        self._proceed(runs, outcomes)

    def _stop(self, slots: Sequence[Slot]) -> None:
        """Stop runs that nobody waits for. Their slots get no new run meanwhile, which would be stopped instead."""
        for slot in slots:
            slot.instance.terminate()
            with self._lock:
                slot.stopping = False
            self._free_if_available(slot)

    def _done(self, run: Run, result: BatchOutputs | BatchError) -> None:
        """Hear of a finished run: start the next batch first, then answer this one."""
        now = self._clock()
        slot = run.slot
        available = slot.instance.available
        outcomes: Outcomes = []
        with self._lock:
            if slot.run is not run:
                return
            slot.run = None
            # A run that was stopped would have taken at least as long; other failures say nothing about time.
            if isinstance(result, BatchOutputs) or (isinstance(result, RunTimedOut) and now >= run.expected_end):
                self._costs.observe(run.rows, now - run.started)
            if isinstance(result, BatchError):
                self._recover(run, result, now, outcomes)
            if available and not slot.stopping:
                slot.free = True
                self._free.append(slot)
            runs = self._claim(now, outcomes)
        for following in runs:
            self._start(following)
        if isinstance(result, BatchOutputs):
            self._finish(run, result, now, outcomes)
        else:
            self._log(run, result)
        self._proceed((), outcomes)
        if not available:
            self._free_if_available(slot)

    def _finish(self, run: Run, outputs: BatchOutputs, now: float, outcomes: Outcomes) -> None:
        """Turn a run's outputs into answers."""
        problem = self._responder.problem(run.pieces, outputs)
        if problem:
            error = BatchError(problem)
            with self._lock:
                self._recover(run, error, now, outcomes)
            self._log(run, error)
            return
        with self._lock:
            answered = self._succeed(run, outputs, now)
        for pending, tensors in answered:
            self._answer(pending, self._responder.respond(pending, tensors, outputs, run.rows))

    def _ring(self) -> None:
        """Answer what expired and start what a queue delay held back."""
        now = self._clock()
        outcomes: Outcomes = []
        with self._lock:
            if now < self._armed:
                return
            self._armed = math.inf
            following = self._expire(now, outcomes)
            runs = self._claim(now, outcomes)
            stopped = self._abandoned() if outcomes else ()
            following = max(following, now + DEADLINE_TOLERANCE)
            if following < self._armed:
                self._arm(following)
        self._proceed(runs, outcomes)
        self._stop(stopped)

    def _log(self, run: Run, error: BatchError) -> None:
        log.event(
            "batch_failed",
            logging.WARNING,
            model=self.spec.name,
            version=self.spec.version,
            rows=run.rows,
            kind=type(error).__name__,
            error=str(error),
            requests=[piece[0].request.id for piece in run.pieces[:8]],
        )

    def _finish_drain(self) -> None:
        with self._lock:
            if self._drained is None or self._open or any(slot.run for slot in self._slots):
                return
            done, self._drained = self._drained, None
        done()


def _largest_batch(spec: ModelSpec, costs: CostCurve) -> int:
    """Return the config's max batch size, the knee of the curve where it names none, 1 without a batch dimension."""
    if not spec.batches:
        return 1
    return spec.config.max_batch_size or min(costs.knee(), spec.max_batch_size)
