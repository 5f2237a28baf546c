"""The frame around every rare RPC: authenticate, bound, parse, run, serialise, translate errors, report.

Handlers see messages and raise errors of our tree; they know nothing of bytes, metadata or status codes. The two
functions here are where an unforeseen error of such a handler stops.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from server.errors import TooLarge
from server.traceparent import given
from server.transports.base import Call, StatusCode, Stream, Streaming, Unary
from server.wire.auth import Scope
from server.wire.gate import Gate
from server.wire.observer import Outcome
from server.wire.prescan import malformed
from server.wire.status import reason, status_error

MAX_MESSAGE_BYTES = 1 << 20
"""Of a rare RPC's request, which carries names; a model load with an override configuration is the largest."""

Request = TypeVar("Request", bound=Message)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, "" for anybody, and the trace that what is done for the call belongs to, "" for none."""

    name: str = ""
    traceparent: str = ""


def unary(
    gate: Gate, scope: Scope | None, kind: type[Request], handler: Callable[[Request], Awaitable[Message]]
) -> Unary:
    """Frame a unary handler; `scope` None lets anybody call."""
    return unary_as(gate, scope, kind, lambda request, _: handler(request))


def unary_as(
    gate: Gate,
    scope: Scope | None,
    kind: type[Request],
    handler: Callable[[Request, Caller], Awaitable[Message]],
    most: int = MAX_MESSAGE_BYTES,
) -> Unary:
    """Frame a unary handler that wants to know who calls, for messages of at most `most` bytes."""

    async def run(call: Call, data: bytes) -> bytes:
        report = _Report(gate, call)
        try:
            caller = _caller(gate, scope, call, report)
            answer = await handler(parse(kind, data, most), caller)
            encoded = answer.SerializeToString()
        except Exception as error:
            status = status_error(error, call.method)
            report.end(status.code, reason(error))
            raise status from error
        report.end(StatusCode.OK, "")
        return encoded

    return Unary(run)


def streaming(gate: Gate, scope: Scope | None, handler: Callable[[Stream], Awaitable[None]]) -> Streaming:
    """Frame a streaming handler, which parses its own messages."""
    return streaming_as(gate, scope, lambda stream, _: handler(stream))


def streaming_as(gate: Gate, scope: Scope | None, handler: Callable[[Stream, Caller], Awaitable[None]]) -> Streaming:
    """Frame a streaming handler that wants to know who calls."""

    async def run(stream: Stream) -> None:
        report = _Report(gate, stream)
        try:
            caller = _caller(gate, scope, stream, report)
            await handler(stream, caller)
        except asyncio.CancelledError:
            report.end(StatusCode.CANCELLED, "cancelled")
            raise
        except Exception as error:
            status = status_error(error, stream.method)
            report.end(status.code, reason(error))
            raise status from error
        report.end(StatusCode.OK, "")

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


def _caller(gate: Gate, scope: Scope | None, call: Call | Stream, report: "_Report") -> Caller:
    name = "" if scope is None else gate.authenticator.check(call.metadata, scope).name
    return Caller(name, report.traceparent)


class _Report:
    """What the observer will hear of one call."""

    def __init__(self, gate: Gate, call: Call | Stream) -> None:
        begin_trace = gate.begin_trace or given
        self.traceparent = begin_trace(call.metadata)
        self._gate = gate
        self._call = call
        self._started = time.monotonic()

    def end(self, code: StatusCode, why: str) -> None:
        """Report how the call ended."""
        call, seconds = self._call, time.monotonic() - self._started
        self._gate.observer.finished(
            Outcome(
                call.method, code, seconds, call.peer,
                reason=why, metadata=call.metadata, traceparent=self.traceparent,
            )
        )  # fmt: skip
