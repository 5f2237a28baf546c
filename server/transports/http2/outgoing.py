"""What leaves a connection: frames, within the windows that the peer grants (RFC 9113, section 5.2).

Small answers are written at once. What does not fit into the windows, or follows more than the socket takes, waits here
and is sent a frame of each stream in turn. Knows no socket; belongs to the transport's thread.
"""

import struct
from collections import deque
from collections.abc import Callable

from server.transports.http2.alike import repeated
from server.transports.http2.endings import BEGINNING, WELL
from server.transports.http2.frames import (
    CONTINUATION,
    DATA,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    FRAME_LIMIT,
    HEAD_SIZE,
    HEADERS,
    MOST,
    ConnectionFault,
    ErrorCode,
    data_head,
    frame,
)
from server.transports.http2.hpack import encode_indexed, encode_plain, integer

FULL = 256 << 10
"""Bytes on their way to the socket from which on nothing that can wait is added."""
_TABLE_SIZE = 4096
"""The peer's dynamic table, until it says otherwise (RFC 7541, section 4.2)."""
_EMPTY_TABLE = b"\x20"
"""Before a header block: the table is not used any more."""
_FIRST_DYNAMIC = 62

Done = Callable[[bool], None]
"""Told whether what was to be sent has been handed on."""


class _Answers:
    """How an answer that fits one frame is written, with one packing before the message and one behind it."""

    def __init__(self, beginning: bytes, end: bytes) -> None:
        self.beginning, self.end = beginning, end
        self._before = _headers_prefix(beginning, END_HEADERS), beginning
        self._behind = _headers_prefix(end, END_HEADERS | END_STREAM), end
        self._pack_before = struct.Struct(f">5sI{len(beginning)}sIBIBI").pack
        self._pack_behind = struct.Struct(f">5sI{len(end)}s").pack

    def write(self, stream: int, message: bytes) -> bytes:
        size = len(message)
        prefix, beginning = self._before
        ending, end = self._behind
        return (
            self._pack_before(prefix, stream, beginning, (size + 5) << 8 | DATA, 0, stream, 0, size)
            + message
            + self._pack_behind(ending, stream, end)
        )


def _headers_prefix(block: bytes, flags: int) -> bytes:
    return frame(HEADERS, flags, 0, block)[:5]


def _indexed() -> _Answers:
    """Return the form in which the peer finds everything in its table; what `_FIRST` has put there, last one first."""
    places = len(BEGINNING) - 1 + len(WELL)  # :status 200 has a place of its own
    beginning = b"\x88" + b"".join(integer(_FIRST_DYNAMIC + places - 1 - n, 7, 0x80) for n in range(len(BEGINNING) - 1))
    return _Answers(beginning, integer(_FIRST_DYNAMIC, 7, 0x80))


_PLAIN = _Answers(encode_plain(BEGINNING), encode_plain(WELL))
_FIRST = _Answers(encode_indexed(BEGINNING), encode_indexed(WELL))
_LATER = _indexed()


class _Line:
    """What waits on one stream: messages in order, and perhaps the trailers."""

    __slots__ = ("end", "parts")

    def __init__(self) -> None:
        self.parts: deque[tuple[memoryview, Done | None]] = deque()
        self.end: bytes | None = None


class Outgoing:
    """Everything that one connection has to say."""

    def __init__(self, ended: Callable[[int], None], begun: Callable[[], None]) -> None:
        """Begin.

        Args:
            ended: told of each stream whose end has been written.
            begun: told when there is something to send where there was nothing.
        """
        self.begun = begun
        self.parts: list[bytes | memoryview] = []
        """To be sent next."""
        self.size = 0
        """Bytes in `parts`, and in what the socket has not taken yet."""
        self.spoken = False
        """Whether anything of a call was sent since somebody last looked."""
        self._ended = ended
        self._window = DEFAULT_WINDOW
        self._initial = DEFAULT_WINDOW
        self._changed: dict[int, int] = {}
        """By how much a stream's window differs from the initial one."""
        self._frame_limit = FRAME_LIMIT
        self._lines: dict[int, _Line] = {}
        self._answers = _FIRST
        self._announced = b""
        """What the next header block must begin with."""

    def write(self, data: bytes) -> None:
        """Write a frame that no window holds back."""
        if not self.parts:
            self.begun()
        self.parts.append(data)
        self.size += len(data)

    def answer(self, stream: int, message: bytes) -> None:
        """Write the whole answer of a unary call."""
        size = len(message) + 5
        fits = size <= self._window and size <= self._initial and size <= self._frame_limit
        if fits and stream not in self._changed and not self._announced:
            self._window -= size
            self.spoken = True
            answers = self._answers
            if answers is _FIRST:
                self._answers = _LATER
            data = answers.write(stream, message)
            if not self.parts:
                self.begun()
            self.parts.append(data)
            self.size += len(data)
            self._ended(stream)
        else:
            self.begin(stream)
            self.send(stream, message, None)
            self.end(stream, None)

    def begin(self, stream: int) -> None:
        """Write the headers of an answer."""
        self._write_block(END_HEADERS, stream, _PLAIN.beginning)

    def send(self, stream: int, message: bytes, done: Done | None) -> None:
        """Send a message when it is its turn; `done` is told then."""
        line = self._lines.get(stream)
        if line is None:
            line = self._lines[stream] = _Line()
        prefix = struct.pack(">BI", 0, len(message))
        if len(message) < FRAME_LIMIT:
            line.parts.append((memoryview(prefix + message), done))
        else:  # not joined: it would be copied once more
            line.parts.append((memoryview(prefix), None))
            line.parts.append((memoryview(message), done))
        self._call()

    def end(self, stream: int, block: bytes | None) -> None:
        """Send trailers behind the messages; None is OK's."""
        line = self._lines.get(stream)
        if line is None:
            self.refuse(stream, _PLAIN.end if block is None else block)
        else:
            line.end = _PLAIN.end if block is None else block

    def refuse(self, stream: int, block: bytes) -> None:
        """Write the last headers of an answer, or the only ones."""
        self._write_block(END_HEADERS | END_STREAM, stream, block)
        self._changed.pop(stream, None)
        self._ended(stream)

    def shed(self, first: int, answer: bytes, calls: int = 1) -> None:
        """Write the only frame of an answer, which was made for stream 0, on streams that nobody has opened."""
        if calls == 1 or self._announced or len(answer) > self._frame_limit:
            for stream in range(first, first + 2 * calls, 2):
                self.refuse(stream, answer[HEAD_SIZE:])
            return
        self.spoken = True
        self.write(repeated(answer, first, calls))

    def forget(self, stream: int) -> None:
        """Drop what waits on a stream that is no more."""
        self._changed.pop(stream, None)
        line = self._lines.pop(stream, None)
        if line is not None:
            for _, done in line.parts:
                if done is not None:
                    done(False)  # noqa: FBT003

    def grant(self, stream: int, increment: int) -> bool:
        """Hear that a window grew; False when it grew beyond what a window may be."""
        if stream == 0:
            self._window += increment
            fits = self._window <= MOST
        else:
            self._changed[stream] = self._changed.get(stream, 0) + increment
            fits = self._initial + self._changed[stream] <= MOST
        self._call()
        return fits

    def resize(self, initial: int) -> None:
        """Hear that every stream's window is to begin with another size, those that are open as well."""
        if any(initial + changed > MOST for changed in self._changed.values()):
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "expected no window above 2^31-1")
        self._initial = initial
        self._call()

    def limit_frames(self, size: int) -> None:
        """Hear how large a frame the peer takes."""
        self._frame_limit = min(size, 1 << 20)

    def limit_table(self, size: int) -> None:
        """Hear how large the peer lets the table of repeated fields be."""
        if size < _TABLE_SIZE:
            self._answers, self._announced = _PLAIN, _EMPTY_TABLE

    def pump(self) -> None:
        """Write what waits, a frame of each stream in turn, until the windows or the socket are full."""
        moved = True
        while moved and self._lines and self.size < FULL:
            moved = False
            for stream, line in tuple(self._lines.items()):
                moved |= self._push(stream, line)

    def _call(self) -> None:
        """Have `pump` called; not here and now, because it looks at every line, and windows may grow bit by bit."""
        if self._lines and not self.parts:
            self.begun()

    def _push(self, stream: int, line: _Line) -> bool:
        """Write one frame of a stream; True if that was possible."""
        if line.parts:
            part, done = line.parts[0]
            room = min(self._window, self._initial + self._changed.get(stream, 0), self._frame_limit)
            size = min(len(part), room)
            if size <= 0 < len(part):
                return False
            self._window -= size
            self._changed[stream] = self._changed.get(stream, 0) - size
            self.spoken = True
            if not self.parts:
                self.begun()
            self.parts += (data_head(size, stream), part[:size])
            self.size += size + 9
            if size < len(part):
                line.parts[0] = part[size:], done
                return True
            line.parts.popleft()
            if done is not None:
                done(True)  # noqa: FBT003
        if not line.parts:
            del self._lines[stream]
            if line.end is not None:
                self.refuse(stream, line.end)
        return True

    def _write_block(self, flags: int, stream: int, block: bytes) -> None:
        self.spoken = True
        block, self._announced = self._announced + block, b""
        limit = self._frame_limit
        if len(block) <= limit:
            self.write(frame(HEADERS, flags, stream, block))
            return
        pieces = [block[at : at + limit] for at in range(0, len(block), limit)]
        self.write(frame(HEADERS, flags & ~END_HEADERS, stream, pieces[0]))
        for piece in pieces[1:-1]:
            self.write(frame(CONTINUATION, 0, stream, piece))
        self.write(frame(CONTINUATION, END_HEADERS, stream, pieces[-1]))
