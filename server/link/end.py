"""One end of a link: what is put is sent, as much at a time as there is, and what comes is handed on frame by frame.

Sending is gathered without a thread of its own: whoever calls `flush` sends everything that was put until then, also by
others, and whoever finds somebody sending already leaves at once, since that one looks again before it goes. No caller
ever waits for the other end: what the socket does not take at once goes to a late thread, which does.

Receiving is one thread, which calls the handler of each frame's kind and then flushes. A frame that makes no sense, or
the end of the stream, ends the link for good; `ended` is told why, once. This module must never know what frames mean.
"""

import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from queue import SimpleQueue

from server.link.frames import MOST, CorruptFrame, Inbound, frame
from server.messages import Buffer

Handler = Callable[[int, Buffer, int, int], None]
"""Hears of a frame's number and its body, data[start:stop]; a `bytes` or a view that nobody writes to any more."""

_AT_ONCE = 256
"""Pieces handed to the kernel in one call; it takes at most 1024."""
_JOINED = 64 << 10
_BUFFER = 4 << 20
"""Bytes we ask the kernel to hold; it gives what the machine's settings allow."""


class End:
    """The socket of one end. `handlers` by frame kind; `most` bounds the bytes of a frame that comes."""

    def __init__(
        self,
        sock: socket.socket,
        handlers: Mapping[int, Handler],
        ended: Callable[[str], None],
        most: int = MOST,
        handed_on: Callable[[], None] = lambda: None,
    ) -> None:
        """`handed_on` is called behind all frames that came together."""
        self._handed_on = handed_on
        self._most = most
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        self._socket = sock
        self._handlers = handlers
        self._ended = ended
        self._pending: deque[Sequence[Buffer]] = deque()
        self._sending = threading.Lock()
        self._late: SimpleQueue[list[Buffer] | None] = SimpleQueue()
        self._late_thread: threading.Thread | None = None
        self._thread: threading.Thread | None = None
        self.lost = False
        self.receiver = 0
        """The thread that receives; it flushes when it has handed on all that came."""

    def start(self, name: str) -> None:
        """Begin to receive."""
        self._thread = threading.Thread(target=self._receive, name=name, daemon=True)
        self._thread.start()

    def put(self, pieces: Sequence[Buffer]) -> None:
        """Add one frame, or what belongs together, to what the next `flush` sends; any thread."""
        self._pending.append(pieces)

    def waiting(self) -> int:
        """Return how many frames were put and not flushed."""
        return len(self._pending)

    def flush(self) -> None:
        """See that everything put is sent; any thread, never blocks."""
        while self._pending and self._sending.acquire(blocking=False):
            left = self._send_all(socket.MSG_DONTWAIT)
            if left:
                self._send_late(left)
                return
            self._sending.release()

    def tell(self, kind: int, number: int, body: bytes = b"") -> None:
        """Send one frame."""
        self.put((frame(kind, number, body),))
        self.flush()

    def hang_up(self) -> None:
        """End the link from this side; both ends hear of it."""
        self.lost = True
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    # Sending; whoever holds `_sending`

    def _send_all(self, flags: int) -> list[Buffer]:
        """Send what is pending; return the rest of what the socket would not take."""
        while pieces := self._take():
            if left := self._send(pieces, flags):
                return left
        return []

    def _take(self) -> list[Buffer]:
        pieces: list[Buffer] = []
        pending = self._pending
        while pending and len(pieces) < _AT_ONCE:
            pieces += pending.popleft()
        return pieces

    def _send(self, pieces: list[Buffer], flags: int) -> list[Buffer]:
        if sum(map(len, pieces)) <= _JOINED:
            pieces = [b"".join(pieces)]
        while pieces:
            try:
                sent = self._socket.sendmsg(pieces, (), flags)
            except BlockingIOError:
                return pieces
            except OSError:  # the link is gone; who receives hears of it
                self._pending.clear()
                return []
            pieces = _rest(pieces, sent)
        return []

    def _send_late(self, left: list[Buffer]) -> None:
        """Leave the rest, and the right to send, to the thread that may wait."""
        if self._late_thread is None:
            self._late_thread = threading.Thread(target=self._run_late, name="link-late", daemon=True)
            self._late_thread.start()
        self._late.put(left)

    def _run_late(self) -> None:
        while left := self._late.get():
            self._send(left, 0)
            self._send_all(0)
            self._sending.release()
            self.flush()

    # Receiving

    def _receive(self) -> None:
        self.receiver = threading.get_ident()
        why = "the other end is gone"
        try:
            self._listen(Inbound(self._most))
        except OSError as error:
            why = str(error)
        except (CorruptFrame, struct.error, ValueError, LookupError, TypeError) as error:
            why = f"it broke the protocol: {error!r}"
        finally:
            self.hang_up()
            self._late.put(None)
            self._ended(why)

    def _listen(self, inbound: Inbound) -> None:
        receive, handlers, received = self._socket.recv_into, self._handlers, inbound.received
        while count := receive(inbound.space()):
            for kind, number, data, start, stop in received(count):
                handlers[kind](number, data, start, stop)
            self._handed_on()
            self.flush()

    def close(self) -> None:
        """End the link, wait for its threads and give the socket back; on none of those threads."""
        self.hang_up()
        for thread in (self._thread, self._late_thread):
            if thread is not None:
                thread.join()
        self._socket.close()


def _rest(pieces: list[Buffer], sent: int) -> list[Buffer]:
    """Return what is left of pieces when `sent` bytes of them have gone."""
    for index, piece in enumerate(pieces):
        if sent < len(piece):
            return [memoryview(piece)[sent:], *pieces[index + 1 :]]
        sent -= len(piece)
    return []
