"""What leaves a connection: calls, as the peer's windows allow (RFC 9113, section 5.2).

Small messages go whole, many at a time. A large one goes piece by piece where no window takes it whole, and the next
call waits for it. Knows no socket.
"""

from server.load.template import Headers, Template
from server.transports.http2.frames import (
    DATA,
    DEFAULT_WINDOW,
    END_STREAM,
    FRAME_LIMIT,
    HEADER_TABLE_SIZE,
    INITIAL_WINDOW_SIZE,
    MAX_FRAME_SIZE,
    ErrorCode,
    frame,
    reset,
)

_TABLE = 4096


class Outgoing:
    """Belongs to one connection, and repeats one call."""

    def __init__(self, headers: Headers, message: bytes) -> None:
        self.pieces: list[bytes] = []
        """What is to be sent, in this order."""
        self.sending = 0
        """The stream whose message is on its way, 0 for none."""
        self._rest = memoryview(b"")
        """Of that message."""
        self._template = Template(headers, message)
        self._size = len(self._template.message)
        self._window = self._initial = self._rest_window = DEFAULT_WINDOW
        """Of the connection, of each stream at first, and of the stream that is sending now."""
        self._frame_limit = 0

    @property
    def settled(self) -> bool:
        """Whether the peer has said what it allows."""
        return self._frame_limit > 0

    def settle(self, said: dict[int, int]) -> None:
        """Hear the peer's SETTINGS."""
        initial = said.get(INITIAL_WINDOW_SIZE, self._initial)
        self._rest_window += initial - self._initial
        self._initial = initial
        self._frame_limit = said.get(MAX_FRAME_SIZE, self._frame_limit or FRAME_LIMIT)
        self._template.begin(self._frame_limit, table=said.get(HEADER_TABLE_SIZE, _TABLE) >= _TABLE)
        self._push()

    def grow(self, stream: int, increment: int) -> None:
        """Hear that a window grew; stream 0 is the connection."""
        if not stream:
            self._window += increment
        elif stream == self.sending:
            self._rest_window += increment
        self._push()

    def room(self) -> int:
        """Return how many calls may be written now."""
        large = self._size > min(self._initial, FRAME_LIMIT)
        return 0 if self.sending else self._whole() or int(large)

    def write(self, first: int, calls: int, left: int) -> None:
        """Write calls with so many milliseconds left, on streams from the first one on; there must be room."""
        if self._whole():
            self.pieces += self._template.write(first, calls, left)
            self._window -= calls * self._size
        else:
            self.pieces.append(self._template.head(first, left))
            self.sending, self._rest, self._rest_window = first, memoryview(self._template.message), self._initial
            self._push()

    def drop(self) -> None:
        """Send no more of the message that is on its way: its call is over."""
        self.pieces.append(reset(self.sending, ErrorCode.CANCEL))
        self.sending = 0

    def _whole(self) -> int:
        """Return how many messages the windows take whole."""
        return self._window // self._size if self._size <= self._initial else 0

    def _push(self) -> None:
        while self.sending:
            size = min(self._window, self._rest_window, self._frame_limit, len(self._rest))
            if size <= 0:
                return
            piece, self._rest = self._rest[:size], self._rest[size:]
            self._window -= size
            self._rest_window -= size
            self.pieces.append(frame(DATA, 0 if self._rest else END_STREAM, self.sending, bytes(piece)))
            if not self._rest:
                self.sending = 0
