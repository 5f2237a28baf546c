"""ModelInfer: bytes in on the transport's thread, bytes out on the thread that heard of the batch.

The order is the point: who calls, is there room, is the message harmless, what does it mean, then the queue. Nothing
here waits, and nothing is parsed for a caller who may not call or for whom there is no room.
"""

from server.errors import ModelNotReady, ShuttingDown
from server.queues.base import Queue
from server.transports.base import Call
from server.wire.answer import encode
from server.wire.auth import Scope
from server.wire.exchange import Exchange
from server.wire.gate import Gate
from server.wire.reader import Reader

_ATTEMPTS = 3
"""A version may be swapped between look-up and queue; a caller who let us choose is served by its successor."""


class InferHandler:
    """The Fast handler of /inference.GRPCInferenceService/ModelInfer."""

    def __init__(self, gate: Gate, reader: Reader, queue: Queue) -> None:
        self._gate = gate
        self._reader = reader
        self._queue = queue

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
        deadline = exchange.deadline()
        for attempt in range(1, _ATTEMPTS + 1):
            request, layout = self._reader.read(message, deadline, exchange.found)
            exchange.expect(request, encode, layout)
            try:
                ticket = self._queue.submit(request, exchange.reply)
            except (ModelNotReady, ShuttingDown):  # its queue closed a moment ago; look again
                if attempt == _ATTEMPTS:
                    raise
            else:
                call.on_cancel(ticket.cancel)
                return
