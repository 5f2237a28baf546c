"""The calls that one connection has open: what they say, and every way in which they end.

Knows no frame that comes in, and no socket; belongs to the transport's thread.
"""

from collections.abc import Callable

from server.transports.base import TransportOptions
from server.transports.http2.call import UnaryCall
from server.transports.http2.frames import HEAD_SIZE, ErrorCode, reset, window_update
from server.transports.http2.messages import Held
from server.transports.http2.outgoing import Done, Outgoing
from server.transports.http2.stream import StreamCall

WINDOW = 1 << 20
"""Bytes a caller may send on one stream ahead of us."""
_MOST_CUT = 4096

Call = UnaryCall | StreamCall
Perform = Callable[..., None]


class Streams:
    """Streams by number, and the way out for all of them."""

    def __init__(
        self, peer: str, limits: TransportOptions, held: Held, perform: Perform, speaks: Callable[[], None]
    ) -> None:
        """Begin.

        Args:
            peer: address of the caller, as gRPC writes it.
            limits: what callers may do.
            held: bytes of unfinished messages in the whole transport.
            perform: runs a function with its arguments on the transport's thread, now or soon.
            speaks: told when there is something to send where there was nothing.
        """
        self.peer, self.limits, self.held, self.perform = peer, limits, held, perform
        self.streams: dict[int, Call] = {}
        self.outgoing = Outgoing(self._ended, speaks)
        self.closed = False
        """Whether nothing more will be read, nor written but what is on its way."""
        self._cut: dict[int, None] = {}
        """Streams that we ended before their callers did, oldest first: what is on its way to them is no mistake."""

    def answer(self, number: int, message: bytes) -> None:
        """Answer a unary call, if it is still there."""
        if number in self.streams:
            self.outgoing.answer(number, message)

    def refuse(self, number: int, block: bytes) -> None:
        """End a call that has no answer, if it is still there, with these headers."""
        if number in self.streams:
            self.outgoing.refuse(number, block)

    def shed(self, number: int, answer: bytes) -> None:
        """End a call that nobody has handled, if it is still there, with a frame that was made for stream 0."""
        if number in self.streams:
            self.outgoing.refuse(number, answer[HEAD_SIZE:])

    def send(self, number: int, message: bytes, done: Done, *, begun: bool) -> None:
        """Send a stream's message; `done` is told when it left, or cannot."""
        if number not in self.streams:
            done(False)  # noqa: FBT003
            return
        if not begun:
            self.outgoing.begin(number)
        self.outgoing.send(number, message, done)

    def finish(self, number: int, block: bytes | None, *, begun: bool) -> None:
        """End a stream behind its messages; None for OK."""
        if number in self.streams:
            if block is None and not begun:
                self.outgoing.begin(number)
            self.outgoing.end(number, block)

    def credit(self, number: int, call: Call, size: int) -> None:
        """Let a caller send that much more on a stream; it is told once that is worth a frame."""
        call.owed += size
        if call.owed >= WINDOW // 2 and number in self.streams and not call.half_closed:
            self.outgoing.write(window_update(number, call.owed))
            call.window += call.owed
            call.owed = 0

    def expire(self, now: float) -> None:
        """End the calls whose deadline has passed."""
        for number, call in tuple(self.streams.items()):
            if call.deadline is not None and call.deadline <= now:
                call.expire()
                if number in self.streams:  # it has an answer that its caller does not fetch
                    self.break_off(number, ErrorCode.CANCEL)

    def lost(self, block: bytes | None = None) -> None:
        """End all calls, with these headers while the caller still hears them."""
        for number, call in tuple(self.streams.items()):
            call.end(block)
            if number in self.streams:
                self._forget(number)
        self.closed = True

    def reset_by_caller(self, number: int) -> None:
        """End a call whose caller has gone."""
        call = self.streams.get(number)
        if call is not None:
            call.half_closed = True
            self._forget(number)
            call.end(None)

    def break_off(self, number: int, code: ErrorCode) -> None:
        """Reset a stream because of what came on it; its call, if there is one, is over."""
        self.reset_by_caller(number)
        self._reset(number, code)

    def _ended(self, number: int) -> None:
        """Everything was written on a stream."""
        call = self.streams.pop(number, None)
        if call is None:
            return
        call.close()
        if not call.half_closed:
            self._reset(number, ErrorCode.NO_ERROR)

    def _forget(self, number: int) -> None:
        self.streams.pop(number).close()
        self.outgoing.forget(number)

    def _reset(self, number: int, code: ErrorCode) -> None:
        self.outgoing.write(reset(number, code))
        self._leave_out(number)

    def _leave_out(self, number: int) -> None:
        """Remember a stream on which more may come that is of no interest."""
        self._cut[number] = None
        if len(self._cut) > _MOST_CUT:
            del self._cut[next(iter(self._cut))]
