"""The fast transport: one thread over gRPC's completion queue, and nothing between it and the handlers.

Fast handlers run on that thread, everything else on the event loop that starts the transport, the slow lane.
docs/adr/0003-lean-transport.md says why this exists; `choose` falls back to `aio` where the private binding changed.
"""

import asyncio
from collections.abc import Callable

from typing_extensions import override

from server.transports.base import (
    Call,
    Fast,
    FastHandler,
    Gather,
    Methods,
    StatusCode,
    StreamHandler,
    Streaming,
    Transport,
    TransportOptions,
    Unary,
    UnaryHandler,
)
from server.transports.binding import NewCall
from server.transports.failure import METHOD_NOT_FOUND, NO_MESSAGE, is_cancelled, to_status
from server.transports.lean_call import PATIENCE, LeanCall, OnMessage, Watch
from server.transports.lean_outbox import Outbox
from server.transports.lean_server import LeanServer
from server.transports.lean_stream import LeanStream
from server.transports.options import address, bind_error, channel_arguments, server_credentials


class LeanTransport(Transport):
    """A gRPC server on a thread of its own, with the running event loop as its slow lane."""

    def __init__(
        self, methods: Methods, options: TransportOptions, patience: float = PATIENCE, gather: Gather | None = None
    ) -> None:
        self.name = "lean"
        self._gather = gather
        self._patience = patience
        self._methods = methods
        self._options = options
        self._server: LeanServer | None = None
        self._stopped = asyncio.Event()
        self._stopping = False

    @override
    async def start(self, host: str, port: int) -> int:
        tls = self._options.tls
        server = LeanServer(channel_arguments(self._options))
        bound = server.bind(address(host, port), server_credentials(tls) if tls else None)
        if not bound:
            raise bind_error(host, port, tls=tls is not None, shared=self._options.reuse_port)
        self._lane = _SlowLane(asyncio.get_running_loop())
        self._server = server
        watch = Watch(self._patience, server.outbox)
        server.start(_Router(self._methods, self._lane, watch, server.outbox).accept, watch.ask, self._gather)
        return bound

    @override
    async def drain(self, grace: float) -> None:
        if self._server is None:
            return
        self._shut_down(self._server)
        try:
            async with asyncio.timeout(grace):
                await self._stopped.wait()
        except TimeoutError:
            await self.close()
        await self._lane.finished()

    @override
    async def close(self) -> None:
        if self._server is None:
            return
        self._shut_down(self._server)
        self._server.cancel_all()
        await self._stopped.wait()
        await self._lane.finished()

    def _shut_down(self, server: LeanServer) -> None:
        if not self._stopping:
            self._stopping = True
            server.shutdown(lambda: self._lane.soon(self._stopped.set))


class _SlowLane:
    """Runs coroutines for the polling thread and knows which are still running."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._tasks: set[asyncio.Task[None]] = set()

    def soon(self, function: Callable[..., object], *arguments: object) -> None:
        """Call a function on the loop, from any thread."""
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:  # the loop is closed: nobody is left to hear of it
            return

    def unary(self, call: LeanCall, message: bytes, handler: UnaryHandler) -> None:
        """Start a unary handler; its caller's leaving cancels it."""
        task = self._loop.create_task(_answer(call, message, handler))
        self._track(task)
        call.on_cancel(lambda: self.soon(task.cancel))

    def stream(self, stream: LeanStream, handler: StreamHandler) -> None:
        """Start a stream's handler; its caller's leaving cancels it."""
        self._track(stream.serve(handler))

    async def finished(self) -> None:
        """Wait until no handler is left."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _track(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class _Router:
    """Hands new calls to their methods' handlers; belongs to the polling thread."""

    def __init__(self, methods: Methods, lane: _SlowLane, watch: Watch, outbox: Outbox) -> None:
        self._lane = lane
        self._watch = watch
        self._outbox = outbox
        self._openers = {path.encode(): self._opener(path, method) for path, method in methods.items()}

    def accept(self, event: NewCall) -> None:
        """Open a call with the handler that its path names."""
        opener = self._openers.get(event.call_details.method)
        if opener is None:
            LeanCall(event, "", _ignore, self._outbox).fail(StatusCode.UNIMPLEMENTED, METHOD_NOT_FOUND)
        else:
            opener(event)

    def _opener(self, path: str, method: Fast | Unary | Streaming) -> Callable[[NewCall], None]:
        outbox = self._outbox
        if isinstance(method, Streaming):
            return self._streaming(path, method.handler)
        on_message = self._fast(method.handler) if isinstance(method, Fast) else self._unary(method.handler)
        return lambda event: LeanCall(event, path, on_message, outbox).receive()

    def _streaming(self, path: str, handler: StreamHandler) -> Callable[[NewCall], None]:
        lane = self._lane

        def open_stream(event: NewCall) -> None:
            stream = LeanStream(event, path, lane.soon, self._outbox.calls)
            lane.soon(lane.stream, stream, handler)
            stream.watch()

        return open_stream

    def _fast(self, handler: FastHandler) -> OnMessage:
        watch = self._watch.add

        def on_message(call: LeanCall, message: bytes | None) -> None:
            if message is None:
                call.fail(StatusCode.UNIMPLEMENTED, NO_MESSAGE)
                return
            try:
                handler(call, message)
            except Exception as error:  # noqa: BLE001  a handler's mistake ends its call, not the thread
                _fail(call, error)
            watch(call)

        return on_message

    def _unary(self, handler: UnaryHandler) -> OnMessage:
        def enqueue(call: Call, message: bytes) -> None:
            self._lane.soon(self._lane.unary, call, message, handler)

        return self._fast(enqueue)


async def _answer(call: LeanCall, message: bytes, handler: UnaryHandler) -> None:
    try:
        call.reply(await handler(call, message))
    except (Exception, asyncio.CancelledError) as error:
        if is_cancelled(error):
            raise
        _fail(call, error)


def _fail(call: LeanCall, error: BaseException) -> None:
    status = to_status(error, call.method)
    call.fail(status.code, status.details, status.trailers)


def _ignore(_: LeanCall, __: bytes | None) -> None:
    return
