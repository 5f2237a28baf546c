"""Streams of the lean transport: one message at a time either way, so that a slow reader slows the writer."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import TypeVar

from server.transports.base import Metadata, StatusCode, StatusError, StreamHandler
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
from server.transports.failure import cancel_current, is_cancelled, to_status
from server.transports.lean_call import deadline_of
from server.transports.lean_outbox import OpenCall, finish, start

_T = TypeVar("_T")
Soon = Callable[..., None]
"""Runs a function on the slow lane's loop, from any thread."""


class LeanStream:
    """One streaming RPC (base.Stream), on the slow lane's loop; the core's events reach it through `soon`."""

    def __init__(self, event: NewCall, method: str, soon: Soon, calls: set[OpenCall]) -> None:
        """Take over a new call, on the polling thread.

        Args:
            event: as it came from the core.
            method: the call's path.
            soon: runs a function on the slow lane's loop.
            calls: has this stream in it for as long as it may start batches.
        """
        self.method = method
        self.metadata: Metadata = event.invocation_metadata
        self.peer: str = event.call.peer().decode()
        self._call = event.call
        self._deadline = deadline_of(event)
        self._soon = soon
        self._task: asyncio.Task[None] | None = None
        self._reading: asyncio.Future[bytes | None] | None = None
        self._writing: asyncio.Future[bool] | None = None
        self._turn_to_write = asyncio.Lock()
        self._begun = False
        self._half_closed = False
        self._watched = False
        self._calls = calls
        calls.add(self)

    def time_remaining(self) -> float | None:
        """Seconds until the caller's deadline, None when it set none."""
        return None if self._deadline is None else max(self._deadline - time.monotonic(), 0.0)

    def watch(self) -> None:
        """Ask to be told when the caller goes away, unless that was done; only after `serve` is on its way."""
        if not self._watched:
            self._watched = True
            self._call.start_server_batch((ReceiveClose(0),), self._closed)

    def serve(self, handler: StreamHandler) -> asyncio.Task[None]:
        """Run the handler as a task, which is cancelled when the caller goes away."""
        self._task = asyncio.get_running_loop().create_task(self._run(handler))
        return self._task

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Return itself: a reader that gave up waiting can come back without losing a message."""
        return self

    async def __anext__(self) -> bytes:
        """Return the caller's next message; ends once it has half-closed."""
        if self._half_closed:
            raise StopAsyncIteration
        await self._checkpoint()
        if self._reading is None:
            self._reading = self._start((ReceiveMessage(0),), _message)
        message = await asyncio.shield(self._reading)
        self._reading = None
        if message is None:
            self._half_closed = True
            raise StopAsyncIteration
        return message

    async def send(self, message: bytes) -> None:
        """Send one message; returns when the transport took it."""
        async with self._turn_to_write:
            await self._checkpoint()
            await self._written()
            self._writing = self._start((*self._beginning(), SendMessage(message, 0)), _success)
            sent = await self._written()
        if not sent:  # the stream was reset; word of it is on the way
            await cancel_current()

    async def _run(self, handler: StreamHandler) -> None:
        status = StatusError(StatusCode.OK, "")
        try:
            await handler(self)
        except (Exception, asyncio.CancelledError) as error:
            if is_cancelled(error):
                raise
            status = to_status(error, self.method)
        async with self._turn_to_write:
            await self._written()
            self._end(status)

    def _end(self, status: StatusError) -> None:
        trailers, details = tuple(status.trailers), status.details.encode(errors="replace")
        last = SendStatus(trailers, status.code, details, 0)
        finish(self._call, (*self._beginning(), last), _ignore)
        self._over()

    def _beginning(self) -> tuple[object, ...]:
        if self._begun:
            return ()
        self._begun = True
        return (SendInitialMetadata(None, 0),)

    async def _checkpoint(self) -> None:
        if self._call is ENDED:  # the caller has gone and the handler went on regardless
            await cancel_current()

    async def _written(self) -> bool:
        """Wait for the message under way, which outlives a sender that was cancelled; the core takes one at a time."""
        return self._writing is None or await asyncio.shield(self._writing)

    def _start(self, operations: tuple[object, ...], outcome: Callable[[Done], _T]) -> asyncio.Future[_T]:
        future: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        start(self._call, operations, partial(self._settle, future, outcome))
        return future

    def _settle(self, future: "asyncio.Future[_T]", outcome: Callable[[Done], _T], event: Done) -> None:
        self._soon(_resolve, future, outcome(event))

    def _closed(self, event: Done) -> None:
        if event.batch_operations[0].cancelled():
            self._soon(self._leave)

    def _leave(self) -> None:
        self._over()
        task, self._task = self._task, None  # a cancelled task remembers its frames, and they this stream
        if task is not None:
            task.cancel()

    def _over(self) -> None:
        self._call = ENDED
        self._calls.discard(self)


def _message(event: Done) -> bytes | None:
    message: bytes | None = event.batch_operations[0].message()
    return message


def _success(event: Done) -> bool:
    return bool(event.success)


def _ignore(_: Done) -> None:
    return


def _resolve(future: "asyncio.Future[_T]", value: _T) -> None:
    if not future.done():
        future.set_result(value)
