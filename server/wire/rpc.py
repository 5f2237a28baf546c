"""The frame around every rare RPC: authenticate, bound, parse, run, serialise, translate errors, report.

Handlers see messages and raise errors of our tree; they know nothing of bytes, metadata or status codes. The two
functions here are where an unforeseen error of such a handler stops.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from server.errors import TooLarge
from server.transports.base import Call, StatusCode, Stream, Streaming, Unary
from server.wire.auth import ANYBODY, Identity, Scope
from server.wire.gate import Gate
from server.wire.observer import Outcome
from server.wire.prescan import malformed
from server.wire.status import reason, status_error

MAX_MESSAGE_BYTES = 1 << 20
"""Of a rare RPC's request, which carries names; a model load with an override configuration is the largest."""

Request = TypeVar("Request", bound=Message)


def unary(
    gate: Gate, scope: Scope | None, kind: type[Request], handler: Callable[[Request], Awaitable[Message]]
) -> Unary:
    """Frame a unary handler; `scope` None lets anybody call."""
    return unary_as(gate, scope, kind, lambda request, _: handler(request))


def unary_as(
    gate: Gate,
    scope: Scope | None,
    kind: type[Request],
    handler: Callable[[Request, Identity], Awaitable[Message]],
    most: int = MAX_MESSAGE_BYTES,
) -> Unary:
    """Frame a unary handler that wants to know who calls, for messages of at most `most` bytes."""

    async def run(call: Call, data: bytes) -> bytes:
        started = time.monotonic()
        try:
            identity = ANYBODY if scope is None else gate.authenticator.check(call.metadata, scope)
            answer = await handler(parse(kind, data, most), identity)
            encoded = answer.SerializeToString()
        except Exception as error:
            status = status_error(error, call.method)
            _report(gate, call, started, status.code, reason(error))
            raise status from error
        _report(gate, call, started, StatusCode.OK, "")
        return encoded

    return Unary(run)


def streaming(gate: Gate, scope: Scope | None, handler: Callable[[Stream], Awaitable[None]]) -> Streaming:
    """Frame a streaming handler, which parses its own messages."""
    return streaming_as(gate, scope, lambda stream, _: handler(stream))


def streaming_as(gate: Gate, scope: Scope | None, handler: Callable[[Stream, Identity], Awaitable[None]]) -> Streaming:
    """Frame a streaming handler that wants to know who calls."""

    async def run(stream: Stream) -> None:
        started = time.monotonic()
        try:
            identity = ANYBODY if scope is None else gate.authenticator.check(stream.metadata, scope)
            await handler(stream, identity)
        except asyncio.CancelledError:
            _report(gate, stream, started, StatusCode.CANCELLED, "cancelled")
            raise
        except Exception as error:
            status = status_error(error, stream.method)
            _report(gate, stream, started, status.code, reason(error))
            raise status from error
        _report(gate, stream, started, StatusCode.OK, "")

    return Streaming(run)


def parse(kind: type[Request], data: bytes, most: int = MAX_MESSAGE_BYTES) -> Request:
    """Parse a message of a rare RPC.

    Raises:
        TooLarge: it is longer than `most` bytes.
        InvalidRequest: it is malformed.
    """
    if len(data) > most:
        raise TooLarge(f"expected a message of at most {most} bytes, got {len(data)}")
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise malformed() from error


def _report(gate: Gate, call: Call | Stream, started: float, code: StatusCode, why: str) -> None:
    gate.observer.finished(Outcome(call.method, code, time.monotonic() - started, call.peer, reason=why))
