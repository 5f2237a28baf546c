"""Calls that have arrived whole and whose handlers have not run: in order, a few at a time, refused when hopeless.

Sockets are read before handlers run, so what waits for this thread waits here, where it can be counted, and not unseen
in the sockets: reading a call takes a tenth of what handling it does. A call that would spend more than `SHARE` of its
time here is turned away by its headers, before it costs anything else, which leaves the others their time (as load
shedding by queueing delay does: Welsh and Culler, "Adaptive Overload Control for Busy Internet Servers", 2003).
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from server.transports.base import FastHandler, Metadata, Refusal, Shed, StatusError
from server.transports.http2.call import UnaryCall
from server.transports.http2.endings import ending
from server.transports.http2.frames import END_HEADERS, END_STREAM, HEADERS, PREFIX_SIZE, frame

SLICE = 64
"""Calls handled before the sockets are looked at again, and their batch is started: as many as it holds, by default.

Measured with churn, 256 in flight: 42 us of CPU a request with 32, 36 to 37 with 64 and 128; with 128 answers wait too
long for their turn under overload."""
CALM = SLICE
"""Calls waiting up to which nobody asks whether they will be in time."""
SHARE = 0.3
"""Of the time until its deadline, the most a call may wait for the thread; the rest is for its batch."""
_NEWS = 0.1
"""Weight of a slice in the average cost of a call."""

Deliver = Callable[[UnaryCall, bytes], None]


@dataclass(frozen=True, slots=True)
class Doom:
    """How a call ends that is not worth handling."""

    answer: bytes
    """The frame of it, on stream 0."""
    alike: int
    """Bytes of data by which its like are known, gRPC's prefix included; 0 where the headers say it all."""
    count: Callable[[int], None]
    """Told of each run of calls that end so."""


class Shedder:
    """Tells which calls of one method are not worth handling, and has them counted."""

    def __init__(self, shed: Shed, backlog: "Backlog", untold: "set[Shedder]") -> None:
        """`untold` are those who have something to tell."""
        self._shed = shed
        self._backlog = backlog
        self._untold = untold
        self._calls = 0
        self.recent = shed.recent
        """Empty while no message would be refused."""
        self._by_headers = Doom(_frame(shed.status), 0, self._count)
        self._refusal: Refusal | None = None
        self._by_message = self._by_headers
        """What the latest refusal means."""

    def judge(self, seconds: float, message: bytes | None, metadata: Metadata) -> Doom | None:
        """Return how a call ends that comes now; None for one that goes on.

        Args:
            seconds: until its deadline.
            message: its own, if that has come.
            metadata: its own.
        """
        wait = self._backlog.wait()
        if wait > SHARE * seconds:
            self._untold.add(self)
            return self._by_headers
        if message is None or not self.recent:
            return None
        return self._find(message, seconds - wait, metadata, 0.0)

    def refuses(self, call: UnaryCall, message: bytes, now: float) -> bool:
        """End a call whose turn it is, if its handler would only refuse it now."""
        if call.deadline is None or call.timeout is None:
            return False
        left = call.deadline - now
        doom = self._find(message, left, call.metadata, call.timeout - left)
        if doom is None:
            return False
        doom.count(1)
        call.shed(doom.answer)
        return True

    def tell(self) -> None:
        """Have those counted that were shed since."""
        calls, self._calls = self._calls, 0
        self._shed.count(calls)

    def _find(self, message: bytes, seconds: float, metadata: Metadata, waited: float) -> Doom | None:
        refusal = self._shed.refuse(message, seconds, metadata, waited)
        if refusal is None:
            return None
        self._untold.add(self)
        if refusal is not self._refusal:
            self._refusal = refusal
            self._by_message = Doom(_frame(refusal.status), PREFIX_SIZE + refusal.alike, refusal.count)
        return self._by_message

    def _count(self, calls: int) -> None:
        self._calls += calls


def _frame(status: StatusError) -> bytes:
    return frame(HEADERS, END_HEADERS | END_STREAM, 0, ending(status))


class Backlog:
    """Belongs to the transport's thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.waiting: deque[tuple[UnaryCall, FastHandler, bytes, Shedder | None]] = deque()
        self._cost = 0.0
        """Seconds from one call to the next, on average, while calls wait."""
        self._left_at: float | None = None
        """When the last slice ended, if it left calls waiting: what came in between is part of what they wait for."""
        self._untold: set[Shedder] = set()

    def __len__(self) -> int:
        return len(self.waiting)

    def entry(self, handler: FastHandler, shedder: Shedder | None = None) -> Deliver:
        """Return what takes whole calls of a method."""
        waiting = self.waiting

        def enter(call: UnaryCall, message: bytes) -> None:
            waiting.append((call, handler, message, shedder))

        return enter

    def shedder(self, shed: Shed) -> Shedder:
        """Return what sheds calls of a method."""
        return Shedder(shed, self, self._untold)

    def wait(self) -> float:
        """Return about how many seconds a call waits here that comes now; 0 where only a few wait."""
        waiting = len(self.waiting)
        return waiting * self._cost if waiting >= CALM else 0.0

    def serve(self) -> None:
        """Handle a slice, and have those counted that were shed since the last one, before their answers leave."""
        if self.waiting:
            self._handle_some()
        while self._untold:
            self._untold.pop().tell()

    def _handle_some(self) -> None:
        waiting = self.waiting
        before = len(waiting)
        now = self._clock()
        began = now if self._left_at is None else self._left_at
        handled = 0
        while waiting and handled < SLICE:
            call, handler, message, shedder = waiting.popleft()
            if call.gone:  # who resets calls as fast as they come must not make others wait for them
                continue
            if shedder is not None and shedder.recent and shedder.refuses(call, message, now):
                continue
            handled += 1
            call.handle(handler, message)
        ended = self._clock()
        self._cost += ((ended - began) / (before - len(waiting)) - self._cost) * _NEWS
        self._left_at = ended if waiting else None
