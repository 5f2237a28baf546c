"""Load for measuring: a lean gRPC client that starts calls on a schedule and times them without lying.

Open loop means the schedule does not wait for answers: latency counts from the instant a call was meant to be sent, so
a server that stalls cannot hide it by slowing its caller down (Gil Tene's "coordinated omission"). Closed loop keeps a
fixed number of calls in flight instead and shows what the server can do at most.

It stands on grpcio's own channel binding because the public client costs three times the CPU and would be what is
measured; one thread sends, one receives. The load stops by itself: it is bounded in time and in calls.
"""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random

from grpc._cython import cygrpc  # type: ignore[attr-defined]

_SPIN = 0.0002
"""Seconds before a send at which the sender stops sleeping and watches the clock."""
_OK = 0

Check = Callable[[int, bytes], None]
"""Sees the status code and the bytes of an answer."""


def _ignore(_code: int, _answer: bytes) -> None:
    """Look at nothing."""


@dataclass(slots=True)
class Outcome:
    """What happened to the calls of one run; times in seconds."""

    latencies: list[float] = field(default_factory=list)
    """Of the calls that were answered with OK."""
    instants: list[float] = field(default_factory=list)
    """When each of those was meant to start, from the beginning of the run."""
    codes: dict[int, int] = field(default_factory=dict)
    sent: int = 0
    late: list[float] = field(default_factory=list)
    """How much later than intended each call was really sent."""
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    """CPU time that the generator itself used."""


class LoadClient:
    """One channel and one receiving thread; `start` may be called from any thread."""

    def __init__(self, target: str) -> None:
        options = ((b"grpc.max_receive_message_length", -1), (b"grpc.max_send_message_length", -1))
        self._channel = cygrpc.Channel(target.encode(), options, None)
        self._pending: dict[int, Callable[[int, bytes], None]] = {}
        self._tags = itertools.count()
        self._wake = threading.Condition()
        self._closing = False
        self._receiver = threading.Thread(target=self._receive, name="load-receiver", daemon=True)
        self._receiver.start()

    def start(self, path: bytes, message: bytes, deadline: float | None, done: Callable[[int, bytes], None]) -> None:
        """Start one unary call; `done(code, answer)` runs on the receiving thread. `deadline` is epoch seconds."""
        tag = next(self._tags)
        self._pending[tag] = done
        operations = (
            cygrpc.SendInitialMetadataOperation((), 0),
            cygrpc.SendMessageOperation(message, 0),
            cygrpc.SendCloseFromClientOperation(0),
            cygrpc.ReceiveInitialMetadataOperation(0),
            cygrpc.ReceiveMessageOperation(0),
            cygrpc.ReceiveStatusOnClientOperation(0),
        )
        self._channel.integrated_call(0, path, None, deadline, (), None, ((operations, tag),), None, None)
        if len(self._pending) == 1:
            with self._wake:
                self._wake.notify()

    def close(self) -> None:
        """End the receiving thread and the channel."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._receiver.join(10)
        self._channel.close(cygrpc.StatusCode.cancelled, "the load is over")

    def _receive(self) -> None:
        while True:
            with self._wake:
                while not self._pending and not self._closing:
                    self._wake.wait()
                if not self._pending:
                    return
            event = self._channel.next_call_event()
            message, status = event.batch_operations[4], event.batch_operations[5]
            self._pending.pop(event.tag)(int(status.code()), message.message() or b"")


def poisson(rate: float, seconds: float, seed: int) -> Iterator[float]:
    """Yield send instants of a Poisson process with `rate` a second, for `seconds`."""
    random, at = Random(seed), 0.0  # noqa: S311 - a schedule, not a secret
    while (at := at + random.expovariate(rate)) < seconds:
        yield at


def open_loop(
    client: LoadClient, path: str, message: bytes, instants: Iterator[float], timeout: float, *, check: Check = _ignore
) -> Outcome:
    """Send at the given instants, whatever comes back, and wait for the last answer (at most `timeout`).

    `check(code, answer)` sees every answer, on the receiving thread.
    """
    outcome, left = Outcome(), _Countdown()
    began, cpu = time.monotonic(), time.process_time()
    epoch = time.time() - began  # noqa: TID251 - gRPC's channel binding takes wall-clock deadlines
    for instant in instants:
        _sleep_until(began + instant)
        now = time.monotonic()
        outcome.late.append(now - began - instant)
        left.add()
        record = _record(outcome, began, instant, left, check)
        client.start(path.encode(), message, epoch + began + instant + timeout, record)
        outcome.sent += 1
    left.wait(timeout + 5)
    outcome.seconds, outcome.cpu_seconds = time.monotonic() - began, time.process_time() - cpu
    return outcome


def closed_loop(
    client: LoadClient, path: str, message: bytes, in_flight: int, seconds: float, *, timeout: float = 30.0
) -> Outcome:
    """Keep `in_flight` calls going for `seconds`; each answer starts the next call."""
    outcome, left = Outcome(), _Countdown()
    began, cpu = time.monotonic(), time.process_time()
    epoch = time.time() - began  # noqa: TID251 - gRPC's channel binding takes wall-clock deadlines

    def start() -> None:
        now = time.monotonic()
        record = _record(outcome, began, now - began, left, _ignore)
        outcome.sent += 1

        def done(code: int, answer: bytes) -> None:
            if time.monotonic() - began < seconds:
                left.add()
                start()
            record(code, answer)

        client.start(path.encode(), message, epoch + now + timeout, done)

    for _ in range(in_flight):
        left.add()
        start()
    left.wait(seconds + timeout + 5)
    outcome.seconds, outcome.cpu_seconds = time.monotonic() - began, time.process_time() - cpu
    return outcome


class _Countdown:
    """Counts calls in flight; `wait` returns when none is left."""

    def __init__(self) -> None:
        self._count = 0
        self._zero = threading.Condition()

    def add(self) -> None:
        with self._zero:
            self._count += 1

    def done(self) -> None:
        with self._zero:
            self._count -= 1
            if self._count == 0:
                self._zero.notify_all()

    def wait(self, timeout: float) -> None:
        with self._zero:
            self._zero.wait_for(lambda: self._count == 0, timeout)


def _record(outcome: Outcome, began: float, instant: float, left: _Countdown, check: Check) -> Check:
    def done(code: int, answer: bytes) -> None:
        check(code, answer)
        outcome.codes[code] = outcome.codes.get(code, 0) + 1
        if code == _OK:
            outcome.latencies.append(time.monotonic() - began - instant)
            outcome.instants.append(instant)
        left.done()

    return done


def _sleep_until(instant: float) -> None:
    while (ahead := instant - time.monotonic()) > 0:
        if ahead > _SPIN:
            time.sleep(ahead - _SPIN / 2)
