"""Reads the frames that come back, answers by the dozen.

Answers of one server look alike but for the stream's number and the message. So what an answer's frames look like is
learnt from the first ones, and whole runs of such are found by one regular expression: 0.3 us an answer, where a look
at each of its frames takes 2. The peer was told to keep no header table (SETTINGS_HEADER_TABLE_SIZE 0), so that a block
of trailers means something by itself (RFC 7541, section 4.2). Knows no socket and no clock.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from server.transports.http2.frames import DATA, END_HEADERS, END_STREAM, HEAD_SIZE, HEADERS, read_head, read_uint32
from server.transports.http2.hpack import HeaderDecoder

INTERNAL = 13
_ENDED = END_HEADERS | END_STREAM
_REMEMBERED = 4096
"""Blocks of trailers whose status is kept."""
_FORMS = 8

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
        self.messages: dict[int, bytes] | None = None
        """Stream -> what came of its message, where that is of interest."""
        self._rare = rare
        self._rest = b""
        self._forms: list[_Form] = []
        self._decoder = HeaderDecoder()
        self._statuses: dict[bytes, int] = {}

    def read(self, chunk: bytes) -> None:
        """Take what has come. Raises ConnectionError for what this reader does not understand."""
        data, at = self._rest + chunk if self._rest else chunk, 0
        while True:
            if self._forms and self.messages is None:
                at = self._runs(data, at)
            if len(data) - at < HEAD_SIZE:
                break
            word, flags, stream = read_head(data, at)
            body = at + HEAD_SIZE
            after = body + (word >> 8)
            if after > len(data):
                break
            self._frame(word & 0xFF, flags, stream, data, at, data[body:after])
            at = after
        self._rest = data[at:]

    def end(self, stream: int, status: int) -> None:
        """Note that a stream ended otherwise than by an answer."""
        self.heard.append((status, [stream.to_bytes(4, "big")]))

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

    def _frame(self, kind: int, flags: int, stream: int, data: bytes, at: int, payload: bytes) -> None:
        if kind == DATA:
            self.taken += len(payload)
            if self.messages is not None:
                self.messages[stream] = self.messages.get(stream, b"") + payload
        elif kind == HEADERS and flags == END_HEADERS:  # what stands before a message says nothing
            self._learn(data, at)
        elif kind == HEADERS and flags == _ENDED:
            known = payload in self._statuses
            status = self._statuses[payload] if known else self._status(payload)
            self.heard.append((status, [data[at + 5 : at + HEAD_SIZE]]))
            if known:
                self._learn(data, at)
        else:
            self._rare(kind, flags, stream, payload)

    def _status(self, block: bytes) -> int:
        status = int(dict(self._decoder.decode(block)).get(b"grpc-status", b"%d" % INTERNAL))
        if len(self._statuses) < _REMEMBERED:
            self._statuses[block] = status
        return status

    def _learn(self, data: bytes, at: int) -> None:
        """Remember the form of the answer that begins here, if all of it is here and its status is known."""
        if len(self._forms) >= _FORMS:
            return
        parts: list[bytes] = []
        size, stream = 0, data[at + 5 : at + HEAD_SIZE]
        while len(data) - at >= HEAD_SIZE and data[at + 5 : at + HEAD_SIZE] == stream:
            word, flags, _ = read_head(data, at)
            body, kind = at + HEAD_SIZE, word & 0xFF
            at = body + (word >> 8)
            parts.append(re.escape(data[body - HEAD_SIZE : body - 4]) + (rb"\1" if parts else b"(.{4})"))
            if kind == DATA:
                size += at - body
                parts.append(b".{%d}" % (at - body))
            elif kind == HEADERS and flags in (END_HEADERS, _ENDED):
                parts.append(re.escape(data[body:at]))
            else:
                return
            if flags & END_STREAM:
                status = self._statuses.get(data[body:at])
                if kind == HEADERS and status is not None:
                    form = b"".join(parts)
                    run = re.compile(b"(?:" + form + b")++", re.DOTALL)
                    self._forms.append(_Form(run, re.compile(form, re.DOTALL), status, size))
                return


def number(stream: bytes) -> int:
    """Return a stream's number."""
    return int(read_uint32(stream)[0])
