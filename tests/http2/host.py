"""Servers of our own transport in a thread, and the honest caller whom no test may disappoint."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self, TypeVar

import grpc

from server.transports.base import Call, Fast, Stream, Streaming, Transport, TransportOptions, Unary
from server.transports.http2.transport import Http2Transport
from tests.http2.frames import BIG, CHAT, ECHO, HOLD
from tests.http2.peer import Peer
from tests.transports import DEFAULTS, WAIT, echo

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
    """Answer with as many bytes as the message says."""
    call.reply(bytes(int(message)))


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
def hosted(options: TransportOptions = DEFAULTS, **methods: Fast | Unary | Streaming) -> Iterator[Host]:
    """Serve for the length of a with-block: the usual methods and `name=` under /t.S/name."""
    held = Held()
    usual = {ECHO: Fast(echo), CHAT: Streaming(chat), BIG: Fast(big), HOLD: Fast(held)}
    with Complaints() as complaints, _looping() as loop:
        transport = Http2Transport(usual | {f"/t.S/{name}": method for name, method in methods.items()}, options)
        port = asyncio.run_coroutine_threadsafe(transport.start("127.0.0.1", 0), loop).result(WAIT)
        with grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.use_local_subchannel_pool", 1)]) as honest:
            host = Host(transport, port, held, loop, honest, complaints)
            try:
                host.check()
                yield host
                host.check()
            finally:
                host.start(transport.close()).result(WAIT)


@contextmanager
def _looping() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(WAIT)
        loop.close()
