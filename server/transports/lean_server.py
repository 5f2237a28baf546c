"""gRPC's core server and the thread that hears of everything it has finished.

Every batch of operations carries its own callback as the tag, so the thread's work is one line: poll, then call the
tag with the event.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence

import grpc

from server import log
from server.transports.base import Gather
from server.transports.binding import QUEUE_SHUTDOWN, QUEUE_TIMEOUT, CompletionQueue, NewCall, Server
from server.transports.lean_outbox import Outbox

_DEPTH = 256
"""Calls the core may accept before the thread has looked at the first of them."""
_STOPPING_POLL = 0.01
_AT_ONCE = -1.0
"""Seconds that make the core look and not wait; it rounds "now" up to the next millisecond, and waits for that."""
_GATHERED = 16
"""What is gathered at most before it is flushed though there are more events: whoever waits for it is idle."""


class LeanServer:
    """A core server with one completion queue and one polling thread."""

    def __init__(self, arguments: Sequence[tuple[str, int]]) -> None:
        self._queue = CompletionQueue()
        self._server = Server(tuple(arguments), False)  # noqa: FBT003  xds: not known by name in every version
        self._server.register_completion_queue(self._queue)
        self._accept: Callable[[NewCall], None] = _refuse
        self._rest: Callable[[], float | None] = _nothing
        self._stopped: Callable[[], None] = _nothing
        self._gather: Gather | None = None
        self._serving = True
        self.outbox = Outbox()
        """Knows the calls that may still start batches, so must the queue."""
        self._alive = threading.Lock()
        """Held while the core stops: its last event may be heard, and the server freed, before shutdown() returns."""

    def bind(self, where: str, credentials: grpc.ServerCredentials | None) -> int:
        """Open a port; 0 when the core cannot."""
        private = credentials._credentials if credentials is not None else None  # type: ignore[attr-defined]  # noqa: SLF001
        try:
            return int(self._server.add_http2_port(where.encode(), private))
        except RuntimeError:
            return 0

    def start(
        self, accept: Callable[[NewCall], None], rest: Callable[[], float | None], gather: Gather | None = None
    ) -> None:
        """Start serving.

        Args:
            accept: called on the polling thread with the event of every new call.
            rest: called on the polling thread between events; returns seconds until it wants to be called again.
            gather: flushed on the polling thread whenever there is no event left to act on first.
        """
        self._accept, self._rest, self._gather = accept, rest, gather
        self._server.start()
        for _ in range(_DEPTH):
            self._request()
        threading.Thread(target=self._run, name="lean-transport", daemon=True).start()

    def shutdown(self, stopped: Callable[[], None]) -> None:
        """Send GOAWAY and refuse new calls; `stopped` is called on the polling thread, its last act."""
        self._stopped = stopped
        with self._alive:
            self._server.shutdown(self._queue, self._on_shutdown)

    def cancel_all(self) -> None:
        """Cancel every call that is still running; only after shutdown()."""
        with self._alive:
            self._server.cancel_all_calls()

    def _run(self) -> None:
        self.outbox.thread = threading.get_ident()
        if self._gather is not None:
            self._gather.begin()
        while self._serving:
            seconds = self._rest()
            if self._gather is None or not self._flushed(self._gather):
                self._hear(seconds)
        self._wind_up()

    def _wind_up(self) -> None:
        """Serve what is running to its end, then stop the core."""
        # The server does not wait for calls that were disconnected; but a batch on a queue that is shut down would end
        # the process.
        for call in tuple(self.outbox.calls):
            call.watch()
        while self.outbox.calls:
            self._rest()
            self._hear(_STOPPING_POLL)
            if self._gather is not None:
                self._gather.flush()
        with self._alive:
            self._server.destroy()
        self._queue.shutdown()
        while self._hear(None) != QUEUE_SHUTDOWN:
            pass
        self._stopped()

    def _flushed(self, gather: Gather) -> bool:
        """Flush what waits for it unless an event is here already; False when there is nothing, so hear the next."""
        waiting = gather.waiting()
        if not waiting:
            return False
        if waiting >= _GATHERED or self._hear(_AT_ONCE) == QUEUE_TIMEOUT:
            gather.flush()
        return True

    def _hear(self, seconds: float | None) -> int:
        """Wait for one event, at most `seconds`, and act on it; returns its kind."""
        event = self._queue.poll(None if seconds is None else time.time() + seconds)  # noqa: TID251  the core's clock
        tag = event.tag
        if tag is not None:
            try:
                tag(event)
            except Exception as error:  # noqa: BLE001  one call's trouble must not end the thread of all calls
                log.event("transport_failed", logging.ERROR, cause=error)
        kind: int = event.completion_type
        return kind

    def _request(self) -> None:
        self._server.request_call(self._queue, self._queue, self._on_call)

    def _on_call(self, event: NewCall) -> None:
        if not event.success:  # the server is shutting down
            return
        try:  # noqa: SIM105  a context manager costs half a microsecond in every call
            self._request()
        except ValueError:  # ditto, since this event was made
            pass
        self._accept(event)

    def _on_shutdown(self, _: object) -> None:
        self._serving = False


def _refuse(_: object) -> None:
    msg = "a call arrived before start()"
    raise RuntimeError(msg)


def _nothing() -> None:
    return None
