"""A load generator that costs a tenth of a gRPC client: gRPC's few HTTP/2 frames, written and read by hand.

On a small machine the generator takes what it costs from the server it measures, so it has to be cheap. Calls due
within a millisecond of each other go together on one connection, and what an answer meant is worked out when the run
is over. Every answer's grpc-status is read, latency counts from the instant a call was meant to be sent, so a server
that stalls cannot hide it (Gil Tene's "coordinated omission"), and a call that finds no free stream waits in line here,
as it would in any client.
"""

import select
import ssl
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence

from server.load.connection import CANCELLED, DEADLINE_EXCEEDED, OK, Connection
from server.load.outcome import Outcome
from server.transports.base import Metadata

GRACE = 0.5
"""Seconds beyond the last deadline for which answers are still heard."""
SPIN = 0.0002
"""Seconds before a send from which the clock is watched: `select` may wake that late."""
TICK = 0.001
"""Seconds slept, if nothing else is said, where the next call is due sooner after the last one: latencies grow by up to
twice that."""
PAUSE = 0.05
"""Seconds between two looks at whether a run is over."""

Check = Callable[[int, bytes], None]
"""Sees the status code and the message of an answer, when it comes."""


class Generator:
    """Sends one call over a few connections, from one thread.

    Each run has connections of its own. It raises OSError where the server cannot be talked to.
    """

    def __init__(  # noqa: PLR0913  what a call is, and how it travels
        self,
        address: str,
        path: str,
        message: bytes,
        *,
        deadline: float = 10.0,
        connections: int = 8,
        tick: float = TICK,
        metadata: Metadata = (),
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Prepare.

        Args:
            address: "host:port".
            path: of the method.
            message: of each call.
            deadline: seconds of each call, from the instant at which it was meant to be sent.
            connections: how many to spread the calls over.
            tick: seconds slept in an open loop where the next call is due sooner after the last one.
            metadata: of each call.
            tls: how to secure the connections, None for not.
        """
        self._address, self._message, self._deadline, self._tls = address, message, deadline, tls
        self._headers = [
            (b":method", b"POST"),
            (b":scheme", b"http" if tls is None else b"https"),
            (b":path", path.encode()),
            (b":authority", address.encode()),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
            *((key.encode(), value if isinstance(value, bytes) else value.encode()) for key, value in metadata),
        ]
        self._count, self._tick = connections, tick
        self._check: Check | None = None
        self._turn = 0
        self._waiting: deque[float] = deque()
        self._leaving: list[Connection] = []
        self._connections: list[Connection] = []

    def close(self) -> None:
        """Close the connections."""
        for connection in (*self._connections, *self._leaving):
            connection.close()
        self._leaving.clear()
        self._connections.clear()

    def open_loop(self, schedule: Sequence[float], *, check: Check | None = None) -> Outcome:
        """Send at the given instants, whatever comes back, and wait for the answers until the last deadline."""
        self._begin(check)
        began, cpu = time.monotonic(), time.process_time()
        due = [began + at for at in schedule]
        sent: list[tuple[float, int]] = []
        done = 0
        while done < len(due) or self._waiting or self._busy():
            now = time.monotonic()
            ready = bisect_right(due, now, done)
            if ready > done:
                self._waiting.extend(due[done:ready])
                sent.append((now, ready - done))
                done = ready
            self._send(now)
            if done == len(due):
                if now > due[-1] + self._deadline + GRACE:
                    break
                self._hear(PAUSE)
            elif done and due[done] < due[done - 1] + self._tick:
                time.sleep(self._tick)
                self._hear(0)
            else:
                self._hear(min(PAUSE, due[done] - now - SPIN))
        outcome = Outcome(seconds=time.monotonic() - began, cpu_seconds=time.process_time() - cpu, sent=done)
        really = [now for now, calls in sent for _ in range(calls)]
        outcome.late = [now - instant for now, instant in zip(really, due, strict=False)]
        return self._settled(outcome, began)

    def closed_loop(self, in_flight: int, seconds: float, *, check: Check | None = None) -> Outcome:
        """Keep `in_flight` calls going for `seconds`; each answer starts the next call."""
        self._begin(check)
        began, cpu = time.monotonic(), time.process_time()
        missing, sent = in_flight, 0
        while missing or self._waiting or self._busy():
            now = time.monotonic()
            if now - began < seconds:
                self._waiting.extend([now] * missing)
                sent += missing
            elif now - began > seconds + self._deadline + GRACE:
                break
            missing = self._send(now) + self._hear(PAUSE)
        outcome = Outcome(seconds=time.monotonic() - began, cpu_seconds=time.process_time() - cpu, sent=sent)
        return self._settled(outcome, began)

    def _begin(self, check: Check | None) -> None:
        """Begin a run, on connections that have no past."""
        self.close()
        self._check = check
        self._waiting.clear()
        for _ in range(self._count):
            self._connections.append(self._connect())

    def _connect(self) -> Connection:
        connection = Connection(self._address, self._headers, self._message, self._deadline, self._tls)
        if self._check is not None:
            connection.watch()
        return connection

    def _busy(self) -> bool:
        return any(connection.open for connection in (*self._connections, *self._leaving))

    def _send(self, now: float) -> int:
        """Send what waits, where there is room; return how many calls expired in line, as they would in a client.

        Calls that go together go on one connection, the next ones on the next: a system call for each would be most
        of what a call costs here.
        """
        waiting, connections, expired = self._waiting, self._connections, 0
        while waiting and now - waiting[0] > self._deadline:
            waiting.popleft()
            expired += 1
        for _ in connections:
            if not waiting:
                break
            self._turn = (self._turn + 1) % len(connections)
            self._start(self._turn, now)
        for connection in (*connections, *self._leaving):
            if connection.wants_to_write:
                connection.flush()
        return expired

    def _start(self, place: int, now: float) -> None:
        connection, waiting = self._connections[place], self._waiting
        if connection.leaving:
            self._leaving.append(connection)
            connection = self._connections[place] = self._connect()
        room = connection.room()
        if room >= len(waiting):
            connection.start(waiting, now)
            waiting.clear()
        elif room:
            connection.start([waiting.popleft() for _ in range(room)], now)

    def _hear(self, patience: float) -> int:
        """Read what comes within so many seconds; return how many calls ended with it."""
        connections = [*self._connections, *self._leaving]
        by_socket = {connection.socket: connection for connection in connections if not connection.lost}
        writers = [connection.socket for connection in connections if connection.wants_to_write]
        readable, _, _ = select.select(by_socket, writers, (), max(patience, 0.0))
        ended = sum(by_socket[ready].receive() for ready in readable)
        if self._check is not None:
            for connection in connections:
                for latency, status, message in connection.news():
                    self._check(self._meaning(status, latency), message)
        return ended

    def _meaning(self, status: int, latency: float) -> int:
        """Return the status as a client would; the core's way to say that a deadline has passed is a reset stream."""
        return DEADLINE_EXCEEDED if status == CANCELLED and latency >= self._deadline else status

    def _settled(self, outcome: Outcome, began: float) -> Outcome:
        """Work out what was heard, now that it costs the server nothing."""
        for connection in (*self._connections, *self._leaving):
            for instant, latency, status in connection.results():
                outcome.count(self._meaning(status, latency))
                if status == OK:
                    outcome.latencies.append(latency)
                    outcome.instants.append(instant - began)
        outcome.count(DEADLINE_EXCEEDED, outcome.sent - sum(outcome.codes.values()))  # never answered, or never sent
        return outcome
