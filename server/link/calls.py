"""Rare RPCs of a frontend's callers, answered by the engine: what models there are, their statistics, loading them.

Whatever the engine would answer if it had the port itself, word by word, is what the caller gets: the call crosses the
link as it came, metadata and all, and runs through the engine's own handler. So nothing of the kind has two
implementations, and it does not matter which frontend a caller reaches.
"""

import asyncio
import itertools
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from server.errors import QueueUnavailable
from server.link.end import End, Handler
from server.link.frames import CALL, HANG_UP, RESULT, STATUS, frame
from server.messages import Buffer
from server.transports.base import Call, Metadata, Methods, StatusCode, StatusError, Unary
from server.transports.failure import is_cancelled, to_status

PlainMetadata = list[tuple[str, str, bool]]


class Calls:
    """A frontend's side; on the event loop that makes it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._numbers = itertools.count()
        self._open: dict[int, asyncio.Future[bytes]] = {}
        self.handlers: Mapping[int, Handler] = {RESULT: self._on_result, STATUS: self._on_status}

    def attach(self, end: End) -> None:
        """Use this link."""
        self._end = end

    def forwarded(self, table: Methods, but: str) -> Methods:
        """Return the table with every Unary method answered by the engine, except paths that begin with `but`."""
        forward = Unary(self.forward)
        return {
            path: forward if isinstance(method, Unary) and not path.startswith(but) else method
            for path, method in table.items()
        }

    async def forward(self, call: Call, message: bytes) -> bytes:
        """Let the engine answer. Raises StatusError as the engine says, QueueUnavailable when it is gone."""
        if self._end.lost:
            raise QueueUnavailable("this server's engine process is gone; it is on its way down")
        number = next(self._numbers)
        left = None if call.deadline is None else max(call.deadline - time.monotonic(), 0.0)
        head = json.dumps([call.method, _plain(call.metadata), call.peer, left]).encode()
        answer: asyncio.Future[bytes] = self._loop.create_future()
        self._open[number] = answer
        self._end.tell(CALL, number, len(head).to_bytes(4, "little") + head + message)
        try:
            return await answer
        except asyncio.CancelledError:
            self._end.tell(HANG_UP, number)
            raise
        finally:
            del self._open[number]

    def fail_all(self) -> None:
        """Answer everything open: the link is gone. Any thread."""
        error = QueueUnavailable("this server's engine process is gone; it is on its way down")

        def fail() -> None:
            for number in list(self._open):
                self._settle(number, error)

        self._loop.call_soon_threadsafe(fail)

    def _on_result(self, number: int, data: Buffer, start: int, stop: int) -> None:
        self._loop.call_soon_threadsafe(self._settle, number, bytes(data[start:stop]))

    def _on_status(self, number: int, data: Buffer, start: int, stop: int) -> None:
        code, details, trailers = json.loads(bytes(data[start:stop]))
        status = StatusError(StatusCode(code), details, _metadata(trailers))
        self._loop.call_soon_threadsafe(self._settle, number, status)

    def _settle(self, number: int, outcome: bytes | Exception) -> None:
        answer = self._open.get(number)
        if answer is None or answer.done():
            return
        if isinstance(outcome, bytes):
            answer.set_result(outcome)
        else:
            answer.set_exception(outcome)


@dataclass(slots=True)
class ForwardedCall:
    """A call as the engine's handlers see it (`transports.base.Call`); they answer by returning."""

    method: str
    metadata: Metadata
    peer: str
    deadline: float | None
    """By the seconds that were left when the frontend had it."""

    def reply(self, message: bytes) -> None:
        """Never called: the handler returns its answer."""

    def fail(self, code: StatusCode, details: str, trailers: Metadata = ()) -> None:
        """Never called: the handler raises."""

    def on_cancel(self, callback: Callable[[], None]) -> None:
        """Never called: the handler's task is cancelled."""


class Clerk:
    """The engine's side: runs the calls of one frontend on the event loop that makes it."""

    def __init__(self, table: Methods, spread: Callable[[str], Awaitable[None]]) -> None:
        """`spread` is awaited with a call's method once that is carried out, before the caller hears of it."""
        self._loop = asyncio.get_running_loop()
        self._table = table
        self._spread = spread
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self.handlers: Mapping[int, Handler] = {CALL: self._on_call, HANG_UP: self._on_hang_up}

    def attach(self, end: End) -> None:
        """Use this link."""
        self._end = end

    def cancel_all(self) -> None:
        """Stop everything: the frontend is gone. Any thread."""
        self._loop.call_soon_threadsafe(lambda: [task.cancel() for task in self._tasks.values()])

    def _on_call(self, number: int, data: Buffer, start: int, stop: int) -> None:
        at = start + 4 + int.from_bytes(data[start : start + 4], "little")
        method, metadata, peer, remaining = json.loads(bytes(data[start + 4 : at]))
        deadline = None if remaining is None else time.monotonic() + remaining
        call = ForwardedCall(method, _metadata(metadata), peer, deadline)
        self._loop.call_soon_threadsafe(self._start, number, call, bytes(data[at:stop]))

    def _on_hang_up(self, number: int, _: Buffer, __: int, ___: int) -> None:
        self._loop.call_soon_threadsafe(self._cancel, number)

    def _start(self, number: int, call: ForwardedCall, message: bytes) -> None:
        task = self._tasks[number] = self._loop.create_task(self._run(number, call, message))
        task.add_done_callback(lambda _: self._tasks.pop(number, None))

    def _cancel(self, number: int) -> None:
        task = self._tasks.get(number)
        if task is not None:
            task.cancel()

    async def _run(self, number: int, call: ForwardedCall, message: bytes) -> None:
        method = self._table.get(call.method)
        try:
            assert isinstance(method, Unary), call.method  # noqa: S101 - both processes have the same table
            kind, body = RESULT, await method.handler(call, message)
        except (Exception, asyncio.CancelledError) as error:
            if is_cancelled(error):
                raise
            status = to_status(error, call.method)
            kind, body = STATUS, json.dumps([status.code, status.details, _plain(status.trailers)]).encode()
        await self._spread(call.method)
        self._end.put((frame(kind, number, body),))
        self._end.flush()


def _plain(metadata: Metadata) -> PlainMetadata:
    return [(key, value.hex(), True) if isinstance(value, bytes) else (key, value, False) for key, value in metadata]


def _metadata(plain: PlainMetadata) -> Metadata:
    return tuple((key, bytes.fromhex(value) if binary else value) for key, value, binary in plain)
