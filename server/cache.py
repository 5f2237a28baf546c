"""Answers known already, and requests that are being answered already, for models whose config enables the cache.

`CachedScheduler` stands before a scheduler with the same contract. A request whose content was answered before is
answered from memory; one whose content is being computed waits for that flight instead of flying itself. A flight
belongs to all who wait for it: it is given up only when the last of them is, and one that misses its own deadline is
flown again for those who have time left. Where processes share what they know (`SharedAnswers`), a flight asks there
before it departs, and departs without an answer that is not there soon.
This module must never know a wire, a broker or an instance.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from typing_extensions import override

from server.alarm import call_isolated
from server.answers import Key, Outputs, ResponseCache, SharedAnswers, content_key
from server.errors import Cancelled, DeadlineExceeded, ServingError, ShuttingDown
from server.messages import InferRequest, InferResponse, Reply, Ticket, Timing
from server.spec import ModelSpec
from server.statistics import Duration, ModelStatistics, QueueStatistics

Outcome = InferResponse | ServingError


class Scheduling(Protocol):
    """What stands behind the cache; `server.scheduler.Scheduler` is it."""

    spec: ModelSpec

    @property
    def max_batch_rows(self) -> int: ...  # noqa: D102 - see Scheduler
    def submit(self, request: InferRequest, reply: Reply) -> Ticket: ...  # noqa: D102 - see Scheduler
    def reject(self, reason: str, requests: int) -> None: ...  # noqa: D102 - see Scheduler
    def statistics(self) -> ModelStatistics: ...  # noqa: D102 - see Scheduler
    def queue_statistics(self) -> QueueStatistics: ...  # noqa: D102 - see Scheduler
    def cost_points(self) -> tuple[tuple[int, float], ...]: ...  # noqa: D102 - see Scheduler
    def drain(self, done: Callable[[], None]) -> None: ...  # noqa: D102 - see Scheduler
    def close(self) -> None: ...  # noqa: D102 - see Scheduler


@dataclass(eq=False)
class _Flight:
    """One computation under way and those who wait for its answer."""

    key: Key
    request: InferRequest
    waiters: "list[_Waiter]" = field(default_factory=list)
    ticket: Ticket | None = None
    asking: bool = False
    """Whether the shared answers are being asked first."""

    def serves(self, request: InferRequest) -> bool:
        """Whether this flight is at least as urgent as `request` would be by itself."""
        mine = self.request
        return (
            mine.deadline <= request.deadline and mine.priority == request.priority and mine.timeout == request.timeout
        )


class _Waiter(Ticket):
    """One request's place in a flight; `settled` turns True once, under the lock."""

    def __init__(self, owner: "CachedScheduler", request: InferRequest, reply: Reply, arrival: float) -> None:
        self.request = request
        self.reply = reply
        self.arrival = arrival
        self.settled = False
        self.flight: _Flight | None = None
        self._owner = owner

    @override
    def cancel(self) -> None:
        self._owner.cancel(self)


class CachedScheduler:
    """A scheduler with a memory; the same contract as `server.scheduler.Scheduler`."""

    def __init__(
        self,
        scheduler: Scheduling,
        max_bytes: int,
        clock: Callable[[], float] = time.monotonic,
        shared: SharedAnswers | None = None,
    ) -> None:
        self.spec = scheduler.spec
        self._scheduler = scheduler
        self._clock = clock
        self._lock = threading.Lock()
        self._cache = ResponseCache(max_bytes)
        self._flights: dict[Key, _Flight] = {}
        self._hits = Duration()
        self._misses = Duration()
        self._joined = Duration()
        self._shared = shared
        self._asking = 0
        self._draining = False
        self._drained: Callable[[], None] | None = None

    @property
    def max_batch_rows(self) -> int:
        """See `Scheduler`."""
        return self._scheduler.max_batch_rows

    def reject(self, reason: str, requests: int) -> None:
        """See `Scheduler.reject`."""
        self._scheduler.reject(reason, requests)

    def submit(self, request: InferRequest, reply: Reply) -> Ticket:
        """See `Scheduler.submit`; an answer known already is given before this returns."""
        waiter = _Waiter(self, request, reply, self._clock())
        key = content_key(request)
        with self._lock:
            if self._draining:
                raise ShuttingDown("the model is shutting down")
            outputs = self._cache.get(key)
            waiter.settled = outputs is not None
            flight, departing = (None, False) if outputs is not None else self._board(key, waiter)
            if flight and departing and self._shared is not None:
                flight.asking = self._shared.fetch(key, partial(self._heard, flight))
                self._asking += flight.asking
            if flight is None or not flight.asking:
                (self._misses if flight else self._hits).add(self._clock() - waiter.arrival)
        if outputs is not None:
            call_isolated(reply, self._response(request, outputs, Timing()))
        elif flight and departing and not flight.asking:
            self._depart(flight, waiter)
        return waiter

    def cancel(self, waiter: _Waiter) -> None:
        """Give one place up; the flight only with the last one."""
        with self._lock:
            if waiter.settled:
                return
            waiter.settled = True
            flight = waiter.flight
            abandoned = flight if flight and all(other.settled for other in flight.waiters) else None
            if abandoned:
                self._forget(abandoned)
        call_isolated(waiter.reply, Cancelled("the request was cancelled"))
        if abandoned and abandoned.ticket:
            abandoned.ticket.cancel()

    def statistics(self) -> ModelStatistics:
        """Return the scheduler's counters with the cache's; answers from memory count as successes."""
        statistics = self._scheduler.statistics()
        with self._lock:
            statistics.cache_hit = Duration(self._hits.count, self._hits.ns)
            statistics.cache_miss = Duration(self._misses.count, self._misses.ns)
            statistics.success.count += self._hits.count + self._joined.count
            statistics.success.ns += self._hits.ns + self._joined.ns
        return statistics

    def queue_statistics(self) -> QueueStatistics:
        """See `Scheduler`."""
        return self._scheduler.queue_statistics()

    def cost_points(self) -> tuple[tuple[int, float], ...]:
        """See `Scheduler`."""
        return self._scheduler.cost_points()

    def drain(self, done: Callable[[], None]) -> None:
        """See `Scheduler`; flights that are still asking depart first."""
        with self._lock:
            self._draining = True
            if self._asking:
                self._drained = done
                return
        self._scheduler.drain(done)

    def close(self) -> None:
        """See `Scheduler`."""
        self._scheduler.close()

    def _board(self, key: Key, waiter: _Waiter) -> tuple[_Flight, bool]:
        """Join the flight of a key or open one; under the lock. The second value says that it must depart."""
        flight = self._flights.get(key)
        joins = flight is not None and flight.serves(waiter.request)
        if flight is None or not joins:
            flight = _Flight(key, waiter.request)
            self._flights[key] = flight
        flight.waiters.append(waiter)
        waiter.flight = flight
        return flight, not joins

    def _heard(self, flight: _Flight, outputs: Outputs | None) -> None:
        """Answer a flight with what others knew, or let it depart."""
        now = self._clock()
        with self._lock:
            flight.asking = False
            waiting = [waiter for waiter in flight.waiters if not waiter.settled]
            (self._misses if outputs is None else self._hits).add(
                sum(now - waiter.arrival for waiter in waiting), len(waiting)
            )
            if outputs is not None:
                self._forget(flight)
                self._cache.put(flight.key, outputs)
                _settle(waiting)
        if outputs is not None:
            for waiter in waiting:
                call_isolated(waiter.reply, self._response(waiter.request, outputs, Timing()))
        elif waiting:
            self._depart(flight)
        with self._lock:
            self._asking -= 1
            drained = self._drained if not self._asking else None
        if drained is not None:
            self._scheduler.drain(drained)

    def _depart(self, flight: _Flight, caller: _Waiter | None = None) -> None:
        """Submit a flight; if it is refused, all on board are answered so, but for the caller, who gets it raised."""
        try:
            flight.ticket = self._scheduler.submit(flight.request, partial(self._land, flight))
        except ServingError as refusal:
            with self._lock:
                self._forget(flight)
                refused = _settle(flight.waiters)
            for waiter in refused:
                if waiter is not caller:
                    call_isolated(waiter.reply, refusal)
            if caller is not None:
                raise
            return
        with self._lock:
            abandoned = all(waiter.settled for waiter in flight.waiters)
        if abandoned:
            # Cancelled between the look-up and the ticket; after an answer this changes nothing.
            flight.ticket.cancel()

    def _land(self, flight: _Flight, outcome: Outcome) -> None:
        """Answer everybody on board; those with time left after a missed deadline fly again."""
        now = self._clock()
        with self._lock:
            self._forget(flight)
            waiting = [waiter for waiter in flight.waiters if not waiter.settled]
            again: list[_Waiter] = []
            if isinstance(outcome, InferResponse):
                self._cache.put(flight.key, outcome.outputs)
                followers = [waiter for waiter in waiting if waiter.request is not flight.request]
                self._joined.add(sum(now - waiter.arrival for waiter in followers), len(followers))
            elif isinstance(outcome, DeadlineExceeded):
                again = [waiter for waiter in waiting if waiter.request.deadline > flight.request.deadline]
            answered = _settle([waiter for waiter in waiting if waiter not in again])
        if self._shared is not None and isinstance(outcome, InferResponse):
            self._shared.put(flight.key, outcome.outputs)
        for waiter in answered:
            if isinstance(outcome, InferResponse):
                call_isolated(waiter.reply, self._response(waiter.request, outcome.outputs, outcome.timing))
            else:
                call_isolated(waiter.reply, outcome)
        for waiter in sorted(again, key=lambda waiter: waiter.request.deadline):
            self._fly_again(flight.key, waiter)

    def _fly_again(self, key: Key, waiter: _Waiter) -> None:
        with self._lock:
            if waiter.settled:
                return
            flight, departing = self._board(key, waiter)
        if departing:
            self._depart(flight)

    def _forget(self, flight: _Flight) -> None:
        if self._flights.get(flight.key) is flight:
            del self._flights[flight.key]

    def _response(self, request: InferRequest, outputs: Outputs, timing: Timing) -> InferResponse:
        return InferResponse(self.spec.name, self.spec.version, request.id, outputs, timing)


def _settle(waiters: list[_Waiter]) -> list[_Waiter]:
    """Mark those still waiting as answered and return them."""
    waiting = [waiter for waiter in waiters if not waiter.settled]
    for waiter in waiting:
        waiter.settled = True
    return waiting
