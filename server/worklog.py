"""Every piece of a worker's work is written down, where requests and jobs come through Redis, while there is room.

Its line has the id that its frontend or its client knows it by, and the trace it belongs to. Under load lines are
sampled, failures apart. This module must never know a transport or a payload.
"""

import logging
import time

from server import log
from server.errors import InferenceFailed, ServingError
from server.spans import Tracing
from server.traceparent import trace_field
from server.work import Work


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
            fields |= {"outcome": "done", "version": outcome.model_version, **outcome.timing.for_log()}
        if skipped:
            fields["skipped"] = skipped
        log.event("request_run" if claim.reply_to else "job_run", level, cause=None, **fields)
