"""What the log gets to read of batches that failed: which requests were in them and why, and only so many a second.

Called outside the scheduler's lock, by any instance's thread. This module must never know what becomes of the requests.
"""

import logging
from collections.abc import Callable

from server import log
from server.running import Run
from server.sessions.base import BatchError
from server.spec import ModelSpec
from server.traceparent import trace_id

LOGGED_IDS = 8
"""Request ids named in the log line of a failed batch."""

LOGGED_PER_SECOND = 10
"""Such lines; whoever sends values that fail must not fill the log."""


class FailureLog:
    """Of one model version."""

    def __init__(self, spec: ModelSpec, clock: Callable[[], float]) -> None:
        self._spec = spec
        self._sampler = log.Sampler(LOGGED_PER_SECOND, clock)

    def write(self, run: Run, error: BatchError) -> None:
        """Write one line, unless there were too many this second; the next one tells how many went unlogged."""
        unlogged = self._sampler.admit()
        if unlogged is None:
            return
        named = [pending.request for pending, *_ in run.pieces[:LOGGED_IDS]]
        log.event(
            "batch_failed",
            logging.WARNING,
            model=self._spec.name,
            version=self._spec.version,
            rows=run.rows,
            kind=type(error).__name__,
            error=str(error),
            requests=[request.id for request in named],
            trace_ids=list(filter(None, (trace_id(request.traceparent) for request in named))),
            unlogged=unlogged,
        )
