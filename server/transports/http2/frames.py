"""HTTP/2 frames as bytes (RFC 9113, sections 4 and 6): constants, and the few that a server writes.

Knows no connection and no gRPC.
"""

import struct
from collections.abc import Iterable
from enum import IntEnum

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITIZED = 0x1, 0x1, 0x4, 0x8, 0x20

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = (
    range(1, 7)
)

HEAD_SIZE = 9
PREFIX_SIZE = 5
"""Bytes that gRPC puts before each message."""
FRAME_LIMIT = 16384
"""Bytes of a frame's payload that every peer must take, and the most that we do: larger ones would only have to be kept
until they are complete."""
DEFAULT_WINDOW = 65535
MOST = (1 << 31) - 1
"""Largest stream number, and the most a window may be."""

read_head = struct.Struct(">IBI").unpack_from
"""(length << 8 | kind, flags, stream), at an offset."""
read_uint32 = struct.Struct(">I").unpack_from
_write_head = struct.Struct(">IBI").pack
_write_setting = struct.Struct(">HI").pack
read_settings = struct.Struct(">HI").iter_unpack


class ErrorCode(IntEnum):
    """RFC 9113, section 7."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


class ConnectionFault(Exception):
    """The peer broke a rule in a way that ends the connection: GOAWAY with this code and these words."""

    def __init__(self, code: ErrorCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Write a frame."""
    return _write_head(len(payload) << 8 | kind, flags, stream) + payload


def data_head(size: int, stream: int) -> bytes:
    """Write what stands before a piece of a message."""
    return _write_head(size << 8 | DATA, 0, stream)


def settings(values: Iterable[tuple[int, int]]) -> bytes:
    """Write SETTINGS."""
    return frame(SETTINGS, 0, 0, b"".join(_write_setting(*pair) for pair in values))


def goaway(last: int, code: ErrorCode, reason: str = "") -> bytes:
    """Write GOAWAY: no stream above `last` was or will be acted on."""
    return frame(GOAWAY, 0, 0, struct.pack(">II", last, code) + reason.encode()[:200])


def reset(stream: int, code: ErrorCode) -> bytes:
    """Write RST_STREAM."""
    return frame(RST_STREAM, 0, stream, struct.pack(">I", code))


def window_update(stream: int, increment: int) -> bytes:
    """Write WINDOW_UPDATE; stream 0 is the connection."""
    return frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", increment))


def unpadded(flags: int, payload: bytes) -> bytes:
    """Take the padding and the priority off a frame's payload.

    Raises:
        ConnectionFault: there is more padding than payload.
    """
    start, padding = 0, 0
    if flags & PADDED:
        start, padding = 1, payload[0] if payload else 0
    if flags & PRIORITIZED:
        start += 5
    if start + padding > len(payload) or (flags & PADDED and not payload):
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"expected at most {len(payload)} bytes of padding")
    return payload[start : len(payload) - padding]
