"""Calls and streams as handlers see them, over a grpc.aio context."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from typing import cast

import grpc.aio
from typing_extensions import override

from server.transports.aio_options import finite
from server.transports.base import Call, Metadata, StatusCode, StatusError, Stream
from server.transports.failure import cancel_current
from server.transports.once import Once

Context = grpc.aio.ServicerContext[bytes, bytes]
_END = grpc.aio.EOF  # type: ignore[attr-defined]  # the stubs do not know it


class AioCall(Once, Call):
    """One unary RPC; `answer` is the future its coroutine waits for."""

    def __init__(self, method: str, context: Context) -> None:
        super().__init__()
        self.method = method
        self._context = context
        # Read now: once the call is over, grpc.aio has freed what these look at.
        self._metadata = _metadata(context)
        self._peer = context.peer()
        left = finite(context.time_remaining())
        self._deadline = None if left is None else time.monotonic() + left
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self.answer: asyncio.Future[bytes] = self._loop.create_future()

    @property
    @override
    def metadata(self) -> Metadata:
        return self._metadata

    @property
    @override
    def peer(self) -> str:
        return self._peer

    @property
    @override
    def deadline(self) -> float | None:
        return self._deadline

    @override
    def reply(self, message: bytes) -> None:
        if self.take():
            self._finish(message)

    @override
    def fail(self, code: StatusCode, details: str, trailers: Metadata = ()) -> None:
        if self.take():
            self._finish(StatusError(code, details, trailers))

    def _finish(self, outcome: bytes | StatusError) -> None:
        if threading.get_ident() == self._thread:
            self._settle(outcome)
            return
        try:
            self._loop.call_soon_threadsafe(self._settle, outcome)
        except RuntimeError:  # the loop is closed: the transport has stopped and so the caller has gone
            return

    def _settle(self, outcome: bytes | StatusError) -> None:
        if self.answer.done():
            return
        if isinstance(outcome, StatusError):
            self.answer.set_exception(outcome)
        else:
            self.answer.set_result(outcome)


class AioStream(Stream):
    """One streaming RPC, on the loop that serves it."""

    def __init__(self, method: str, context: Context) -> None:
        self.method = method
        self._context = context
        self._metadata = _metadata(context)
        self._peer = context.peer()
        self._sending = asyncio.Lock()
        self._reading: asyncio.Task[bytes | None] | None = None

    @property
    @override
    def metadata(self) -> Metadata:
        return self._metadata

    @property
    @override
    def peer(self) -> str:
        return self._peer

    @override
    def time_remaining(self) -> float | None:
        return finite(self._context.time_remaining())

    @override
    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        """Return the caller's next message; a reader that gave up waiting can come back without losing one."""
        if self._reading is None:
            self._reading = asyncio.ensure_future(read_message(self._context))
        message = await asyncio.shield(self._reading)
        if message is None:
            raise StopAsyncIteration
        self._reading = None
        return message

    def close(self) -> None:
        """Give up the read that the handler left behind."""
        if self._reading is not None:
            self._reading.cancel()

    @override
    async def send(self, message: bytes) -> None:
        async with self._sending:  # the core takes one message at a time
            try:
                await self._context.write(message)
            except grpc.aio.InternalError:  # the stream was reset; word of it is on the way
                await cancel_current()


async def read_message(context: Context) -> bytes | None:
    """Read the caller's next message; None when it has half-closed."""
    message = await context.read()
    return None if message is _END else message


def _metadata(context: Context) -> Metadata:
    return cast("Metadata", context.invocation_metadata() or ())
