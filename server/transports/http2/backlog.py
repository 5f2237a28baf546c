"""Calls that have arrived whole and whose handlers have not run: in order, a few at a time, refused when hopeless.

Sockets are read before handlers run, so what waits for this thread waits here, where it can be counted, and not unseen
in the sockets: reading a call takes a tenth of what handling it does. A call that would spend more than `SHARE` of its
remaining time here is shed as it arrives, which leaves the others their time (as load shedding by queueing delay does:
Welsh and Culler, "Adaptive Overload Control for Busy Internet Servers", 2003).
"""

import time
from collections import deque
from collections.abc import Callable

from server.transports.base import FastHandler, Shed
from server.transports.http2.call import UnaryCall

SLICE = 32
"""Calls handled before the sockets are looked at again, and their batch is started."""
CALM = 2 * SLICE
"""Calls waiting up to which nobody asks whether they will be in time."""
SHARE = 0.3
"""Of what is left of its deadline, the most a call may wait for the thread; the rest is for its batch."""
_NEWS = 0.1
"""Weight of a slice in the average cost of a call."""

Deliver = Callable[[UnaryCall, bytes], None]


class Backlog:
    """Belongs to the transport's thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._waiting: deque[tuple[UnaryCall, FastHandler, bytes]] = deque()
        self._cost = 0.0
        """Seconds that a call takes, on average."""

    def __len__(self) -> int:
        return len(self._waiting)

    def entry(self, handler: FastHandler, shed: Shed | None) -> Deliver:
        """Return what takes calls of a method."""
        waiting = self._waiting

        def enter(call: UnaryCall, message: bytes) -> None:
            if len(waiting) >= CALM and shed is not None and self._hopeless(call):
                call.shed(shed)
            else:
                waiting.append((call, handler, message))

        return enter

    def serve(self) -> None:
        """Handle a slice."""
        waiting = self._waiting
        before = len(waiting)
        if not before:
            return
        began, handled = self._clock(), 0
        while waiting and handled < SLICE:
            call, handler, message = waiting.popleft()
            if not call.gone:  # who resets calls as fast as they come must not make others wait for them
                handled += 1
                call.handle(handler, message)
        self._cost += ((self._clock() - began) / (before - len(waiting)) - self._cost) * _NEWS

    def _hopeless(self, call: UnaryCall) -> bool:
        deadline = call.deadline
        return deadline is not None and len(self._waiting) * self._cost > SHARE * (deadline - self._clock())
