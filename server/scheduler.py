"""One model version's queue and the instances that work it off.

Pull-based: a batch is formed when an instance is free. What happens is decided in `dispatch.py`; this is the shell
around it, which has a lock, hears from callers, instances and the alarm, and carries the decisions out.
It must never know a wire, a transport or a broker.

Threads: `submit` and `cancel` come from anywhere, `_done` from each instance's own, `_ring` from the alarm's. One lock
guards all state and is never held while an instance, a reply or a log is called, so any of them may call back in.
A slot popped from the free ones under the lock belongs to whoever popped it, who starts its instance afterwards.
"""

import math
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial

from server import log
from server.admission import Limits
from server.alarm import Alarm, call_isolated
from server.bundle import Bundle
from server.dispatch import Dispatcher, Effects
from server.errors import Cancelled, ShuttingDown
from server.failures import FailureLog
from server.messages import InferRequest, Reply, Ticket
from server.ordering import OrderedReplies
from server.pending import Outcome, Pending, Responder
from server.running import Run, Slot
from server.sessions.base import BatchError, BatchOutputs, CostPoint, Instance
from server.spec import ModelSpec
from server.statistics import ModelStatistics, QueueStatistics

SHORTEST_RUN = 1.0
"""Seconds a run may take at least, however near its deadlines are: stopping one can cost its session child, so callers
with deadlines of milliseconds on a busy machine must not be able to cause it. Their answers are late and dropped."""

DEADLINE_TOLERANCE = 0.002
"""Seconds by which an expiry may be late, so that a queue full of deadlines rings at most 500 times a second."""


class Scheduler:
    """Takes validated requests of one model version and answers each exactly once."""

    def __init__(  # noqa: PLR0913 - a version, what runs it, and what the tests replace
        self,
        spec: ModelSpec,
        instances: Sequence[Instance],
        costs: Sequence[CostPoint],
        *,
        alarm: Alarm,
        limits: Limits,
        clock: Callable[[], float] = time.monotonic,
        together: AbstractContextManager[None] | None = None,
        bundle: Bundle | None = None,
    ) -> None:
        """Begin with nothing.

        `together` is entered while the answers of a batch are given, for who wants to send them as one; `bundle` is
        told what could start, where a thread submits several requests before it has any of them started.
        """
        self.spec = spec
        self._bundle = bundle if bundle is not None else Bundle()
        self._together = together if together is not None else nullcontext()
        self._clock = clock
        self._alarm = alarm
        self._limits = limits
        self._lock = threading.Lock()
        self._slots = [Slot(instance) for instance in instances]
        self._dispatcher = Dispatcher(spec, self._slots, costs, limits)
        self._responder = Responder(spec)
        self._ordered = OrderedReplies() if spec.config.batching.preserve_ordering else None
        self._failures = FailureLog(spec, clock)
        self._armed = math.inf
        self._draining = False
        self._drained: Callable[[], None] | None = None
        self._last_done: float | None = None
        for slot in self._slots:
            slot.instance.on_available(partial(self._free_if_available, slot))
            slot.instance.read_by(self._bundle.add_reader)

    @property
    def max_batch_rows(self) -> int:
        """The most rows a batch may have now: the config's or the knee, less where memory ran out."""
        return self._dispatcher.max_batch_rows

    def submit(self, request: InferRequest, reply: Reply) -> Ticket:
        """Accept a request and, where an instance is free, start it; returns at once.

        Raises:
            QueueFull, DeadlineUnreachable: with `retry_after`.
            DeadlineExceeded: it had passed already.
            ShuttingDown: draining.
        """
        now = self._clock()
        pending = Pending(request, reply, self, now)
        with self._lock:
            if self._draining:
                raise ShuttingDown("the model is shutting down")
            self._dispatcher.accept(pending, now)
            if self._ordered:
                self._ordered.accept(pending)
            if pending.deadline < self._armed:
                self._arm(pending.deadline)
            if not self._dispatcher.any_free:
                if not self._bundle.crowded:  # one is enough: under overload this is every request's way
                    self._bundle.crowd(self._dispatcher.crowd)
                return pending
            if self._bundle.leave(self._start_waiting):
                return pending
            effects = Effects()
            self._claim(now, effects)
        self._carry_out(effects)
        return pending

    def _start_waiting(self) -> None:
        """Start what was left to the bundle."""
        effects = Effects()
        with self._lock:
            self._claim(self._clock(), effects)
        self._carry_out(effects)

    def cancel(self, pending: Pending) -> None:
        """Give a request up; a run that nobody waits for any more is stopped."""
        effects = Effects()
        with self._lock:
            self._dispatcher.settle(pending, Cancelled("the request was cancelled"), self._clock(), effects)
            if effects.outcomes:
                self._dispatcher.stop_abandoned(self._clock(), effects)
        self._carry_out(effects)

    def reject(self, reason: str, requests: int) -> None:
        """Count requests that were refused without asking, because the one before them was."""
        with self._lock:
            self._dispatcher.statistics.reject(reason, requests)

    def statistics(self) -> ModelStatistics:
        """Return a snapshot of the counters."""
        with self._lock:
            statistics = self._dispatcher.statistics.snapshot()
        if self._last_done is not None:
            statistics.last_inference_ms = log.epoch_ms() - int(1000 * (self._clock() - self._last_done))
        return statistics

    def queue_statistics(self) -> QueueStatistics:
        """Return what waits and runs at this moment."""
        with self._lock:
            return self._dispatcher.queue_statistics(self._clock())

    def cost_points(self) -> tuple[tuple[int, float], ...]:
        """Return what a batch of each measured size is expected to take now: rows and seconds."""
        with self._lock:
            return self._dispatcher.cost_points

    def drain(self, done: Callable[[], None]) -> None:
        """Refuse what comes from now on and call `done` once everything accepted is answered and nothing runs."""
        with self._lock:
            self._draining = True
            self._drained = done
        self._carry_out(Effects())

    def close(self) -> None:
        """Answer everything left with ShuttingDown and stop what runs. Idempotent; the instances are the owner's."""
        effects = Effects()
        with self._lock:
            self._draining = True
            for pending in list(self._dispatcher.unsettled()):
                self._dispatcher.settle(pending, ShuttingDown("the model is shutting down"), self._clock(), effects)
            self._dispatcher.stop_abandoned(self._clock(), effects, spare=0.0)
        self._carry_out(effects)

    def _arm(self, instant: float) -> None:
        """Ask for a ring at `instant`; under the lock."""
        self._armed = instant
        self._alarm.call_at(instant, self._ring)

    def _claim(self, now: float, effects: Effects) -> None:
        """Form what can start now; under the lock."""
        self._dispatcher.claim(now, effects)
        if effects.wake < self._armed:
            self._arm(effects.wake)

    def _carry_out(self, effects: Effects) -> None:
        """Start what was claimed, then answer what was settled, then stop what nobody waits for."""
        for run in effects.runs:
            self._start(run)
        for pending, outcome in effects.outcomes:
            self._answer(pending, outcome)
        for slot in effects.stops:
            self._stop(slot)
        if self._drained is not None:
            self._finish_drain()

    def _answer(self, pending: Pending, outcome: Outcome) -> None:
        if self._ordered:
            self._ordered.deliver(pending, outcome)
        else:
            call_isolated(pending.reply, outcome)

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
            self._done(run, BatchError(f"the run could not be started: {error!r}"))

    def _put_back(self, run: Run) -> None:
        """Give a batch to another instance, or to this one when it is back: it died while it was idle."""
        effects = Effects()
        with self._lock:
            self._dispatcher.put_back(run)
            self._claim(self._clock(), effects)
        self._carry_out(effects)
        self._free_if_available(run.slot)

    def _free_if_available(self, slot: Slot) -> None:
        """Give an instance that can run again its next batch."""
        if not slot.instance.available:
            return
        effects = Effects()
        with self._lock:
            self._dispatcher.release(slot)
            self._claim(self._clock(), effects)
        self._carry_out(effects)

    def _stop(self, slot: Slot) -> None:
        slot.instance.terminate()
        with self._lock:
            slot.stopping = False
        self._free_if_available(slot)

    def _done(self, run: Run, result: BatchOutputs | BatchError) -> None:
        """Hear of a finished run: start the next batch first, then answer this one."""
        now = self._clock()
        slot = run.slot
        available = slot.instance.available
        effects = Effects()
        with self._lock:
            if slot.run is not run:
                return
            self._dispatcher.detach(run, result, now)
            if isinstance(result, BatchError):
                self._dispatcher.recover(run, result, now, effects)
            if available:
                self._dispatcher.release(slot)
            self._claim(now, effects)
        while effects.runs:
            self._start(effects.runs.pop())
        with self._together:
            if isinstance(result, BatchOutputs):
                self._finish(run, result, now, effects)
            else:
                self._failures.write(run, result)
            self._carry_out(effects)
        if not available:
            # It may have come back between the first look and the lock.
            self._free_if_available(slot)

    def _finish(self, run: Run, outputs: BatchOutputs, now: float, effects: Effects) -> None:
        """Turn a run's outputs into answers."""
        problem = self._responder.problem(run.pieces, outputs)
        if problem:
            error = BatchError(problem)
            with self._lock:
                self._dispatcher.recover(run, error, now, effects)
            self._failures.write(run, error)
            return
        with self._lock:
            answered = self._dispatcher.succeed(run, outputs, now)
            self._last_done = now
        for pending, tensors in answered:
            self._answer(pending, self._responder.respond(pending, tensors, outputs, run.rows))

    def _ring(self) -> None:
        """Answer what expired and start what a queue delay held back."""
        now = self._clock()
        effects = Effects()
        with self._lock:
            if now < self._armed:
                return
            self._armed = math.inf
            following = self._dispatcher.expire(now, effects)
            self._claim(now, effects)
            if effects.outcomes:
                self._dispatcher.stop_abandoned(now, effects)
            following = max(following, now + DEADLINE_TOLERANCE)
            if following < self._armed:
                self._arm(following)
        self._carry_out(effects)

    def _finish_drain(self) -> None:
        with self._lock:
            if self._drained is None or not self._dispatcher.idle:
                return
            done, self._drained = self._drained, None
        done()
