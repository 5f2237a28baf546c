"""Replies in the order of the requests, for models whose config says `preserve_ordering`.

An answer that overtook an earlier request waits here until that one is answered too, however it ends.
This module must never know how answers come about.
"""

import threading
from collections import deque

from server.alarm import call_isolated
from server.pending import Outcome, Pending


class OrderedReplies:
    """Delivers in order of `accept`; one thread at a time, so that two cannot swap their answers on the last metre."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._line: deque[Pending] = deque()
        self._delivering = False

    def accept(self, pending: Pending) -> None:
        """Note a request's place in the line; called in the order of arrival."""
        with self._lock:
            self._line.append(pending)

    def deliver(self, pending: Pending, outcome: Outcome) -> None:
        """Answer `pending` and whoever waited behind it, or let it wait for those before it."""
        with self._lock:
            pending.outcome = outcome
            if self._delivering:
                return
            self._delivering = True
        while (ready := self._next()) is not None:
            call_isolated(ready[0].reply, ready[1])

    def _next(self) -> tuple[Pending, Outcome] | None:
        with self._lock:
            if self._line and (outcome := self._line[0].outcome) is not None:
                return self._line.popleft(), outcome
            self._delivering = False
            return None
