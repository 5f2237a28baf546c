"""HTTP/2 frames of numbers and bytes, so that wrong ones can be made as well; names as in RFC 9113."""

import struct
from collections.abc import Sequence

from h2.errors import ErrorCodes

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
NONE, END_STREAM, ACK, END_HEADERS, PADDED, WITH_PRIORITY = 0x0, 0x1, 0x1, 0x4, 0x8, 0x20
HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_STREAMS, INITIAL_WINDOW, MAX_FRAME, MAX_HEADER_LIST = range(1, 7)
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
WINDOW = 65535
"""What either side may send before the other has said anything about it."""
ECHO, CHAT, BIG, HOLD = "/t.S/Echo", "/t.S/Chat", "/t.S/Big", "/t.S/Hold"
OK, UNKNOWN, INVALID_ARGUMENT, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED = "0", "2", "3", "4", "8"
UNIMPLEMENTED, INTERNAL, UNAVAILABLE = "12", "13", "14"


def raw(kind: int, flags: int, stream: int, payload: bytes = b"", length: int | None = None) -> bytes:
    """Make a frame of anything; its length may be a lie."""
    return (
        struct.pack(">I", len(payload) if length is None else length)[1:]
        + bytes([kind, flags])
        + (struct.pack(">I", stream) + payload)
    )


def setting(*pairs: tuple[int, int]) -> bytes:
    """Make a SETTINGS frame."""
    return raw(SETTINGS, NONE, 0, b"".join(struct.pack(">HI", *pair) for pair in pairs))


def update(stream: int, increment: int) -> bytes:
    """Make a WINDOW_UPDATE that nobody accounts for; `Peer.grant` is the honest one."""
    return raw(WINDOW_UPDATE, NONE, stream, struct.pack(">I", increment))


def reset(stream: int, code: int = ErrorCodes.CANCEL) -> bytes:
    """Make an RST_STREAM."""
    return raw(RST_STREAM, NONE, stream, struct.pack(">I", code))


def data(stream: int, body: bytes, flags: int = END_STREAM, chunk: int = 16384) -> bytes:
    """Make the DATA frames of a body; the flags are the last one's."""
    parts = [body[start : start + chunk] for start in range(0, len(body), chunk)] or [b""]
    return b"".join(raw(DATA, NONE, stream, part) for part in parts[:-1]) + raw(DATA, flags, stream, parts[-1])


def request(path: str = ECHO, *extra: tuple[str, str], without: Sequence[str] = (), **changed: str):
    """List the header fields of a call: pseudo-header `:x` is changed by `x=`, header `a-b` by `a_b=`."""
    pseudo = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "localhost"}
    headers = {"content-type": "application/grpc", "te": "trailers"}
    for name, value in changed.items():
        found = pseudo if f":{name}" in pseudo else headers
        found[f":{name}" if found is pseudo else name.replace("_", "-")] = value
    return [(name, value) for name, value in [*pseudo.items(), *headers.items(), *extra] if name not in without]
