"""sluice.v1.Predictions: the shipped models with named fields, over the same queue as everything else.

Each service method is one `Question`: how its rows become the tensors of one model, and the tensors an answer. The
model is found by name in the catalog like any other; if somebody serves another one under that name, the call says so.
Pictures are decoded on threads of their own: that takes milliseconds, and the transport's thread has microseconds.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from google.protobuf.message import Message

from server.catalog import Catalog
from server.errors import FailedPrecondition, InvalidRequest, ModelNotReady, ShuttingDown
from server.messages import InferRequest, InferResponse, Tensor
from server.queues.base import Queue
from server.spec import ModelSpec
from server.transports.base import Call
from server.wire.auth import Scope
from server.wire.exchange import Exchange
from server.wire.gate import Gate
from server.wire.limits import Limits
from server.wire.prescan import prescan_rows
from server.wire.reader import find_model
from server.wire.rpc import parse

_ATTEMPTS = 3
"""As in infer.py: a version may be swapped under us."""


@dataclass(frozen=True, slots=True)
class Question:
    """One typed method: which model, which tensors, and both translations. `tensors` may raise InvalidRequest."""

    model: str
    request: type[Message]
    inputs: tuple[tuple[str, str, tuple[int, ...]], ...]
    """Name, datatype and row shape of the tensors this method makes."""
    output: tuple[str, int]
    """Name and values per row (FP32) of the output it reads."""
    rows: Callable[[Any], Sequence[Any]]
    tensors: Callable[[Sequence[Any], Limits], list[bytes]]
    """Raw contents of each input, in the order of `inputs`."""
    answer: Callable[[InferResponse], Message]
    slow: bool = False
    """Whether making the tensors takes longer than the transport's thread has."""


class TypedHandler:
    """The Fast handler of one typed method."""

    def __init__(
        self,
        gate: Gate,
        catalog: Catalog,
        queue: Queue,
        question: Question,
        pool: ThreadPoolExecutor,
        *,
        distant: bool = False,
    ) -> None:
        """`distant`: see `InferHandler`."""
        self._distant = distant
        self._gate = gate
        self._catalog = catalog
        self._queue = queue
        self._question = question
        self._pool = pool if question.slow else None

    def __call__(self, call: Call, message: bytes) -> None:
        """Answer one call, sooner or later, through `call`."""
        with Exchange(self._gate, call, len(message)) as exchange:
            self._gate.authenticator.check(call.metadata, Scope.INFER)
            exchange.admit()
            prescan_rows(message, self._gate.limits)
            if self._pool is None:
                self._start(exchange, call, message)
            else:
                self._pool.submit(self._start_later, exchange, call, message)

    def _start_later(self, exchange: Exchange, call: Call, message: bytes) -> None:
        with exchange:
            self._start(exchange, call, message)

    def _start(self, exchange: Exchange, call: Call, message: bytes) -> None:
        deadline = exchange.deadline()
        question, limits = self._question, self._gate.limits
        request: Any = parse(question.request, message, limits.max_message_bytes)
        rows = question.rows(request)
        if not 1 <= len(rows) <= limits.max_rows:
            field = question.request.DESCRIPTOR.fields[0].name
            raise InvalidRequest(f"{field}: expected 1 to {limits.max_rows} rows, got {len(rows)}")
        raws = question.tensors(rows, limits)

        def make(spec: ModelSpec) -> InferRequest:
            return _infer_request(question, spec, raws, len(rows), deadline)

        self._submit(exchange, call, request.model_version, make, _ATTEMPTS)

    def _submit(
        self, exchange: Exchange, call: Call, version: str, make: Callable[[ModelSpec], InferRequest], attempts: int
    ) -> None:
        for left in range(attempts - 1, -1, -1):
            spec = find_model(self._catalog, self._question.model, version).spec
            exchange.found(spec)
            asked = make(spec)
            again = partial(self._submit, exchange, call, version, make, left) if self._distant and left else None
            exchange.expect(asked, _encode, self._question, again)
            try:
                ticket = self._queue.submit(asked, exchange.reply)
            except (ModelNotReady, ShuttingDown):
                if not left:
                    raise
            else:
                call.on_cancel(ticket.cancel)
                return


def _encode(response: InferResponse, question: Question) -> bytes:
    return question.answer(response).SerializeToString()


def _infer_request(
    question: Question, spec: ModelSpec, raws: Sequence[bytes], rows: int, deadline: float
) -> InferRequest:
    """Build the request for a model that must take and give what the typed method makes and reads."""
    made = {
        name: Tensor(name, datatype, (rows, *shape), raw)
        for (name, datatype, shape), raw in zip(question.inputs, raws, strict=True)
    }
    wanted = {(name, datatype, (-1, *shape)) for name, datatype, shape in question.inputs}
    output, width = question.output
    promised = {(tensor.name, tensor.datatype, tensor.shape) for tensor in spec.outputs}
    if {(t.name, t.datatype, t.shape) for t in spec.inputs} != wanted or (output, "FP32", (-1, width)) not in promised:
        raise FailedPrecondition(
            f"the served model '{question.model}' has other tensors than this method knows; use ModelInfer"
        )
    text = sum(len(tensor.data) for tensor in made.values() if tensor.datatype == "BYTES")
    return InferRequest(
        spec.name, spec.version, "", tuple(made[tensor.name] for tensor in spec.inputs), rows, text // rows, (output,),
        deadline=deadline, spec=spec,
    )  # fmt: skip
