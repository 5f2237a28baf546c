"""Real servers on real ports for the transports' contract, and clients polite and otherwise."""

import asyncio
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Self, TypeVar

import grpc
import grpc.aio
import h2.config
import h2.connection
import h2.events
import pytest

from server.transports.aio import AioTransport
from server.transports.base import Call, Methods, Transport, TransportOptions
from server.transports.http2.transport import Http2Transport

WAIT = 20.0
"""Seconds after which a test gives up on something that should have happened long ago."""
T = TypeVar("T")
KINDS = {"http2": Http2Transport, "aio": AioTransport}
EVERY_KIND = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
DEFAULTS = TransportOptions()


@dataclass(frozen=True)
class Serving:
    """A transport that listens, and what is needed to reach it."""

    transport: Transport
    port: int

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    def channel(self, *options: tuple[str, object], **more: object) -> grpc.aio.Channel:
        """Open a connection of its own; gRPC would share one otherwise."""
        own = ("grpc.use_local_subchannel_pool", 1)
        return grpc.aio.insecure_channel(self.target, options=[own, *options], **more)


@asynccontextmanager
async def serving(
    kind: type[Transport], methods: Methods, options: TransportOptions = DEFAULTS
) -> AsyncIterator[Serving]:
    """Serve for the length of a with-block."""
    transport = kind(methods, options)
    port = await transport.start("127.0.0.1", 0)
    try:
        yield Serving(transport, port)
    finally:
        async with asyncio.timeout(WAIT):
            await transport.close()


@contextmanager
def loop_in_a_thread() -> Iterator[asyncio.AbstractEventLoop]:
    """Run an event loop beside a test that blocks."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(WAIT)
        loop.close()


@contextmanager
def listening(transport: Transport) -> Iterator[tuple[int, Callable[[], None]]]:
    """Serve beside a test that blocks; yield the port, and what closes it before the end."""
    with loop_in_a_thread() as loop:

        def close() -> None:
            asyncio.run_coroutine_threadsafe(transport.close(), loop).result(WAIT)

        port = asyncio.run_coroutine_threadsafe(transport.start("127.0.0.1", 0), loop).result(WAIT)
        try:
            yield port, close
        finally:
            close()


@dataclass(frozen=True)
class End:
    """How a call ended."""

    code: grpc.StatusCode
    details: str
    trailers: tuple[tuple[str, str | bytes], ...] = ()


async def end_of(call: grpc.aio.Call) -> End:
    """Wait for a call's end, whatever it is."""
    async with asyncio.timeout(WAIT):
        code, details, trailers = await call.code(), await call.details(), await call.trailing_metadata()
        return End(code, details, tuple((key, value) for key, value in trailers or ()))


async def within_reason(awaitable: Awaitable[T]) -> T:
    """Await something that should not take long."""
    async with asyncio.timeout(WAIT):
        return await awaitable


async def eventually(condition: Callable[[], object], what: str) -> None:
    """Wait until the condition holds; fail, naming it, when it never does."""
    until = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < until, f"{what}: not within {WAIT:g} s"
        await asyncio.sleep(0.005)


async def settled(value: Callable[[], int], quiet: float = 0.3) -> int:
    """Wait until a number has not changed for `quiet` seconds and return it."""
    until = time.monotonic() + WAIT
    last, since = value(), time.monotonic()
    while time.monotonic() - since < quiet:
        assert time.monotonic() < until, f"still changing after {WAIT:g} s: {last}"
        await asyncio.sleep(0.01)
        if value() != last:
            last, since = value(), time.monotonic()
    return last


def echo(call: Call, message: bytes) -> None:
    """Answer with the message itself."""
    call.reply(message)


def frame(message: bytes, flags: int = 0) -> bytes:
    """Put gRPC's five bytes before a message."""
    return struct.pack(">BI", flags, len(message)) + message


class Raw:
    """An HTTP/2 client that sends what no gRPC client would; blocking, so call it through asyncio.to_thread."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=WAIT)
        self.http2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.events: list[h2.events.Event] = []
        self.http2.initiate_connection()
        self.flush()

    def open(self, path: str, extra: Iterable[tuple[str, str]] = (), *, end: bool = False) -> int:
        """Send the headers of a call and return its stream."""
        headers = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "localhost"}
        headers |= {"content-type": "application/grpc", "te": "trailers"} | dict(extra)
        stream = self.http2.get_next_available_stream_id()
        self.http2.send_headers(stream, list(headers.items()), end_stream=end)
        return stream

    def call(self, path: str, body: bytes, extra: Iterable[tuple[str, str]] = ()) -> int:
        """Send a whole call, body already framed, and return its stream."""
        stream = self.open(path, extra)
        for start in range(0, len(body), self.http2.max_outbound_frame_size):
            self.http2.send_data(stream, body[start : start + self.http2.max_outbound_frame_size])
        self.http2.end_stream(stream)
        self.flush()
        return stream

    def flush(self) -> None:
        """Put on the wire what was only queued so far."""
        self.socket.sendall(self.http2.data_to_send())

    def receive(self, enough: Callable[[Sequence[h2.events.Event]], bool], *, answer: bool = True) -> None:
        """Read until the events so far are enough, or the server has closed the connection.

        Args:
            enough: told everything that was received.
            answer: whether to acknowledge what HTTP/2 wants acknowledged; a server that hangs up would not hear it.
        """
        while not enough(self.events):
            data = self.socket.recv(65536)
            if not data:
                self.events.append(h2.events.ConnectionTerminated())
                return
            self.events += self.http2.receive_data(data)
            if answer:
                self.flush()

    def trailers(self, stream: int) -> dict[str, str]:
        """Wait for a call's end and return its trailers; `rst` alone when it was reset instead."""

        def last(events: Sequence[h2.events.Event]) -> bool:
            return any(self._ends(event, stream) for event in events)

        self.receive(last)
        found: dict[str, str] = {}
        for event in self.events:
            if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived) and event.stream_id == stream:
                found |= dict(event.headers)
            elif isinstance(event, h2.events.StreamReset) and event.stream_id == stream:
                found.setdefault("rst", str(int(event.error_code)))
        return found

    @staticmethod
    def _ends(event: h2.events.Event, stream: int) -> bool:
        kinds = h2.events.StreamEnded | h2.events.StreamReset
        return isinstance(event, h2.events.ConnectionTerminated) or (
            isinstance(event, kinds) and event.stream_id == stream
        )

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
