"""The frames that carry no call: SETTINGS, PING, WINDOW_UPDATE, RST_STREAM and the like (RFC 9113, section 6)."""

import struct
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from server.transports.http2.frames import (
    ACK,
    ENABLE_PUSH,
    GOAWAY,
    HEADER_TABLE_SIZE,
    INITIAL_WINDOW_SIZE,
    MAX_FRAME_SIZE,
    MOST,
    PING,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    ConnectionFault,
    ErrorCode,
    frame,
    read_settings,
    read_uint32,
)

if TYPE_CHECKING:
    from server.transports.http2.connection import Connection

KEEPALIVE = b"alive?\0\0"
DRAIN = b"drained?"
"""What our own pings say."""
_MOST_STRIKES = 2


class Pings:
    """How often a caller may ask whether we are there: keepalive of gRPC's proposal A8, with its two strikes."""

    def __init__(self, interval: float) -> None:
        """Begin.

        Args:
            interval: seconds that must be between two pings while nothing is said.
        """
        self._interval = interval
        self._last = float("-inf")
        self._strikes = 0

    def heard(self, *, spoken: bool) -> None:
        """Count a ping.

        Args:
            spoken: whether we have sent anything of a call since the last one.

        Raises:
            ConnectionFault: there were too many.
        """
        now = time.monotonic()
        if spoken:
            self._strikes = 0
        elif now - self._last < self._interval:
            self._strikes += 1
        self._last = now
        if self._strikes > _MOST_STRIKES:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too_many_pings")


def act(connection: "Connection", kind: int, flags: int, number: int, payload: bytes) -> None:
    """Act on such a frame; those of unknown kinds mean nothing.

    Raises:
        ConnectionFault: it breaks a rule.
    """
    action = _ACTIONS.get(kind)
    if action is None:
        connection.idle()
    else:
        action(connection, flags, number, payload)


def _settings(connection: "Connection", flags: int, number: int, payload: bytes) -> None:
    _on_connection(number)
    if flags & ACK:
        _sized(payload, 0)
        return
    if len(payload) % 6:
        raise ConnectionFault(
            ErrorCode.FRAME_SIZE_ERROR, f"expected settings of 6 bytes each, got {len(payload)} bytes"
        )
    connection.greeted = True
    connection.idle()
    last: dict[int, int] = {}
    for name, value in read_settings(payload):
        _check(name, value)
        last[name] = min(value, last.get(name, value)) if name == HEADER_TABLE_SIZE else value
    for name, value in last.items():  # what a frame says of a setting before it says something else has no effect
        _set(connection, name, value)
    connection.outgoing.write(frame(SETTINGS, ACK, 0))


def _check(name: int, value: int) -> None:
    if name == ENABLE_PUSH and value > 1:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"expected ENABLE_PUSH to be 0 or 1, got {value}")
    if name == INITIAL_WINDOW_SIZE and value > MOST:
        raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, f"expected a window of at most {MOST}, got {value}")
    if name == MAX_FRAME_SIZE and not 1 << 14 <= value < 1 << 24:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"expected a frame size of 2^14 to 2^24-1, got {value}")


def _set(connection: "Connection", name: int, value: int) -> None:
    if name == HEADER_TABLE_SIZE:
        connection.outgoing.limit_table(value)
    elif name == INITIAL_WINDOW_SIZE:
        connection.outgoing.resize(value)
    elif name == MAX_FRAME_SIZE:
        connection.outgoing.limit_frames(value)


def _ping(connection: "Connection", flags: int, number: int, payload: bytes) -> None:
    _on_connection(number)
    _sized(payload, 8)
    if flags & ACK:
        if payload == DRAIN:
            connection.drained()
        return
    connection.pings.heard(spoken=connection.outgoing.spoken)
    connection.outgoing.spoken = False
    connection.outgoing.write(frame(PING, ACK, 0, payload))


def _window_update(connection: "Connection", _: int, number: int, payload: bytes) -> None:
    _sized(payload, 4)
    increment = read_uint32(payload)[0] & MOST
    if number and number not in connection.streams:
        _not_idle(connection, number)
    elif not increment:
        _broken(connection, number, ErrorCode.PROTOCOL_ERROR, "expected a window to grow, got 0")
    elif not connection.outgoing.grant(number, increment):
        _broken(connection, number, ErrorCode.FLOW_CONTROL_ERROR, f"expected a window of at most {MOST}")


def _broken(connection: "Connection", number: int, code: ErrorCode, words: str) -> None:
    if not number:
        raise ConnectionFault(code, words)
    connection.break_off(number, code)


def _rst_stream(connection: "Connection", _: int, number: int, payload: bytes) -> None:
    _sized(payload, 4)
    _not_idle(connection, number)
    connection.reset_by_caller(number)


def _priority(connection: "Connection", _: int, number: int, payload: bytes) -> None:
    if not number:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "expected PRIORITY on a stream, got stream 0")
    connection.idle()
    _sized(payload, 5)


def _push_promise(_: "Connection", __: int, ___: int, ____: bytes) -> None:
    raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "expected no PUSH_PROMISE from a client")


def _goaway(_: "Connection", __: int, number: int, payload: bytes) -> None:
    """Nothing to do: we open no streams, and the caller's end as they would have."""
    _on_connection(number)
    if len(payload) < struct.calcsize(">II"):
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"expected GOAWAY of 8 bytes or more, got {len(payload)}")


def _on_connection(number: int) -> None:
    if number:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"expected stream 0, got {number}")


def _not_idle(connection: "Connection", number: int) -> None:
    if not number or number > connection.last:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"expected a stream that was opened, got {number}")


def _sized(payload: bytes, size: int) -> None:
    if len(payload) != size:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"expected {size} bytes, got {len(payload)}")


_ACTIONS: dict[int, Callable[["Connection", int, int, bytes], None]] = {
    PRIORITY: _priority,
    RST_STREAM: _rst_stream,
    SETTINGS: _settings,
    PUSH_PROMISE: _push_promise,
    PING: _ping,
    GOAWAY: _goaway,
    WINDOW_UPDATE: _window_update,
}
