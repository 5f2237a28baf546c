"""The slow lane: handlers that are coroutines, on the event loop that started the transport."""

import asyncio
from collections.abc import Callable

from server.transports.base import Call, UnaryHandler
from server.transports.failure import is_cancelled, to_status


class SlowLane:
    """Runs coroutines for a transport's thread and knows which are still running."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._tasks: set[asyncio.Task[None]] = set()

    def soon(self, function: Callable[..., object], *arguments: object) -> None:
        """Call a function on the loop, from any thread."""
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:  # the loop is closed: nobody is left to hear of it
            return

    def unary(self, call: Call, message: bytes, handler: UnaryHandler) -> None:
        """Start a unary handler, on the loop; its caller's leaving cancels it."""
        task = self._loop.create_task(_answer(call, message, handler))
        self.track(task)
        call.on_cancel(lambda: self.soon(task.cancel))

    def track(self, task: "asyncio.Task[None]") -> None:
        """Count a handler's task until it is done."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def finished(self) -> None:
        """Wait until no handler is left."""
        while self._tasks:
            await asyncio.wait(self._tasks)


def fail(call: Call, error: BaseException) -> None:
    """End a call whose handler raised."""
    status = to_status(error, call.method)
    call.fail(status.code, status.details, status.trailers)


async def _answer(call: Call, message: bytes, handler: UnaryHandler) -> None:
    try:
        call.reply(await handler(call, message))
    except (Exception, asyncio.CancelledError) as error:
        if is_cancelled(error):
            raise
        fail(call, error)
