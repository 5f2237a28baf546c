"""Unary calls of the lean transport: receive the message, send everything in one batch, notice who leaves in between.

The core tells that a caller has gone only to those who ask (ReceiveCloseOnServer), and asking costs a batch and an
event of its own. Most calls are answered within milliseconds, so the question joins the answer's batch; a call that is
still open after `PATIENCE` seconds is asked for by `Watch`. docs/adr/0003-lean-transport.md has what this buys.
"""

import threading
import time
from collections import deque
from collections.abc import Callable

from server.transports.base import Metadata, StatusCode
from server.transports.binding import (
    ENDED,
    Done,
    NewCall,
    ReceiveClose,
    ReceiveMessage,
    SendInitialMetadata,
    SendMessage,
    SendStatus,
)
from server.transports.lean_outbox import Outbox
from server.transports.once import Once
from server.transports.options import finite

PATIENCE = 0.05
"""Seconds a call may be open before its caller is watched; half of what a cancellation may take to arrive."""

CROWD = 64
"""Open calls beyond which `CROWDED` goes: under load each question is work for a caller who nearly always stays."""
CROWDED = 0.5
"""Seconds, likewise."""

OnMessage = Callable[["LeanCall", bytes | None], None]


class LeanCall(Once):
    """One unary RPC (base.Call); the tag of each of its batches is one of its methods."""

    __slots__ = ("_call", "_deadline", "_on_message", "_outbox", "_unwatched", "metadata", "method", "peer")

    def __init__(self, event: NewCall, method: str, on_message: OnMessage, outbox: Outbox) -> None:
        """Take over a new call.

        Args:
            event: as it came from the core.
            method: the call's path.
            on_message: called on the polling thread with the message, None where the call ended without one.
            outbox: sends its answer, and knows it for as long as it may start batches.
        """
        super().__init__()
        self.method = method
        self.metadata: Metadata = event.invocation_metadata
        self.peer: str = event.call.peer().decode()
        self._call = event.call
        self._deadline = deadline_of(event)
        self._on_message = on_message
        self._unwatched = threading.Lock()
        self._outbox = outbox
        outbox.calls.add(self)

    def time_remaining(self) -> float | None:
        """Seconds until the caller's deadline, None when it set none."""
        return None if self._deadline is None else max(self._deadline - time.monotonic(), 0.0)

    @property
    def ended(self) -> bool:
        """Whether the call was answered or its caller has gone."""
        return self._turn.locked()

    def receive(self) -> None:
        """Ask for the message."""
        self._call.start_server_batch((ReceiveMessage(0),), self._received)

    def watch(self) -> None:
        """Ask to be told when the caller goes away, unless that was done."""
        if self._unwatched.acquire(blocking=False):
            self._call.start_server_batch((ReceiveClose(0),), self._closed)

    def reply(self, message: bytes) -> None:
        """Answer: message and OK. Ignored when the caller has gone or the call was answered."""
        if self.take():
            self._end((SendInitialMetadata(None, 0), SendMessage(message, 0), SendStatus(None, 0, b"", 0)))

    def fail(self, code: StatusCode, details: str, trailers: Metadata = ()) -> None:
        """End the call with a status. Ignored when the caller has gone or the call was answered."""
        if self.take():
            status = SendStatus(tuple(trailers), code, details.encode(errors="replace"), 0)
            self._end((SendInitialMetadata(None, 0), status))

    def _end(self, operations: tuple[object, ...]) -> None:
        if self._unwatched.acquire(blocking=False):
            operations += (ReceiveClose(0),)
        self._outbox.send(self._call, operations, self._finished)

    def _received(self, event: Done) -> None:
        self._on_message(self, event.batch_operations[0].message())

    def _closed(self, event: Done) -> None:
        if event.batch_operations[0].cancelled():
            self.leave()
            if self._gone:
                self._over()

    def _finished(self, _: Done) -> None:
        self._over()

    def _over(self) -> None:
        self._call = ENDED
        self._outbox.calls.discard(self)


class Watch:
    """Calls that were not answered at once, oldest first; belongs to the polling thread."""

    def __init__(self, patience: float, outbox: Outbox) -> None:
        self._patience = patience
        self._open = outbox.calls
        self._calls: deque[tuple[float, LeanCall]] = deque()

    def add(self, call: LeanCall) -> None:
        """Remember a call, unless it has been answered meanwhile."""
        if not call.ended:
            patience = self._patience if len(self._open) <= CROWD else max(self._patience, CROWDED)
            self._calls.append((time.monotonic() + patience, call))

    def ask(self) -> float | None:
        """Watch every caller who has waited long enough; return seconds until the next one has."""
        calls = self._calls
        while calls:
            due, call = calls[0]
            if not call.ended:
                left = due - time.monotonic()
                if left > 0:
                    return left
                call.watch()
            calls.popleft()
        return None


def deadline_of(event: NewCall) -> float | None:
    """Return when the caller's time is up on time.monotonic(), None when it set no deadline.

    The core tells deadlines by the wall clock, so this is asked once, as the call arrives, before the clock can step.
    """
    left = finite(event.call_details.deadline - time.time())  # noqa: TID251  the clock that the core uses
    return None if left is None else time.monotonic() + left
