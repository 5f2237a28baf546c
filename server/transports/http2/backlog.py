"""Calls that have arrived whole and whose handlers have not run: in order, a few at a time, refused when hopeless.

Sockets are read before handlers run, so what waits for this thread waits here, where it can be counted, and not unseen
in the sockets: reading a call takes a tenth of what handling it does. A call that would spend more than `SHARE` of its
time here is turned away by its headers, before it costs anything else, which leaves the others their time (as load
shedding by queueing delay does: Welsh and Culler, "Adaptive Overload Control for Busy Internet Servers", 2003).
"""

import time
from collections import deque
from collections.abc import Callable

from server.transports.base import FastHandler, Shed
from server.transports.http2.call import UnaryCall
from server.transports.http2.endings import ending

SLICE = 32
"""Calls handled before the sockets are looked at again, and their batch is started."""
CALM = 2 * SLICE
"""Calls waiting up to which nobody asks whether they will be in time."""
SHARE = 0.3
"""Of the time until its deadline, the most a call may wait for the thread; the rest is for its batch."""
_NEWS = 0.1
"""Weight of a slice in the average cost of a call."""

Deliver = Callable[[UnaryCall, bytes], None]


class Shedder:
    """How the calls of one method end that are shed, and how many have."""

    def __init__(self, shed: Shed) -> None:
        self.block = ending(shed.status)
        self.shed_calls = 0
        self._shed = shed

    def tell(self) -> None:
        """Have those counted that were shed since."""
        if self.shed_calls:
            calls, self.shed_calls = self.shed_calls, 0
            self._shed.count(calls)


class Backlog:
    """Belongs to the transport's thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.waiting: deque[tuple[UnaryCall, FastHandler, bytes]] = deque()
        self._cost = 0.0
        """Seconds from one call to the next, on average, while calls wait."""
        self._left_at: float | None = None
        """When the last slice ended, if it left calls waiting: what came in between is part of what they wait for."""
        self._shedders: list[Shedder] = []

    def __len__(self) -> int:
        return len(self.waiting)

    def entry(self, handler: FastHandler) -> Deliver:
        """Return what takes whole calls of a method."""
        waiting = self.waiting

        def enter(call: UnaryCall, message: bytes) -> None:
            waiting.append((call, handler, message))

        return enter

    def shedder(self, shed: Shed) -> Shedder:
        """Return what sheds calls of a method."""
        shedder = Shedder(shed)
        self._shedders.append(shedder)
        return shedder

    def hopeless(self, seconds: float) -> bool:
        """Whether a call that comes now with so many seconds until its deadline would wait here for most of them."""
        waiting = len(self.waiting)
        return waiting >= CALM and waiting * self._cost > SHARE * seconds

    def serve(self) -> None:
        """Handle a slice."""
        waiting = self.waiting
        before = len(waiting)
        if not before:
            return
        began = self._clock() if self._left_at is None else self._left_at
        handled = 0
        while waiting and handled < SLICE:
            call, handler, message = waiting.popleft()
            if not call.gone:  # who resets calls as fast as they come must not make others wait for them
                handled += 1
                call.handle(handler, message)
        ended = self._clock()
        self._cost += ((ended - began) / (before - len(waiting)) - self._cost) * _NEWS
        self._left_at = ended if waiting else None
        for shedder in self._shedders:
            shedder.tell()
