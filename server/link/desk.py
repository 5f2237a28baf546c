"""The engine's end of one link: takes requests for a frontend's callers and sends their answers back.

State: what is owed to the frontend, by the number it gave. When the link ends, all of it is cancelled, so a dead
frontend's work is freed at once. `gathering` has the threads that flush the link themselves when they have made all the
answers of a batch; what others answer is sent at once. This module must never know a wire or who the callers are.
"""

import json
import threading
from collections.abc import Callable, Container, Mapping
from dataclasses import astuple
from functools import partial

from server.errors import ModelNotReady, ServingError
from server.link.end import End, Handler
from server.link.failures import encode_error
from server.link.frames import ASK, CANCEL, REFUSAL, REQUEST, REQUEST_TEMPLATE, TOLD, CorruptFrame, frame
from server.link.packets import AnswerWriter, RequestReader
from server.messages import Buffer, InferResponse, Ticket
from server.queues.base import Queue
from server.spec import ModelSpec


def _at_once(function: Callable[[], None]) -> None:
    function()


class Desk:
    """Stands before a queue for one frontend. `attach` gives it the link before the first frame."""

    def __init__(
        self,
        queue: Queue,
        spec_of: Callable[[int], ModelSpec | None],
        gathering: Container[int] = (),
        after_news: Callable[[Callable[[], None]], object] = _at_once,
    ) -> None:
        """`after_news` calls a function once the frontend was told which versions have come and gone."""
        self._queue = queue
        self._gathering = gathering
        self._after_news = after_news
        self._requests = RequestReader(spec_of)
        self._owed: dict[int, _Owed] = {}
        self.handlers: Mapping[int, Handler] = {
            REQUEST: self._on_request, REQUEST_TEMPLATE: self._requests.define, CANCEL: self._on_cancel,
            ASK: self._on_ask,
        }  # fmt: skip

    @property
    def owed(self) -> int:
        """Requests not yet answered."""
        return len(self._owed)

    def attach(self, end: End) -> None:
        """Use this link."""
        self._end = end
        self._answers = AnswerWriter(end.put)

    def cancel_all(self) -> None:
        """Give up everything that is owed: the frontend is gone."""
        for owed in list(self._owed.values()):
            if owed.ticket is not None:
                owed.ticket.cancel()

    def answer(self, number: int, outcome: InferResponse | ServingError) -> None:
        """Send an answer that is owed; any thread."""
        if self._owed.pop(number, None) is None or self._end.lost:
            return
        if isinstance(outcome, ModelNotReady):
            # It looks again at once, and must see more than it saw before.
            self._after_news(partial(self._send, number, outcome))
        else:
            self._send(number, outcome)

    def _send(self, number: int, outcome: InferResponse | ServingError) -> None:
        if isinstance(outcome, ServingError):
            self._end.put((frame(REFUSAL, number, json.dumps(encode_error(outcome)).encode()),))
        else:
            self._answers.write(number, outcome)
        thread = threading.get_ident()
        if thread not in self._gathering and thread != self._end.receiver:
            self._end.flush()

    def _on_request(self, number: int, data: Buffer, start: int, stop: int) -> None:
        if number in self._owed:
            raise CorruptFrame(f"a second request {number}")
        try:
            request = self._requests.read(data, start, stop)
            owed = self._owed[number] = _Owed()
            owed.ticket = self._queue.submit(request, partial(self.answer, number))
        except ServingError as error:
            self._owed[number] = _Owed()
            self.answer(number, error)

    def _on_cancel(self, number: int, _: Buffer, __: int, ___: int) -> None:
        owed = self._owed.get(number)
        if owed is not None and owed.ticket is not None:
            owed.ticket.cancel()

    def _on_ask(self, number: int, _: Buffer, __: int, ___: int) -> None:
        rows = [(*key, *astuple(shown)) for key, shown in self._queue.statistics().items()]
        self._end.tell(TOLD, number, json.dumps(rows).encode())


class _Owed:
    """One request not yet answered. Its reply does not know it: they would keep each other alive."""

    __slots__ = ("ticket",)

    def __init__(self) -> None:
        self.ticket: Ticket | None = None
