"""Proof, at start, that grpcio's private binding still does what the lean transport believes it does.

A real server on a loopback port answers a real client: metadata both ways, a deadline, a cancellation, an error with
trailers, a stream, a stop. It takes some 20 ms, on a thread of its own so that a binding that hangs is found out too.
"""

import asyncio
import queue
import threading

import grpc

from server.transports.base import Call, Fast, Methods, StatusCode, Stream, Streaming, TransportOptions
from server.transports.lean import LeanTransport

TIMEOUT = 3.0
"""Seconds until a check that has not ended counts as failed; far more than a busy machine needs."""


class SelfCheckFailed(Exception):
    """The binding answered differently from what was expected."""


def selfcheck() -> None:
    """Try everything the lean transport needs of the private binding.

    Raises:
        SelfCheckFailed: names what was expected and what came.
    """
    outcome: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()
    threading.Thread(target=_run, args=(outcome,), name="lean-selfcheck", daemon=True).start()
    try:
        error = outcome.get(timeout=2 * TIMEOUT)
    except queue.Empty:
        raise SelfCheckFailed(f"expected an end within {2 * TIMEOUT:g} s, it hangs") from None
    if error is not None:
        raise SelfCheckFailed(str(error) or type(error).__name__) from error


def _run(outcome: "queue.SimpleQueue[Exception | None]") -> None:
    try:
        asyncio.run(_check())
    except Exception as error:  # noqa: BLE001  whatever a changed binding does is an answer
        outcome.put(error)
    else:
        outcome.put(None)


async def _check() -> None:
    gone = threading.Event()

    def wait(call: Call, _: bytes) -> None:
        call.on_cancel(gone.set)

    methods: Methods = {"/check/Echo": Fast(_echo), "/check/Wait": Fast(wait), "/check/Chat": Streaming(_chat)}
    transport = LeanTransport(methods, TransportOptions(), patience=0.001)
    port = await transport.start("127.0.0.1", 0)
    try:
        # The blocking client, because grpc.aio's would tie itself to this short-lived loop for the process's life.
        await asyncio.to_thread(_call, port, gone)
    finally:
        await transport.drain(TIMEOUT)


def _echo(call: Call, message: bytes) -> None:
    left = call.time_remaining()
    if ("key", "value") not in call.metadata or left is None or not 0 < left < 2 * TIMEOUT:
        call.fail(StatusCode.ABORTED, f"metadata {call.metadata!r}, {left!r} s left")
    elif message == b"fail":
        call.fail(StatusCode.NOT_FOUND, "details", (("trailer", "value"),))
    else:
        call.reply(message)


async def _chat(stream: Stream) -> None:
    async for message in stream:
        await stream.send(message)


def _call(port: int, gone: threading.Event) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        left_alone = channel.unary_unary("/check/Wait", None, None).future(b"", timeout=TIMEOUT)
        echo = channel.unary_unary("/check/Echo", None, None)
        _expect("an answer", b"echo", echo(b"echo", timeout=TIMEOUT, metadata=(("key", "value"),)))
        failed = echo.future(b"fail", timeout=TIMEOUT, metadata=(("key", "value"),))
        end = (failed.code(), failed.details(), tuple(failed.trailing_metadata()))
        _expect("a failure", (grpc.StatusCode.NOT_FOUND, "details", (("trailer", "value"),)), end)
        answers = channel.stream_stream("/check/Chat", None, None)(iter((b"first", b"")), timeout=TIMEOUT)
        _expect("the streamed messages", [b"first", b""], list(answers))
        left_alone.cancel()  # type: ignore[no-untyped-call]
        if not gone.wait(TIMEOUT):
            raise SelfCheckFailed(f"expected word of a cancellation within {TIMEOUT:g} s, got none")


def _expect(what: str, expected: object, came: object) -> None:
    if came != expected:
        raise SelfCheckFailed(f"expected {what} to be {expected!r}, got {came!r}")
