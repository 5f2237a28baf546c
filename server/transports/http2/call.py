"""Unary calls: one message in, one answer out."""

import time
from typing import TYPE_CHECKING

from server.transports.base import FastHandler, Metadata, StatusCode, StatusError
from server.transports.failure import NO_MESSAGE
from server.transports.http2.endings import ending
from server.transports.http2.heads import Head
from server.transports.http2.messages import Assembler, too_large
from server.transports.lane import fail
from server.transports.once import Once

if TYPE_CHECKING:
    from server.transports.http2.streams import Streams

_LATE = ending(StatusError(StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded"))
STOPPED = ending(StatusError(StatusCode.UNAVAILABLE, "the server is shutting down"))
_NO_MESSAGE = ending(StatusError(StatusCode.UNIMPLEMENTED, NO_MESSAGE))


class UnaryCall(Once):
    """One unary RPC (base.Call). What is not base.Call's belongs to the transport's thread."""

    __slots__ = (
        "_assembler",
        "_connection",
        "_head",
        "_number",
        "deadline",
        "half_closed",
        "method",
        "owed",
        "pristine",
        "window",
    )

    def __init__(self, connection: "Streams", number: int, head: Head) -> None:
        """Open.

        Args:
            connection: it came on this one.
            number: its stream.
            head: what its headers say; `route` is the handler.
        """
        super().__init__()
        self._connection = connection
        self._number = number
        self._head = head
        self.method = head.method
        self._assembler: Assembler | None = None
        timeout = head.timeout
        self.deadline = None if timeout is None else time.monotonic() + timeout
        """See base.Call."""
        self.half_closed = False
        """Whether the caller has said everything."""
        self.pristine = True
        """Whether no byte of the message has come yet."""
        self.window = self.owed = 0
        """How much more the caller may send than its first window allows, and how much of that it was not told of."""

    @property
    def metadata(self) -> Metadata:
        """Request metadata, keys in lower case."""
        return self._head.metadata

    @property
    def peer(self) -> str:
        """Address of the caller."""
        return self._connection.peer

    @property
    def timeout(self) -> float | None:
        """Seconds that the caller gave it; None for none."""
        return self._head.timeout

    def reply(self, message: bytes) -> None:
        """Answer: message and OK. Ignored when the caller has gone or the call was answered."""
        if len(message) > self._connection.limits.max_send_bytes:
            self.fail(StatusCode.RESOURCE_EXHAUSTED, too_large(message, self._connection.limits))
        elif self.take():
            self._connection.perform(self._answer, message)

    def fail(self, code: StatusCode, details: str, trailers: Metadata = ()) -> None:
        """End the call with a status. Ignored when the caller has gone or the call was answered."""
        if self.take():
            self._connection.perform(self._refuse, ending(StatusError(code, details, trailers)))

    @property
    def gone(self) -> bool:
        """Whether the caller has left, or its time has passed."""
        return self._gone

    def deliver(self, message: bytes) -> None:
        """Hand the whole message on."""
        self._head.route.deliver(self, message)

    def handle(self, handler: FastHandler, message: bytes) -> None:
        """Let the handler act on the message."""
        try:
            handler(self, message)
        except Exception as error:  # noqa: BLE001  a handler's mistake ends its call, not the thread
            fail(self, error)

    def receive(self, piece: bytes) -> int:
        """Take a piece of the message; returns how many bytes the caller may send in its place."""
        if self.pristine:
            self.pristine = False
            limits = self._connection.limits
            self._assembler = Assembler(self._head.encoding, limits.max_receive_bytes, self._connection.held)
        if self._assembler is not None:
            try:
                messages = self._assembler.feed(piece)
            except StatusError as status:
                self._drop()
                self.fail(status.code, status.details)
            else:
                if messages:  # a second one is the caller's mistake, and nobody would hear of it
                    self._drop()
                    self.deliver(messages[0])
                elif self.half_closed:
                    self._cut_off(self._assembler)
        return len(piece)

    def shed(self, answer: bytes) -> None:
        """End the call with a frame that was made for stream 0; its handler has not heard of it."""
        if self.take():
            self._connection.shed(self._number, answer)

    def expire(self) -> None:
        """The deadline has passed."""
        self.end(_LATE)

    def end(self, block: bytes | None) -> None:
        """End the call from this side with these headers, unless somebody has; its handler hears of a cancellation."""
        self.leave()
        if self._gone and block is not None:
            self._refuse(block)

    def close(self) -> None:
        """Forget what came of a message: the stream is over."""
        self._drop()

    def _cut_off(self, assembler: Assembler) -> None:
        if assembler.unfinished:
            self.fail(StatusCode.INTERNAL, "expected a whole message, the call ended within it")
        elif self.take():
            self._refuse(_NO_MESSAGE)
        self._drop()

    def _drop(self) -> None:
        if self._assembler is not None:
            self._assembler.close()
            self._assembler = None

    def _answer(self, message: bytes) -> None:
        self._connection.answer(self._number, message)

    def _refuse(self, block: bytes) -> None:
        self._connection.refuse(self._number, block)
