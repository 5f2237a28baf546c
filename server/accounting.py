"""Every finished RPC is counted, and written down as one canonical log line while there is room for lines.

Under load lines are sampled and the next one says how many were held back (`skipped`); what is our own fault is never
held back by lines about successes. This module must never know a transport or a payload.
"""

import logging
import math
import time
from collections.abc import Callable
from threading import get_ident

from server import log
from server.counts import Line, RequestCounts
from server.spans import Tracing
from server.transports.base import StatusCode
from server.wire.observer import Ended, Meter, Observer, Outcome

_OURS = {StatusCode.INTERNAL, StatusCode.UNKNOWN, StatusCode.DATA_LOSS}


class TurnMeter:
    """Implements wire.observer.Meter: what one thread hears of in one turn is counted at its end, in one go.

    Of nearly every RPC only the instant is kept at which it started: to keep more of it until then costs several times
    as much. Those that may make an example or a log line are kept whole, as far as that can be told when a turn begins.
    """

    __slots__ = (
        "_accountant", "_durations", "_kept", "_lasted", "_line", "_lines", "_method", "_newest", "_oldest", "_opened",
        "_started",
    )  # fmt: skip

    def __init__(self, accountant: "Accountant", line: Line, method: str) -> None:
        self._accountant = accountant
        self._line = line
        self._durations = line.durations
        self._lines = accountant.usual
        self._method = method
        self._started: list[float] = []
        self._kept: list[Ended] = []
        self._oldest = self._newest = self._opened = self._lasted = 0.0
        """Who started after the first and no later than the second is sure to make neither."""

    def add(self, ended: Ended) -> None:
        """See wire.observer.Meter."""
        accountant = self._accountant
        if get_ident() != accountant.thread:
            accountant.enter(self._line, self._method, ended)
            return
        together, started = self._started, ended.started
        if not together:
            self._open(accountant)
        together.append(started)
        if not self._oldest < started <= self._newest:
            self._kept.append(ended)

    def settle(self, now: float) -> None:
        """Count them."""
        lines = self._lines
        self._lasted = now - self._opened
        started, self._started = self._started, []
        self._line.add_since(started, now)
        if self._kept:
            kept, self._kept = self._kept, []
            for ended in kept:
                self._accountant.tell(self._line, self._method, ended, now - ended.started)
            lines.hold(len(started) - len(kept))
        else:
            lines.hold(len(started))

    def _open(self, accountant: "Accountant") -> None:
        """Begin a turn."""
        accountant.unsettled.append(self)
        now = self._opened = accountant.clock()
        end = now + self._lasted
        low, high = self._durations.quiet
        self._oldest = end - high
        self._newest = end - low if now < self._lines.full_until else -math.inf


class _Apart:
    """Implements wire.observer.Meter: of every RPC all is wanted."""

    def __init__(self, finished: Callable[[Outcome], None]) -> None:
        self._finished = finished

    def add(self, ended: Ended) -> None:
        self._finished(ended.outcome(time.monotonic() - ended.started))


class Accountant:
    """Implements wire.observer.Observer and transports.base.Ledger."""

    def __init__(
        self, counts: RequestCounts, lines_per_second: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._counts = counts
        self.clock = clock
        self.usual = log.Sampler(lines_per_second, clock)
        self._faults = log.Sampler(lines_per_second, clock)
        self._names: dict[str, str] = {}
        self.thread = 0
        """The one that calls `settle` once a turn."""
        self.unsettled: list[TurnMeter] = []
        """The meters that have something to count; that thread's."""

    def begin(self) -> None:
        """Say that the calling thread will call `settle`, before answers that it has given leave."""
        self.thread = get_ident()

    def settle(self) -> None:
        """Count what meters have heard of from the thread that has begun."""
        if self.unsettled:
            now = self.clock()
            while self.unsettled:
                self.unsettled.pop().settle(now)

    def enter(self, line: Line, method: str, ended: Ended) -> None:
        """Count an RPC that has just ended with OK, apart from others."""
        seconds = self.clock() - ended.started
        line.add(seconds)
        self.tell(line, method, ended, seconds)

    def tell(self, line: Line, method: str, ended: Ended, seconds: float) -> None:
        """Make an example and a log line of an RPC that was counted, where there is room for them."""
        if line.wants(seconds):
            self._exemplify(ended.outcome(seconds), method)
        skipped = self.usual.admit()
        if skipped is not None:
            self._write(ended.outcome(seconds), skipped, logging.INFO)

    def finished(self, outcome: Outcome) -> None:
        """Count one RPC and, if its second has room for one more line, log it."""
        method = self._names.get(outcome.method) or self._name(outcome.method)
        fine = outcome.code is StatusCode.OK  # an enumeration's name and hash are slow, and nearly every RPC is fine
        code = "OK" if fine else outcome.code.name
        if self._counts.count(outcome.model, outcome.version, method, code, outcome.seconds):
            self._exemplify(outcome, method)
        fault = not fine and outcome.code in _OURS
        skipped = (self._faults if fault else self.usual).admit()
        if skipped is not None:
            self._write(outcome, skipped, logging.ERROR if fault else logging.INFO)

    def shed(self, method: str, code: StatusCode, reason: str, calls: int, model: str = "", version: str = "") -> None:
        """Count so many calls that were turned away, and write one line for all of them."""
        name = self._names.get(method) or self._name(method)
        self._counts.add(model, version, name, code.name, calls)
        skipped = self.usual.admit()
        if skipped is not None:
            about: dict[str, object] = {"model": model, "version": version} if model else {}
            about |= {"method": method, "code": code.name, "reason": reason, "calls": calls, "skipped": skipped}
            log.event("requests_shed", logging.INFO, cause=None, **about)

    def meter(self, method: str, model: str, version: str) -> Meter:
        """Return what counts calls of a method that end well."""
        name = self._names.get(method) or self._name(method)
        return TurnMeter(self, self._counts.line(model, version, name, "OK"), name)

    def _name(self, path: str) -> str:
        name = self._names[path] = path.rpartition("/")[2]  # the paths are the methods we serve
        return name

    def _exemplify(self, outcome: Outcome, method: str) -> None:
        ident = "" if outcome.request is None else outcome.request.id
        trace = outcome.trace()
        kept = trace.trace_id if trace is not None and trace.sampled else ""  # a link to a trace nobody kept is none
        self._counts.exemplify((outcome.model, outcome.version, method), outcome.seconds, ident, kept)

    def _write(self, outcome: Outcome, skipped: int, level: int) -> None:
        fields: dict[str, object] = {
            "method": outcome.method,
            "code": outcome.code.name,
            "ms": round(outcome.seconds * 1000, 3),
            "peer": outcome.peer,
        }
        if outcome.model:
            fields |= {"model": outcome.model, "version": outcome.version}
        if outcome.reason:
            fields["reason"] = outcome.reason
        if outcome.request is not None:
            fields |= {"id": outcome.request.id, "rows": outcome.request.rows}
        if trace := outcome.trace():
            fields["trace_id"] = trace.trace_id
        if outcome.timing is not None:
            fields |= outcome.timing.for_log()
        if skipped:
            fields["skipped"] = skipped
        log.event("request", level, cause=None, **fields)


class Traced:
    """Implements wire.observer.Observer: another one, and then the spans."""

    def __init__(self, inner: Observer, tracing: Tracing) -> None:
        self._inner = inner
        self._tracing = tracing

    def finished(self, outcome: Outcome) -> None:
        """Count, write, trace."""
        self._inner.finished(outcome)
        self._tracing.rpc(outcome)

    def meter(self, method: str, model: str, version: str) -> Meter:  # noqa: ARG002 - see wire.observer.Observer
        """Return one that tells of each call apart, for each has a span."""
        return _Apart(self.finished)

    def shed(self, method: str, code: StatusCode, reason: str, calls: int, model: str = "", version: str = "") -> None:
        """Count them; nobody's trace has anything of them."""
        self._inner.shed(method, code, reason, calls, model, version)
