"""One call as the bytes that every repetition of it shares (RFC 9113, RFC 7541). Knows no socket."""

import struct
from collections.abc import Sequence

from server.transports.http2.frames import DATA, END_HEADERS, END_STREAM, HEADERS, frame
from server.transports.http2.hpack import FIELD_OVERHEAD, encode_indexed, encode_plain, integer

_FIRST_DYNAMIC = 62
_TIMEOUT = b"grpc-timeout"
_TABLE = 4000
"""Bytes of the peer's table that are the headers'; the timeout takes a few more."""
_NO_TABLE = b"\x20"
"""The table's new size, 0; saying so again in each block does no harm."""
_pack_stream = struct.Struct(">I").pack

Headers = Sequence[tuple[bytes, bytes]]


class Template:
    """Writes a call's frames for one connection."""

    def __init__(self, headers: Headers, message: bytes) -> None:
        self.message = struct.pack(">BI", 0, len(message)) + message
        self._headers = list(headers)
        self._known = b""
        """The headers' block in each call but the first."""
        self._timeout = b""
        """What goes before a timeout's length."""
        self._frame_limit = 0
        self._around: dict[int, tuple[bytes, bytes]] = {}
        """By the milliseconds that are left: what stands before the stream's number, and between that and the next."""

    def begin(self, frame_limit: int, *, table: bool) -> None:
        """Hear how large a frame the peer takes, and whether it keeps a table of headers."""
        self._frame_limit = frame_limit
        size = sum(len(name) + len(value) + FIELD_OVERHEAD for name, value in self._headers)
        if not table or size > _TABLE:
            self._around.clear()
            self._known = _NO_TABLE + encode_plain(self._headers)
            self._timeout = encode_plain([(_TIMEOUT, b"")])[:-1]

    def head(self, stream: int, left: int) -> bytes:
        """Return what goes before the message of a call with so many milliseconds left."""
        block = self._block(left) if self._known else self._teach(left)
        return frame(HEADERS, END_HEADERS, stream, block)

    def write(self, first: int, calls: int, left: int) -> list[bytes]:
        """Return the frames of calls with so many milliseconds left, in pieces, on streams from the first one on."""
        streams = range(first, first + 2 * calls, 2)
        if len(self.message) > self._frame_limit:
            return [piece for stream in streams for piece in (self.head(stream, left), *self._cut(stream))]
        if not self._known:
            taught = [self.head(first, left), *self._cut(first)]
            return taught + self.write(first + 2, calls - 1, left)
        before, between = self._around.get(left) or self._learn(left)
        numbers = [_pack_stream(stream) for stream in streams]
        pieces = [before, b"", between, b"", self.message] * calls
        pieces[1::5] = pieces[3::5] = numbers
        return pieces

    def _learn(self, left: int) -> tuple[bytes, bytes]:
        head = frame(HEADERS, END_HEADERS, 0, self._block(left))
        around = self._around[left] = head[:5], head[9:] + frame(DATA, END_STREAM, 0, self.message)[:5]
        return around

    def _block(self, left: int) -> bytes:
        value = b"%dm" % left
        return self._known + self._timeout + integer(len(value), 7, 0) + value

    def _teach(self, left: int) -> bytes:
        """Return the block that fills the peer's table, which is never changed again; the timeout enters it last."""
        fields = [encode_indexed([field]) for field in self._headers]
        place = _FIRST_DYNAMIC + sum(len(field) > 1 for field in fields)  # the first one to enter is the last in it
        known = b""
        for field in fields:
            if len(field) > 1:
                known += integer(place, 7, 0x80)
                place -= 1
            else:  # in the static table
                known += field
        self._known, self._timeout = known, integer(_FIRST_DYNAMIC, 4, 0)
        return encode_indexed([*self._headers, (_TIMEOUT, b"%dm" % left)])

    def _cut(self, stream: int) -> list[bytes]:
        message, limit = self.message, self._frame_limit
        pieces = [frame(DATA, 0, stream, message[at : at + limit]) for at in range(0, len(message) - limit, limit)]
        return [*pieces, frame(DATA, END_STREAM, stream, message[len(pieces) * limit :])]
