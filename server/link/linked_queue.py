"""The queue as a frontend process has it: requests go to the engine over the link, and their answers come back.

The scheduler that decides is the engine's, so what `submit` would raise elsewhere comes here as the reply, and so does
the end of the link: every request still open is then answered with QueueUnavailable.
State: the requests not yet answered, by number. This module must never know a socket or a wire.
"""

import itertools
import json
import threading
from collections.abc import Callable, Mapping
from queue import Empty, SimpleQueue

from typing_extensions import override

from server.alarm import call_isolated
from server.bundle import AddReader
from server.errors import QueueUnavailable
from server.link.end import End, Handler
from server.link.failures import decode_error
from server.link.frames import ANSWER, ANSWER_TEMPLATE, ASK, CANCEL, REFUSAL, TOLD, CorruptFrame, frame
from server.link.packets import AnswerReader, RequestWriter
from server.messages import Buffer, InferRequest, Reply, Ticket
from server.queues.base import QueueStatistics
from server.spec import ModelSpec
from server.transports.base import Ledger

PATIENCE = 1.0
"""Seconds `statistics` waits for the engine."""


class LinkedQueue:
    """See `server.queues.base.Queue`. `attach` gives it the link before the first request."""

    def __init__(self, number_of: Callable[[ModelSpec | None], int]) -> None:
        self._numbers = itertools.count()
        self._open: dict[int, tuple[Reply, str]] = {}
        self._answers = AnswerReader()
        self._number_of = number_of
        self._gathering: int | None = None
        self._ledger: Ledger | None = None
        self._settling = False
        self._told: SimpleQueue[dict[tuple[str, str], QueueStatistics]] = SimpleQueue()
        self.handlers: Mapping[int, Handler] = {
            ANSWER: self._on_answer, ANSWER_TEMPLATE: self._answers.define, REFUSAL: self._on_refusal,
            TOLD: self._on_told,
        }  # fmt: skip

    def attach(self, end: End) -> None:
        """Use this link."""
        self._end = end
        self._requests = RequestWriter(end.put, self._number_of)

    def write_down(self, ledger: Ledger) -> None:
        """Have a ledger settle the answers that come together, on the thread that they come on."""
        self._ledger = ledger

    def settle(self) -> None:
        """See `End`: all that came together was handed on."""
        if self._ledger is not None:
            if not self._settling:
                self._settling = True
                self._ledger.begin()
            self._ledger.settle()

    def submit(self, request: InferRequest, reply: Reply) -> Ticket:
        """See `Queue.submit`; refusals come as the reply."""
        number = next(self._numbers)
        self._open[number] = reply, request.id
        self._requests.write(number, request)
        if threading.get_ident() != self._gathering:
            self._end.flush()
        if self._end.lost and self._open.pop(number, None) is not None:
            raise _unavailable()
        return _Sent(self, number)

    def cancel(self, number: int) -> None:
        """Tell the engine that a request's caller has left."""
        if number in self._open:
            self._end.put((frame(CANCEL, number),))
            if threading.get_ident() != self._gathering:
                self._end.flush()

    def reject(self, model: str, version: str, reason: str, requests: int = 1) -> None:
        """See `Queue.reject`; never called, because refusals come as the reply here."""

    def statistics(self) -> dict[tuple[str, str], QueueStatistics]:
        """See `Queue.statistics`; asks the engine and waits for what it says. Empty when it is gone."""
        self._end.tell(ASK, 0)
        try:
            return self._told.get(timeout=PATIENCE)
        except Empty:
            return {}

    # What a transport's thread that has other things to do than flushing asks of us (`transports.base.Gather`).

    def begin(self, add_reader: AddReader) -> None:  # noqa: ARG002  the link has a thread of its own
        """Leave flushing to the calling thread from now on, for what it submits itself."""
        self._gathering = threading.get_ident()

    def waiting(self) -> int:
        """Return how much is to be flushed, in frames."""
        return self._end.waiting()

    def flush(self) -> None:
        """Send it."""
        self._end.flush()

    def pause(self) -> float:
        """Nothing is known here of what could begin."""
        return 0.0

    def fail_all(self) -> None:
        """Answer everything open: the link is gone."""
        while self._open:
            _, (reply, _) = self._open.popitem()
            call_isolated(reply, _unavailable())

    def _on_answer(self, number: int, data: Buffer, start: int, stop: int) -> None:
        reply, ident = self._take(number)
        call_isolated(reply, self._answers.read(data, start, stop, ident))

    def _on_refusal(self, number: int, data: Buffer, start: int, stop: int) -> None:
        call_isolated(self._take(number)[0], decode_error(json.loads(bytes(data[start:stop]))))

    def _on_told(self, _: int, data: Buffer, start: int, stop: int) -> None:
        rows = json.loads(bytes(data[start:stop]))
        self._told.put({(model, version): QueueStatistics(*numbers) for model, version, *numbers in rows})

    def _take(self, number: int) -> tuple[Reply, str]:
        sent = self._open.pop(number, None)
        if sent is None:
            raise CorruptFrame(f"an answer to request {number}, which is not open")
        return sent


class _Sent(Ticket):
    """Does not know its reply: the call that keeps it to cancel it would keep itself alive."""

    __slots__ = ("_number", "_queue")

    def __init__(self, queue: LinkedQueue, number: int) -> None:
        self._queue = queue
        self._number = number

    @override
    def cancel(self) -> None:
        self._queue.cancel(self._number)


def _unavailable() -> QueueUnavailable:
    return QueueUnavailable("this server's engine process is gone; it is on its way down")
