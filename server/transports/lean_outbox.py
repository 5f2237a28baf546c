"""How answers leave: at once, or together with others from the polling thread.

Starting a batch lets go of the interpreter's lock, so a thread that answers sixty calls of one inference batch meets
the polling thread sixty times, and each meeting costs two context switches. When more than a few calls are open, other
threads leave their answers here instead and wake the polling thread once, by an empty batch on the first of the calls:
the core answers that at once with an event. A few calls are answered directly, which is faster for them.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Protocol

from server import log
from server.transports.binding import CoreCall, Done, SendInitialMetadata, SendStatus
from server.transports.failure import INTERNAL

DIRECT = 8
"""Open calls up to which every thread sends its own answers."""

Tag = Callable[[Done], None]


class OpenCall(Protocol):
    """A call or stream that may still start batches."""

    def watch(self) -> None:
        """Ask to be told when the caller goes away, unless that was done."""


class Outbox:
    """The last batches of calls on their way to the core. `calls` enter on the polling thread and leave on any."""

    def __init__(self) -> None:
        self.calls: set[OpenCall] = set()
        self.thread = 0
        """Identity of the polling thread."""
        self._waiting: deque[tuple[CoreCall, tuple[object, ...], Tag]] = deque()
        self._woken = False

    def send(self, call: CoreCall, operations: tuple[object, ...], tag: Tag) -> None:
        """Start a call's last batch, now or soon; the call must be in `calls` until the tag is called."""
        if len(self.calls) <= DIRECT or threading.get_ident() == self.thread:
            finish(call, operations, tag)
            return
        self._waiting.append((call, operations, tag))
        if not self._woken:
            self._woken = True
            if not start(call, (), self._flush):
                self._flush(None)

    def _flush(self, _: object) -> None:
        # First, so that whoever appends behind the last look below wakes us again.
        self._woken = False
        waiting = self._waiting
        while waiting:
            try:
                answer = waiting.popleft()
            except IndexError:  # another thread took the last one
                return
            finish(*answer)


def start(call: CoreCall, operations: tuple[object, ...], tag: Tag) -> bool:
    """Start a batch; False when the core does not take it, for trailers that cannot be sent, say."""
    problem: object
    try:
        problem = call.start_server_batch(operations, tag)
    except (TypeError, ValueError) as error:
        problem = error
    if problem:
        log.event("batch_refused", logging.ERROR, problem=problem)
    return not problem


def finish(call: CoreCall, operations: tuple[object, ...], tag: Tag) -> None:
    """Start a call's last batch; one that cannot be sent is replaced by INTERNAL, so that the call ends in any case."""
    if not start(call, operations, tag):
        last = SendStatus(None, INTERNAL.code, INTERNAL.details.encode(), 0)
        start(call, (SendInitialMetadata(None, 0), last), tag)
