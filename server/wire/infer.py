"""ModelInfer: bytes in on the transport's thread, bytes out on the thread that heard of the batch.

The order is the point: who calls, is there room, is the message harmless, what does it mean, then the queue. Nothing
here waits, and nothing is parsed for a caller who may not call or for whom there is no room.
"""

from functools import partial

from server.errors import DeadlineUnreachable, ModelNotReady, ShuttingDown
from server.queues.base import Queue
from server.transports.base import Call
from server.wire.answer import encode
from server.wire.auth import Scope
from server.wire.exchange import Exchange
from server.wire.gate import Gate
from server.wire.layout import Layout
from server.wire.observer import Meter
from server.wire.reader import Reader
from server.wire.refusals import Refusals

_ATTEMPTS = 3
"""A version may be swapped between look-up and queue; a caller who let us choose is served by its successor."""


class InferHandler:
    """The Fast handler of /inference.GRPCInferenceService/ModelInfer."""

    def __init__(self, gate: Gate, reader: Reader, queue: Queue, *, distant: bool = False) -> None:
        """`distant`: the queue may say by its reply what others raise, because its scheduler is in another process."""
        self._distant = distant
        self._gate = gate
        self._reader = reader
        self._queue = queue
        self.refusals = Refusals(gate.observer, queue.reject)

    def __call__(self, call: Call, message: bytes) -> None:
        """Answer one call, sooner or later, through `call`."""
        with Exchange(self._gate, call, len(message)) as exchange:
            self._gate.authenticator.check(call.metadata, Scope.INFER)
            self._start(exchange, call, message)

    def trusted(self, call: Call, message: bytes) -> None:
        """Do the same for a caller who was authenticated when the stream that carries the message began."""
        with Exchange(self._gate, call, len(message)) as exchange:
            self._start(exchange, call, message)

    def _start(self, exchange: Exchange, call: Call, message: bytes) -> None:
        exchange.admit()
        self._submit(exchange, call, message, exchange.deadline(), _ATTEMPTS)

    def _submit(self, exchange: Exchange, call: Call, message: bytes, deadline: float, attempts: int) -> None:
        for left in range(attempts - 1, -1, -1):
            request, layout = self._reader.read(message, deadline, exchange.found)
            again = partial(self._submit, exchange, call, message, deadline, left) if self._distant and left else None
            meter = layout.meters.get(call.method) or self._meter(call.method, layout)
            exchange.expect(request, encode, layout, again, meter)
            try:
                ticket = self._queue.submit(request, exchange.reply)
            except (ModelNotReady, ShuttingDown):  # its queue closed a moment ago; look again
                if not left:
                    raise
            except DeadlineUnreachable as refusal:
                if self._reader.first_named(message) is request.spec:
                    self.refusals.remember(call, message, request, refusal)
                raise
            else:
                call.on_cancel(ticket.cancel)
                return

    def _meter(self, method: str, layout: Layout) -> Meter:
        spec = layout.spec
        meter = layout.meters[method] = self._gate.observer.meter(method, spec.name, spec.version)
        return meter
