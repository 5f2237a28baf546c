"""Every finished RPC is counted, and written down as one canonical log line while there is room for lines.

Under load lines are sampled and the next one says how many were held back (`skipped`); what is our own fault is never
held back by lines about successes. This module must never know a transport or a payload.
"""

import logging

from server import log
from server.counts import RequestCounts
from server.transports.base import StatusCode
from server.wire.observer import Outcome

_OURS = {StatusCode.INTERNAL, StatusCode.UNKNOWN, StatusCode.DATA_LOSS}


class Accountant:
    """Implements wire.observer.Observer."""

    def __init__(self, counts: RequestCounts, lines_per_second: int) -> None:
        self._counts = counts
        self._usual = log.Sampler(lines_per_second)
        self._faults = log.Sampler(lines_per_second)

    def finished(self, outcome: Outcome) -> None:
        """Count one RPC and, if its second has room for one more line, log it."""
        method = outcome.method.rpartition("/")[2]
        if self._counts.count(outcome.model, outcome.version, method, outcome.code.name, outcome.seconds):
            self._exemplify(outcome, method)
        fault = outcome.code in _OURS
        skipped = (self._faults if fault else self._usual).admit()
        if skipped is not None:
            self._write(outcome, skipped, logging.ERROR if fault else logging.INFO)

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
            fields |= {
                "queue_ms": round(outcome.timing.queue * 1000, 3),
                "infer_ms": round(outcome.timing.compute_infer * 1000, 3),
                "batch_rows": outcome.timing.batch_rows,
            }
        if skipped:
            fields["skipped"] = skipped
        log.event("request", level, cause=None, **fields)
