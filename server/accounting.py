"""Every finished RPC is counted, and written down as one canonical log line while there is room for lines.

So is every piece of a worker's work, where requests and jobs come through Redis: its line has the id that its frontend
or its client knows it by, and the trace it belongs to.

Under load lines are sampled and the next one says how many were held back (`skipped`); what is our own fault is never
held back by lines about successes. This module must never know a transport or a payload.
"""

import logging
import time

from server import log
from server.counts import Line, RequestCounts
from server.errors import InferenceFailed, ServingError
from server.messages import Timing
from server.spans import Tracing
from server.traceparent import trace_field
from server.transports.base import StatusCode
from server.wire.observer import Meter, Observer, Outcome
from server.work import Work

_OURS = {StatusCode.INTERNAL, StatusCode.UNKNOWN, StatusCode.DATA_LOSS}


class _Meter:
    """Implements wire.observer.Meter: nearly every RPC makes no line and no example."""

    __slots__ = ("_line", "_lines_written")

    def __init__(self, line: Line, lines_written: log.Sampler) -> None:
        self._line = line
        self._lines_written = lines_written

    def suffices(self, seconds: float) -> bool:
        if not self._lines_written.hold():
            return False
        if self._line.take(seconds):
            return True
        self._lines_written.let_go()
        return False


class _Insufficient:
    """Implements wire.observer.Meter: of every RPC all is wanted."""

    def suffices(self, _: float) -> bool:
        return False


class Accountant:
    """Implements wire.observer.Observer."""

    def __init__(self, counts: RequestCounts, lines_per_second: int) -> None:
        self._counts = counts
        self._usual = log.Sampler(lines_per_second)
        self._faults = log.Sampler(lines_per_second)
        self._names: dict[str, str] = {}

    def finished(self, outcome: Outcome) -> None:
        """Count one RPC and, if its second has room for one more line, log it."""
        method = self._names.get(outcome.method) or self._name(outcome.method)
        fine = outcome.code is StatusCode.OK  # an enumeration's name and hash are slow, and nearly every RPC is fine
        code = "OK" if fine else outcome.code.name
        if self._counts.count(outcome.model, outcome.version, method, code, outcome.seconds):
            self._exemplify(outcome, method)
        fault = not fine and outcome.code in _OURS
        skipped = (self._faults if fault else self._usual).admit()
        if skipped is not None:
            self._write(outcome, skipped, logging.ERROR if fault else logging.INFO)

    def shed(self, method: str, code: StatusCode, reason: str, calls: int, model: str = "", version: str = "") -> None:
        """Count so many calls that were turned away, and write one line for all of them."""
        name = self._names.get(method) or self._name(method)
        self._counts.add(model, version, name, code.name, calls)
        skipped = self._usual.admit()
        if skipped is not None:
            about: dict[str, object] = {"model": model, "version": version} if model else {}
            about |= {"method": method, "code": code.name, "reason": reason, "calls": calls, "skipped": skipped}
            log.event("requests_shed", logging.INFO, cause=None, **about)

    def meter(self, method: str, model: str, version: str) -> Meter:
        """Return what counts calls of a method that end well, without a look at each."""
        name = self._names.get(method) or self._name(method)
        return _Meter(self._counts.line(model, version, name, "OK"), self._usual)

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
            fields |= _timing(outcome.timing)
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
        """Return one that leaves every call to `finished`, for each has a span."""
        return _Insufficient()

    def shed(self, method: str, code: StatusCode, reason: str, calls: int, model: str = "", version: str = "") -> None:
        """Count them; nobody's trace has anything of them."""
        self._inner.shed(method, code, reason, calls, model, version)


class WorkLog:
    """Writes a line per claim that was settled: `job_run` for a durable job, `request_run` for an online request."""

    def __init__(self, lines_per_second: int, tracing: Tracing | None) -> None:
        self._usual = log.Sampler(lines_per_second)
        self._failures = log.Sampler(lines_per_second)
        self._tracing = tracing

    def worked(self, work: Work) -> None:
        """Write one piece of work down, if its second has room for one more line, and trace it."""
        failed = isinstance(work.outcome, InferenceFailed)
        skipped = (self._failures if failed else self._usual).admit()
        if skipped is not None:
            self._write(work, skipped, logging.WARNING if failed else logging.INFO)
        if self._tracing is not None:
            self._tracing.worked(work)

    def _write(self, work: Work, skipped: int, level: int) -> None:
        claim, outcome = work.claim, work.outcome
        fields: dict[str, object] = {
            "key": claim.key,
            "id": claim.request.id,
            "model": claim.request.model_name,
            "rows": claim.request.rows,
            "attempt": claim.attempt,
            "ms": round((time.monotonic() - work.claimed) * 1000, 3),
            **trace_field(claim.request.traceparent),
        }
        if isinstance(outcome, InferenceFailed):
            fields["error"] = str(outcome)  # the cause, which its caller is not told
        if isinstance(outcome, ServingError):
            fields["outcome"] = type(outcome).__name__
        else:
            fields |= {"outcome": "done", "version": outcome.model_version, **_timing(outcome.timing)}
        if skipped:
            fields["skipped"] = skipped
        log.event("request_run" if claim.reply_to else "job_run", level, cause=None, **fields)


def _timing(timing: Timing) -> dict[str, object]:
    return {
        "queue_ms": round(timing.queue * 1000, 3),
        "infer_ms": round(timing.compute_infer * 1000, 3),
        "batch_rows": timing.batch_rows,
    }
