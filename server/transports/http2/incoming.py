"""What the headers and the data of a connection mean: calls are opened, fed, turned down and shed (RFC 9113).

Knows no frame but those two, and no socket; belongs to the transport's thread.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from server.transports.base import TransportOptions
from server.transports.http2.alike import count_alike
from server.transports.http2.frames import (
    DATA,
    END_STREAM,
    FRAME_LIMIT,
    HEAD_SIZE,
    PADDED,
    PREFIX_SIZE,
    ConnectionFault,
    ErrorCode,
    goaway,
    read_head,
    read_uint32,
    unpadded,
)
from server.transports.http2.heads import Head, Heads
from server.transports.http2.messages import Held
from server.transports.http2.streams import WINDOW, Call, Perform, Streams

if TYPE_CHECKING:
    from server.transports.http2.backlog import Doom
    from server.transports.http2.router import Router

_MOST_IDLE = 1000


class Incoming(Streams):
    """The calls of one caller, as they come."""

    def __init__(
        self,
        peer: str,
        limits: TransportOptions,
        router: "Router",
        held: Held,
        perform: Perform,
        speaks: Callable[[], None],
    ) -> None:
        """Begin; `router` opens the calls, the others are as `Streams` has them."""
        super().__init__(peer, limits, held, perform, speaks)
        self.last = 0
        """Highest stream that was opened."""
        self.refusing = False
        """Whether new calls are not accepted any more."""
        self.idle_frames = 0
        """Frames that carried nothing, since the last call."""
        self._largest = min(limits.max_receive_bytes, FRAME_LIMIT - PREFIX_SIZE)
        """Bytes of a message that comes in one frame."""
        self._heads = Heads(router.find, limits.max_metadata_bytes)
        self._taken = 0
        """Bytes of data since the connection's window was last opened."""

    def drained(self) -> None:
        """Accept no more calls, and say which the last one was."""
        if not self.refusing:
            self.refusing = True
            self.outgoing.write(goaway(self.last, ErrorCode.NO_ERROR))

    def idle(self) -> None:
        """Count a frame that carries nothing."""
        self.idle_frames += 1
        if self.idle_frames > _MOST_IDLE:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, f"expected a call within {_MOST_IDLE} frames")

    def _begin(self, number: int, block: bytes, data: bytes, at: int, *, ended: bool = False) -> int:
        """Open a call by its headers; return where its message ends, if all of that stands at `data[at:]` too."""
        if number <= self.last or not number & 1:
            self._more_headers(number, well_formed=self._heads.read_trailers(block), ended=ended)
            return at
        head = self._heads.read(block)
        self.last, self.idle_frames = number, 0
        if head.route is None or self.refusing or len(self.streams) >= self.limits.max_concurrent_streams:
            self._turn_down(number, head, ended=ended)
            return at
        message, behind = self._message(number, data, at)
        if head.hurry is not None:
            doom = head.route.shedder.judge(head.hurry, message, head.metadata)
            if doom is not None:
                behind = self._shed(number, doom, block, data, at, behind)
                if behind == at and not ended:  # what is on its way is read over
                    self._reset(number, ErrorCode.NO_ERROR)
                return behind
        call = self.streams[number] = head.route.open(self, number, head)
        if message is not None:
            call.half_closed, call.pristine = True, False
            call.deliver(message)
        elif ended:
            call.half_closed = True
            call.receive(b"")
        return behind

    def _message(self, number: int, data: bytes, at: int) -> tuple[bytes | None, int]:
        """Return the whole message of a call, as most come right behind their headers, and where it ends."""
        start = at + HEAD_SIZE + PREFIX_SIZE
        if len(data) < start:
            return None, at
        word, flags, following = read_head(data, at)
        size = (word >> 8) - PREFIX_SIZE
        if (
            following == number
            and flags == END_STREAM
            and word & 0xFF == DATA
            and 0 <= size <= self._largest
            and start + size <= len(data)
            and data[start - PREFIX_SIZE] == 0
            and read_uint32(data, start - 4)[0] == size
        ):
            self._taken += size + PREFIX_SIZE
            return data[start : start + size], start + size
        return None, at

    def _shed(self, number: int, doom: "Doom", block: bytes, data: bytes, at: int, behind: int) -> int:
        """End a call that would only wait or be refused, and those like it behind it; return where they end.

        Its headers, which are `block`, end `at`; its message `behind` that, if all of it has come.
        """
        begins, calls = at - len(block) - HEAD_SIZE, 1
        if at < behind and self._heads.knows(block):
            second, size = at - begins, behind - begins
            calls = count_alike(data, begins, size, second, second + HEAD_SIZE + doom.alike)
            self.last = number + 2 * (calls - 1)
            self._taken += (calls - 1) * (behind - at - HEAD_SIZE)
        doom.count(calls)
        self.outgoing.shed(number, doom.answer, calls)
        return behind + (calls - 1) * (behind - begins)

    def _turn_down(self, number: int, head: Head, *, ended: bool) -> None:
        """End a call that cannot be one, or for which there is no place."""
        if self.refusing or (head.refusal is None and not head.malformed):
            self._reset(number, ErrorCode.REFUSED_STREAM)
        elif head.refusal is None:
            self._reset(number, ErrorCode.PROTOCOL_ERROR)
        else:
            self.outgoing.refuse(number, head.refusal)
            if not ended:
                self._reset(number, ErrorCode.NO_ERROR)

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
