"""The headers of answers: how one begins, and the status that it ends with (gRPC over HTTP/2, "Responses").

Knows no connection.
"""

import re
from base64 import b64encode
from functools import lru_cache
from urllib.parse import quote

from server.transports.base import StatusError
from server.transports.failure import INTERNAL
from server.transports.http2.hpack import encode_plain
from server.transports.http2.messages import ENCODINGS

Headers = list[tuple[bytes, bytes]]

_NAME = re.compile(r"[0-9a-z_.-]+")
_VALUE = re.compile(r"[\x20-\x7e]*")
ACCEPTED = ",".join(ENCODINGS).encode()
BEGINNING: Headers = [
    (b":status", b"200"),
    (b"content-type", b"application/grpc"),
    (b"grpc-accept-encoding", ACCEPTED),
]
WELL: Headers = [(b"grpc-status", b"0")]


def ending(status: StatusError) -> bytes:
    """Return the header block of an answer that is only a status; INTERNAL's where it cannot be written."""
    return status_block(status, alone=True)


def status_block(status: StatusError, *, alone: bool) -> bytes:
    """Return the block of a status: trailers, or `alone` the only headers of the answer."""
    try:
        return _status_block(status.code, status.details, tuple(status.trailers), alone)
    except (TypeError, ValueError):
        return _status_block(INTERNAL.code, INTERNAL.details, (), alone)


@lru_cache(maxsize=512)
def _status_block(code: int, details: str, trailers: tuple[tuple[str, str | bytes], ...], alone: bool) -> bytes:  # noqa: FBT001
    fields = BEGINNING[:2] if alone else []
    fields = [*fields, (b"grpc-status", b"%d" % code)]
    if details:
        fields.append((b"grpc-message", quote(details, safe=_PRINTABLE, errors="replace").encode()))
    return encode_plain([*fields, *map(_trailer, trailers)])


_PRINTABLE = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")


def _trailer(pair: tuple[str, str | bytes]) -> tuple[bytes, bytes]:
    key, value = pair
    if not isinstance(key, str) or not _NAME.fullmatch(key):
        msg = f"expected a name in lower case, got {key!r}"
        raise ValueError(msg)
    if key.endswith("-bin"):
        return key.encode(), b64encode(value if isinstance(value, bytes) else value.encode()).rstrip(b"=")
    text = value.decode("ascii") if isinstance(value, bytes) else value
    if not _VALUE.fullmatch(text):
        msg = f"expected printable ASCII, got {value!r}"
        raise ValueError(msg)
    return key.encode(), text.encode()
