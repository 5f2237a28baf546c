"""Servers of our own transport in a thread, and the honest caller whom no test may disappoint."""

import asyncio
import contextlib
import fcntl
import logging
import sys
import termios
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self, TypeVar

import grpc

from server.transports.base import Call, Fast, StatusCode, Stream, Streaming, Transport, TransportOptions, Unary
from server.transports.http2.transport import Http2Transport
from tests.http2.frames import BIG, CHAT, ECHO, HOLD
from tests.http2.peer import Peer
from tests.transports import DEFAULTS, WAIT, echo, loop_in_a_thread

T = TypeVar("T")


class Complaints(logging.Handler):
    """Collects what the server logs as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(logging.Formatter().format(record))

    def __enter__(self) -> Self:
        logging.getLogger("sluice").addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("sluice").removeHandler(self)


class Held:
    """A fast method whose calls are answered by the test, or not at all."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.gone: list[Call] = []

    def __call__(self, call: Call, message: bytes) -> None:
        call.on_cancel(lambda: self.gone.append(call))
        self.calls.append(call)


async def chat(stream: Stream) -> None:
    """Answer every message with itself."""
    async for message in stream:
        await stream.send(message)


def big(call: Call, message: bytes) -> None:
    """Answer with as many bytes as the message says, below ten millions."""
    if message.isdigit():
        call.reply(bytes(int(message[:7])))
    else:
        call.fail(StatusCode.INVALID_ARGUMENT, "expected a number")


def wait_for(condition: Callable[[], object], what: str) -> None:
    """Wait until the condition holds; fail, naming it, when it never does."""
    until = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < until, f"{what}: not within {WAIT:g} s"
        time.sleep(0.005)


@dataclass
class Host:
    """A server in a thread, with an honest caller who has been there all the time."""

    transport: Transport
    port: int
    held: Held
    _loop: asyncio.AbstractEventLoop
    _honest: grpc.Channel
    _complaints: Complaints

    def connect(self, *settings: tuple[int, int], **more: object) -> Peer:
        return Peer(self.port, *settings, **more)

    def start(self, coroutine: Coroutine[object, object, T]) -> Future[T]:
        """Do something on the server's event loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def check(self) -> None:
        """Fail unless the honest caller is served and the server has nothing to complain of."""
        honest = self._honest.unary_unary(ECHO)
        assert honest(b"honest", timeout=WAIT, wait_for_ready=True) == b"honest"
        assert self._complaints.found == []

    def taken(self, peer: Peer) -> None:
        """Wait until the server has read everything that was sent; on this machine, sent is arrived."""
        until = time.monotonic() + WAIT
        while self._unread(peer.socket.getsockname()):
            assert time.monotonic() < until, "the server does not read"
            time.sleep(0)

    def _unread(self, name: object) -> int:
        """Return how much of what a socket of this name has sent waits in the kernel; 1 for one not accepted yet."""
        for caller in list(self.transport._loop._callers):
            with contextlib.suppress(OSError):  # closed just now
                if caller.socket.getpeername() == name:
                    return int.from_bytes(fcntl.ioctl(caller.socket, termios.FIONREAD, bytes(4)), sys.byteorder)
        return 1

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Let the honest caller call all the time, and fail unless it is served all the time."""
        served, enough = [0], threading.Event()

        def call_on_and_on() -> None:
            while not enough.is_set():
                self.check()
                served[0] += 1

        with ThreadPoolExecutor(1) as pool:
            calling = pool.submit(call_on_and_on)
            try:
                yield
                before = served[0]
                wait_for(lambda: served[0] > before + 5 or calling.done(), "the honest caller to be served on")
            finally:
                enough.set()
            calling.result()


@contextmanager
def hosted(
    options: TransportOptions = DEFAULTS,
    *,
    gone: bool = False,
    trust: bytes | None = None,
    **methods: Fast | Unary | Streaming,
) -> Iterator[Host]:
    """Serve for the length of a with-block.

    Args:
        options: the transport's.
        gone: whether the test may end it itself.
        trust: certificate of the authority when the options have TLS.
        methods: under /t.S/name, besides the usual ones.
    """
    held = Held()
    usual = {ECHO: Fast(echo), CHAT: Streaming(chat), BIG: Fast(big), HOLD: Fast(held)}
    with Complaints() as complaints, loop_in_a_thread() as loop:
        transport = Http2Transport(usual | {f"/t.S/{name}": method for name, method in methods.items()}, options)
        port = asyncio.run_coroutine_threadsafe(transport.start("127.0.0.1", 0), loop).result(WAIT)
        with _channel(port, trust) as honest:
            host = Host(transport, port, held, loop, honest, complaints)
            try:
                host.check()
                yield host
                if not gone:
                    host.check()
                assert complaints.found == []
            finally:
                host.start(transport.close()).result(WAIT)


def _channel(port: int, trust: bytes | None) -> grpc.Channel:
    own = [("grpc.use_local_subchannel_pool", 1)]
    if trust is None:
        return grpc.insecure_channel(f"127.0.0.1:{port}", own)
    return grpc.secure_channel(f"127.0.0.1:{port}", grpc.ssl_channel_credentials(trust), own)
