"""gRPC's messages inside a stream of bytes: five bytes before each, and compression ("Length-Prefixed-Message").

Knows no HTTP/2.
"""

import zlib

from server.transports.base import StatusCode, StatusError, TransportOptions
from server.transports.http2.frames import read_uint32

PREFIX = 5
_WBITS = {"gzip": 31, "deflate": 15}
_MOST_PIECES, _SMALL = 64, 256
"""Pieces that a message may be kept in although they have fewer bytes than that on average."""
ENCODINGS = ("identity", *_WBITS)


class Held:
    """Bytes of messages, unfinished or unread, that a transport keeps; many callers must not fill the memory."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bytes = 0


class Assembler:
    """Puts one call's messages together from the pieces that arrive."""

    __slots__ = ("_encoding", "_have", "_held", "_limit", "_pieces", "_want")

    def __init__(self, encoding: str, limit: int, held: Held) -> None:
        """Begin.

        Args:
            encoding: the caller's grpc-encoding.
            limit: bytes a message may have, before and after decompression.
            held: what all calls keep.
        """
        self._encoding = encoding
        self._limit = limit
        self._held = held
        self._pieces: list[bytes] = []
        self._have = 0
        self._want = PREFIX

    @property
    def unfinished(self) -> int:
        """Bytes of a message that has not come to its end."""
        return self._have

    def feed(self, piece: bytes) -> list[bytes]:
        """Take a piece and return the messages it completes.

        Raises:
            StatusError: too large, or compressed in a way that is not understood.
        """
        self._pieces.append(piece)
        self._have += len(piece)
        self._held.bytes += len(piece)
        if self._have < self._want:
            if len(self._pieces) > _MOST_PIECES and self._have < _SMALL * len(self._pieces):
                self._pieces = [b"".join(self._pieces)]  # an object takes many times what is in it
            if self._held.bytes > self._held.limit:
                raise StatusError(StatusCode.RESOURCE_EXHAUSTED, "too many unfinished messages; try again later")
            return []
        pieces = self._pieces
        if self._have == self._want > PREFIX and len(pieces[0]) >= PREFIX and not pieces[0][0]:
            pieces[0] = pieces[0][PREFIX:]  # so that a large message is copied once less
            message = b"".join(pieces)
            self.close()
            return [message]
        data = b"".join(pieces)
        messages, at = [], 0
        while True:
            left = len(data) - at
            self._want = PREFIX + self._length(data, at) if left >= PREFIX else PREFIX
            if left < self._want:
                break
            messages.append(self._opened(data[at], data[at + PREFIX : at + self._want]))
            at += self._want
        self._held.bytes -= at
        self._have -= at
        self._pieces = [data[at:]] if at else [data]
        return messages

    def close(self) -> None:
        """Forget what was kept."""
        self._held.bytes -= self._have
        self._have, self._want = 0, PREFIX
        self._pieces = []

    def _length(self, data: bytes, at: int) -> int:
        length: int = read_uint32(data, at + 1)[0]
        if length > self._limit:
            words = f"expected a message of at most {self._limit} bytes, this one has {length}"
            raise StatusError(StatusCode.RESOURCE_EXHAUSTED, words)
        return length

    def _opened(self, flag: int, body: bytes) -> bytes:
        if not flag & 1:
            return body
        if self._encoding not in _WBITS:
            raise StatusError(
                StatusCode.INTERNAL, f"expected grpc-encoding to name gzip or deflate, it is {self._encoding!r:.64}"
            )
        return decompressed(body, self._encoding, self._limit)


def too_large(message: bytes, limits: TransportOptions) -> str:
    """Say what is wrong with an answer of ours."""
    return f"expected an answer of at most {limits.max_send_bytes} bytes, this one has {len(message)}"


def decompressed(body: bytes, encoding: str, limit: int) -> bytes:
    """Decompress a message, never holding more than `limit` bytes of it.

    Raises:
        StatusError: it becomes larger, or is damaged.
    """
    unpacker = zlib.decompressobj(wbits=_WBITS[encoding])
    try:
        message = unpacker.decompress(body, limit + 1)
    except zlib.error:
        raise StatusError(StatusCode.INTERNAL, f"expected a message compressed by {encoding}, it is damaged") from None
    if len(message) > limit:
        raise StatusError(
            StatusCode.RESOURCE_EXHAUSTED, f"expected at most {limit} bytes after decompression, there are more"
        )
    if not unpacker.eof:
        raise StatusError(StatusCode.INTERNAL, f"expected a message compressed by {encoding}, it is cut off")
    return message
