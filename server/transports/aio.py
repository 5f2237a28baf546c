"""The portable transport: grpc.aio with handlers that see bytes.

Serves on the event loop that starts it. Slower than `lean` by the cost of several asyncio tasks a call, but built on
gRPC's own core by public API only, so it is what remains for who doubts the HTTP/2 of `lean`.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import NoReturn, TypeAlias

import grpc
import grpc.aio
from typing_extensions import override

from server.transports.aio_call import AioCall, AioStream, Context, read_message
from server.transports.aio_options import channel_arguments, server_credentials
from server.transports.base import (
    Fast,
    Methods,
    Shed,
    StatusCode,
    StatusError,
    Streaming,
    Transport,
    TransportOptions,
    Unary,
)
from server.transports.failure import NO_MESSAGE, is_cancelled, to_status
from server.transports.options import address, bind_error

_CODES = {code.value[0]: code for code in grpc.StatusCode}
_Handler: TypeAlias = "grpc.RpcMethodHandler[bytes, bytes]"


class AioTransport(Transport):
    """A gRPC server on the running event loop."""

    def __init__(self, methods: Methods, options: TransportOptions) -> None:
        self.name = "aio"
        self._options = options
        self._running = _Running()
        self._router = _Router(methods, self._running)
        self._server: grpc.aio.Server | None = None

    @override
    async def start(self, host: str, port: int) -> int:
        server = grpc.aio.server(handlers=[self._router], options=channel_arguments(self._options))
        tls = self._options.tls
        where = address(host, port)
        try:
            bound = server.add_secure_port(where, server_credentials(tls)) if tls else server.add_insecure_port(where)
        except RuntimeError:
            raise bind_error(host, port, tls=tls is not None, shared=self._options.reuse_port) from None
        await server.start()
        self._server = server
        return bound

    @override
    async def drain(self, grace: float) -> None:
        await self._stop(grace)

    @override
    async def close(self) -> None:
        await self._stop(None)

    async def _stop(self, grace: float | None) -> None:
        if self._server is not None:
            await self._server.stop(grace)
            await self._running.finished()


class _Running:
    """The handlers' tasks, because grpc.aio's stop() may return while some are in their `finally` (grpc#37239)."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[object]] = set()

    def add_current(self) -> None:
        """Count the current task until it is done."""
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def finished(self) -> None:
        """Wait until no handler is left."""
        while self._tasks:
            await asyncio.wait(self._tasks)


class _Router(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # not generic at run time
    """Finds a method's handler by its path."""

    def __init__(self, methods: Methods, running: _Running) -> None:
        self._handlers = {path: _adapt(path, method, running) for path, method in methods.items()}

    @override
    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "_Handler | None":
        return self._handlers.get(handler_call_details.method)


def _adapt(path: str, method: Fast | Unary | Streaming, running: _Running) -> _Handler:
    if isinstance(method, Streaming):
        return grpc.stream_stream_rpc_method_handler(_streaming(path, method, running))
    # Declared as a stream of requests, because grpc.aio never answers a unary call that ends without a message.
    return grpc.stream_unary_rpc_method_handler(_unary(path, method, running))


def _unary(path: str, method: Fast | Unary, running: _Running) -> Callable[[object, Context], Awaitable[bytes]]:
    async def serve(_: object, context: Context) -> bytes:
        running.add_current()
        call = AioCall(path, context)
        try:
            await _invoke(method, call, await read_message(context))
            return await call.answer
        except asyncio.CancelledError:
            call.leave()
            raise
        except StatusError as status:
            await _abort(context, status)

    return serve


async def _invoke(method: Fast | Unary, call: AioCall, message: bytes | None) -> None:
    """Hand the message over; from here on the answer, whatever it is, comes through the call."""
    if message is None:
        call.fail(StatusCode.UNIMPLEMENTED, NO_MESSAGE)
        return
    try:
        if isinstance(method, Fast):
            if not _shed(method.shed, call, message):
                method.handler(call, message)
        else:
            call.reply(await method.handler(call, message))
    except (Exception, asyncio.CancelledError) as error:
        if is_cancelled(error):
            raise
        status = to_status(error, call.method)
        call.fail(status.code, status.details, status.trailers)


def _shed(shed: Shed | None, call: AioCall, message: bytes) -> bool:
    """End a call that would only be refused; False for one that may go on."""
    if shed is None or call.deadline is None:
        return False
    refusal = shed.refuse(message, call.deadline - time.monotonic(), call.metadata, 0.0)
    if refusal is None:
        return False
    call.fail(refusal.status.code, refusal.status.details, refusal.status.trailers)
    refusal.count(1)
    shed.count(0)
    return True


def _streaming(path: str, method: Streaming, running: _Running) -> Callable[[object, Context], Awaitable[None]]:
    async def serve(_: object, context: Context) -> None:
        running.add_current()
        stream = AioStream(path, context)
        try:
            await method.handler(stream)
        except (Exception, asyncio.CancelledError) as error:
            if is_cancelled(error):
                raise
            await _abort(context, to_status(error, path))
        finally:
            stream.close()

    return serve


async def _abort(context: Context, status: StatusError) -> NoReturn:
    if not all(isinstance(key, str) and isinstance(value, str | bytes) for key, value in status.trailers):
        # grpc.aio would tell the caller about the TypeError; its own check comes too late to end the call otherwise.
        status = to_status(TypeError(f"expected trailers of text and bytes, got {status.trailers!r}"), "")
    await context.abort(_CODES[status.code], status.details, tuple(status.trailers))
