"""Reads the frames that come back, answers by the dozen.

Answers of one server look alike but for the stream's number and the message. So what an answer's frames look like is
learnt from the first ones, and whole runs of such are found by one regular expression: 0.3 us an answer, where a look
at each of its frames takes 2. The peer was told to keep no header table (SETTINGS_HEADER_TABLE_SIZE 0), so that a block
of trailers means something by itself (RFC 7541, section 4.2). Knows no socket and no clock.
"""

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass

from server.transports.http2.frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEAD_SIZE,
    HEADERS,
    PADDED,
    ConnectionFault,
    read_head,
    read_uint32,
    unpadded,
)
from server.transports.http2.hpack import HeaderDecoder, HeaderError

INTERNAL = 13
_ENDED = END_HEADERS | END_STREAM
_REMEMBERED = 4096
"""Blocks of trailers whose status is kept."""
_FORMS = 8
_STATUS = re.compile(rb"\x0bgrpc-status[\x01\x02](\d{1,2})")
"""The status as an uncompressed field (RFC 7541, section 6.2)."""

Rare = Callable[[int, int, int, bytes], None]
"""Takes kind, flags, stream and payload of a frame that is not an answer's."""


@dataclass(frozen=True, slots=True)
class _Form:
    """Frames of an answer that come again and again."""

    run: "re.Pattern[bytes]"
    one: "re.Pattern[bytes]"
    """Its group is the stream."""
    status: int
    data: int
    """Bytes of data in it, as windows count them."""


class Answers:
    """Belongs to one connection."""

    def __init__(self, rare: Rare) -> None:
        self.heard: list[tuple[int, list[bytes]]] = []
        """Status codes, each with the streams that ended so, as four bytes."""
        self.taken = 0
        """Bytes of data since somebody last asked."""
        self.messages: dict[int, bytearray] | None = None
        """Stream -> what came of its message, where that is of interest; then no forms are learnt."""
        self._rare = rare
        self._rest = b""
        self._forms: list[_Form] = []
        self._statuses: dict[bytes, int] = {}

    def read(self, chunk: bytes) -> None:
        """Take what has come. Raises ConnectionError for what this reader does not understand."""
        data = self._rest + chunk if self._rest else chunk
        try:
            self._rest = data[self._frames(data) :]
        except (HeaderError, ConnectionFault, ValueError, struct.error) as error:
            raise ConnectionError(f"the server sent what cannot be read: {error}") from error

    def end(self, stream: int, status: int) -> None:
        """Note that a stream ended otherwise than by an answer."""
        self.heard.append((status, [stream.to_bytes(4, "big")]))

    def _frames(self, data: bytes) -> int:
        """Take all frames that are complete; return where they end."""
        at = 0
        while True:
            if self._forms:
                at = self._runs(data, at)
            if len(data) - at < HEAD_SIZE:
                return at
            word, flags, stream = read_head(data, at)
            body = at + HEAD_SIZE
            after = body + (word >> 8)
            if after > len(data):
                return at
            kind = word & 0xFF
            if kind != HEADERS or not self._learn(data, at):  # what is learnt is taken by the next look at `_runs`
                self._frame(kind, flags, stream, data[body:after])
                at = after

    def _runs(self, data: bytes, at: int) -> int:
        """Take all answers of known forms that stand here; return where they end."""
        found = True
        while found:
            found = False
            for form in self._forms:
                run = form.run.match(data, at)
                if run is not None:
                    streams = form.one.findall(data, at, run.end())
                    self.heard.append((form.status, streams))
                    self.taken += form.data * len(streams)
                    at, found = run.end(), True
        return at

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == DATA:
            self.taken += len(payload)
            if self.messages is not None:
                self.messages.setdefault(stream, bytearray()).extend(unpadded(flags & PADDED, payload))
            if flags & END_STREAM:  # where trailers were due
                self.end(stream, INTERNAL)
        elif kind == HEADERS and flags == _ENDED:
            known = self._statuses.get(payload)
            self.end(stream, self._status(payload) if known is None else known)
        elif kind != HEADERS or flags != END_HEADERS:  # what stands before a message says nothing
            self._rare(kind, flags, stream, payload)

    def _status(self, block: bytes) -> int:
        fields = HeaderDecoder(table_size=0).decode(block)  # a new one: no block may stand on another
        status = int(dict(fields).get(b"grpc-status", INTERNAL))
        if len(self._statuses) < _REMEMBERED:
            self._statuses[block] = status
        return status

    def _learn(self, data: bytes, at: int) -> bool:
        """Remember the form of the answer that begins here, if all of it is here and its status is known."""
        if len(self._forms) >= _FORMS or self.messages is not None:
            return False
        parts: list[bytes] = []
        size, stream = 0, data[at + 5 : at + HEAD_SIZE]
        while len(data) - at >= HEAD_SIZE and data[at + 5 : at + HEAD_SIZE] == stream:
            word, flags, _ = read_head(data, at)
            body, kind = at + HEAD_SIZE, word & 0xFF
            at = body + (word >> 8)
            parts.append(re.escape(data[body - HEAD_SIZE : body - 4]) + (rb"(?:\1)" if parts else b"(.{4})"))
            if at > len(data):  # the part of a block that is here may itself be a block that is known
                return False
            if kind == DATA:
                size += at - body
                parts.append(b".{%d}" % (at - body))
            elif kind == HEADERS and flags in (END_HEADERS, _ENDED):
                parts.append(self._form_of(data[body:at]))
            else:
                return False
            if flags & END_STREAM:
                status = self._statuses.get(data[body:at]) if kind == HEADERS else None
                return status is not None and self._keep(b"".join(parts), status, size)
        return False

    def _form_of(self, block: bytes) -> bytes:
        """Return what matches a block: of trailers whose status stands there in plain text, what is behind it may vary.

        Refusals differ in their words, which say how much time would have been needed.
        """
        status, found = self._statuses.get(block), _STATUS.search(block)
        if found is None or status is None or int(found[1]) != status:
            return re.escape(block)
        return re.escape(block[: found.end()]) + b".{%d}" % (len(block) - found.end())

    def _keep(self, form: bytes, status: int, size: int) -> bool:
        run = re.compile(b"(?:" + form + b")++", re.DOTALL)
        self._forms.append(_Form(run, re.compile(form, re.DOTALL), status, size))
        return True


def number(stream: bytes) -> int:
    """Return a stream's number."""
    return int(read_uint32(stream)[0])
