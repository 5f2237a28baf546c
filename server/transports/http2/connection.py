"""One connection: frames come in, calls are opened, fed and reset (RFC 9113); their answers leave through `Outgoing`.

The two frames of nearly every request, headers and one piece of data, are read in one loop without another call; all
else goes to `control`. Knows no socket; belongs to the transport's thread.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from server.transports.base import TransportOptions
from server.transports.http2 import control
from server.transports.http2.frames import (
    CONTINUATION,
    DATA,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    FRAME_LIMIT,
    HEAD_SIZE,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    MAX_CONCURRENT_STREAMS,
    MAX_HEADER_LIST_SIZE,
    PADDED,
    PREFACE,
    SETTINGS,
    ConnectionFault,
    ErrorCode,
    goaway,
    read_head,
    read_uint32,
    settings,
    unpadded,
    window_update,
)
from server.transports.http2.heads import Heads
from server.transports.http2.messages import Held
from server.transports.http2.streams import WINDOW, Call, Perform, Streams

if TYPE_CHECKING:
    from server.transports.http2.backlog import Shedder
    from server.transports.http2.router import Router

CONNECTION_WINDOW = 8 << 20
"""Bytes a caller may send on all of its streams together ahead of us."""
_LARGEST_BLOCK = 64 << 10
"""Bytes of compressed headers."""
_MOST_IDLE = 1000
_MOST_PIECES = 64
"""Frames that one block of headers may come in."""


class Connection(Streams):
    """The protocol's state between one caller and us."""

    def __init__(
        self,
        peer: str,
        limits: TransportOptions,
        router: "Router",
        held: Held,
        perform: Perform,
        speaks: Callable[[], None],
    ) -> None:
        """Begin with our SETTINGS.

        Args:
            peer: address of the caller, as gRPC writes it.
            limits: what callers may do.
            router: opens the calls.
            held: bytes of unfinished messages in the whole transport.
            perform: runs a function with its arguments on the transport's thread, now or soon.
            speaks: told when there is something to send where there was nothing.
        """
        super().__init__(peer, limits, held, perform, speaks)
        self.last = 0
        """Highest stream that was opened."""
        self.greeted = False
        """Whether the caller's preface and first SETTINGS have come."""
        self.pings = control.Pings(limits.min_ping_interval)
        self.refusing = False
        """Whether new calls are not accepted any more."""
        self._rest = b""
        self._prefaced = False
        self.idle_frames = 0
        """Frames that carried nothing, since the last call."""
        self._backlog = router.backlog
        self._heads = Heads(router.find, limits.max_metadata_bytes)
        self._block: list[bytes] = []
        """Pieces of a header block that is not complete."""
        self._block_of, self._block_ends = 0, False
        self._taken = 0
        """Bytes of data since the connection's window was last opened."""
        self.outgoing.write(
            settings(
                (
                    (MAX_CONCURRENT_STREAMS, limits.max_concurrent_streams),
                    (INITIAL_WINDOW_SIZE, WINDOW),
                    (MAX_HEADER_LIST_SIZE, limits.max_metadata_bytes),
                )
            )
            + window_update(0, CONNECTION_WINDOW - DEFAULT_WINDOW)
        )

    def feed(self, data: bytes) -> None:  # noqa: C901, PLR0912, PLR0915  one loop: each call in it costs every request
        """Act on what has come.

        Raises:
            ConnectionFault: the connection cannot go on.
        """
        if self._rest:
            data = self._rest + data
        at = 0
        if not self._prefaced:
            at = self._preface(data)
            if not at:
                self._rest = data
                return
        end, streams, largest = len(data), self.streams, self.limits.max_receive_bytes
        while end - at >= HEAD_SIZE:
            word, flags, number = read_head(data, at)
            length, kind = word >> 8, word & 0xFF
            if length > FRAME_LIMIT:
                raise ConnectionFault(
                    ErrorCode.FRAME_SIZE_ERROR, f"expected frames of at most {FRAME_LIMIT} bytes, got {length}"
                )
            body = at + HEAD_SIZE
            at = body + length
            if at > end:
                at = body - HEAD_SIZE
                break
            if self._block or number > 0x7FFFFFFF or not self.greeted:
                self._rare(kind, flags, number & 0x7FFFFFFF, data[body:at])
            elif kind == DATA:
                call = streams.get(number)
                if (
                    flags == END_STREAM
                    and call is not None
                    and call.pristine
                    and length >= 5
                    and data[body] == 0
                    and read_uint32(data, body + 1)[0] == length - 5
                    and length - 5 <= largest
                ):
                    self._taken += length
                    call.half_closed, call.pristine = True, False
                    call.deliver(data[body + 5 : at])
                else:
                    self._data(flags, number, call, data[body:at])
            elif kind == HEADERS and flags == END_HEADERS:
                self._open(number, data[body:at], ended=False)
            else:
                self._rare(kind, flags, number, data[body:at])
            if self.closed:
                return
        self._rest = data[at:]
        if self._taken > CONNECTION_WINDOW // 2:
            self.outgoing.write(window_update(0, self._taken))
            self._taken = 0

    def drained(self) -> None:
        """Accept no more calls, and say which the last one was."""
        if not self.refusing:
            self.refusing = True
            self.outgoing.write(goaway(self.last, ErrorCode.NO_ERROR))

    def _open(self, number: int, block: bytes, *, ended: bool) -> None:
        if number <= self.last or not number & 1:
            self._more_headers(number, well_formed=self._heads.read_trailers(block), ended=ended)
            return
        head = self._heads.read(block)
        self.last, self.idle_frames = number, 0
        if self.refusing or len(self.streams) >= self.limits.max_concurrent_streams:
            self._reset(number, ErrorCode.REFUSED_STREAM)
        elif head.malformed:
            self._reset(number, ErrorCode.PROTOCOL_ERROR)
        elif head.refusal is not None:
            self.outgoing.refuse(number, head.refusal)
            if not ended:
                self._reset(number, ErrorCode.NO_ERROR)
        elif head.timeout is not None and head.route.shedder is not None and self._backlog.hopeless(head.timeout):
            self._turn_away(number, head.route.shedder)
        else:
            call = self.streams[number] = head.route.open(self, number, head)
            if ended:
                call.half_closed = True
                call.receive(b"")

    def _turn_away(self, number: int, shedder: "Shedder") -> None:
        """End a call by its headers; what follows them is on its way, and read over."""
        shedder.shed_calls += 1
        self.outgoing.refuse(number, shedder.block)
        self._leave_out(number)

    def _more_headers(self, number: int, *, well_formed: bool, ended: bool) -> None:
        """Trailers, which mean nothing in gRPC; or a mistake."""
        call = self.streams.get(number)
        if call is None:
            if number not in self._cut:
                raise ConnectionFault(
                    ErrorCode.PROTOCOL_ERROR, f"expected a new stream above {self.last}, got {number}"
                )
        elif call.half_closed:
            self.break_off(number, ErrorCode.STREAM_CLOSED)
        elif ended and well_formed:
            self._data(END_STREAM, number, call, b"")
        else:
            self.break_off(number, ErrorCode.PROTOCOL_ERROR)

    def _data(self, flags: int, number: int, call: Call | None, payload: bytes) -> None:
        size = len(payload)
        self._taken += size
        if call is None:
            self._stray(number)
            return
        if call.half_closed:
            self.break_off(number, ErrorCode.STREAM_CLOSED)
            return
        call.window -= size
        if call.window < -WINDOW:
            self.break_off(number, ErrorCode.FLOW_CONTROL_ERROR)
            return
        payload = unpadded(flags & PADDED, payload)
        call.half_closed = bool(flags & END_STREAM)
        if not payload and not call.half_closed:
            self.idle()
        given = call.receive(payload) + size - len(payload)
        if given:
            self.credit(number, call, given)

    def _stray(self, number: int) -> None:
        """Data of no call."""
        if not number or number > self.last:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"expected data of an open stream, got stream {number}")
        if number not in self._cut:
            self._reset(number, ErrorCode.STREAM_CLOSED)

    def _rare(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if self._block and (kind != CONTINUATION or number != self._block_of):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "expected the rest of a header block")
        if not self.greeted and kind != SETTINGS:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "expected SETTINGS first")
        if kind == DATA:
            self._data(flags, number, self.streams.get(number), payload)
        elif kind == HEADERS:
            self._headers(flags, number, payload)
        elif kind == CONTINUATION:
            self._continue(flags, payload)
        else:
            control.act(self, kind, flags, number, payload)

    def _headers(self, flags: int, number: int, payload: bytes) -> None:
        if not number:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "expected headers on a stream, got stream 0")
        block, ended = unpadded(flags, payload), bool(flags & END_STREAM)
        if flags & END_HEADERS:
            self._open(number, block, ended=ended)
        else:
            self._block, self._block_of, self._block_ends = [block], number, ended

    def _continue(self, flags: int, payload: bytes) -> None:
        if not self._block:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "expected no continuation, no header block is open")
        self._block.append(payload)
        if len(self._block) > _MOST_PIECES or sum(map(len, self._block)) > _LARGEST_BLOCK:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, f"expected at most {_LARGEST_BLOCK} bytes of headers")
        if flags & END_HEADERS:
            block, self._block = b"".join(self._block), []
            self._open(self._block_of, block, ended=self._block_ends)

    def idle(self) -> None:
        """Count a frame that carries nothing."""
        self.idle_frames += 1
        if self.idle_frames > _MOST_IDLE:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, f"expected a call within {_MOST_IDLE} frames")

    def _preface(self, data: bytes) -> int:
        """Return where the frames begin; 0 while the preface is not complete."""
        if not data.startswith(PREFACE[: len(data)]):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "expected the preface of HTTP/2")
        if len(data) < len(PREFACE):
            return 0
        self._prefaced = True
        return len(PREFACE)
