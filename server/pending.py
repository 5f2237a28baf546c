"""An accepted request on its way to its one answer, and the way back from batch to request.

The batcher sees its base class, the caller sees a ticket, the scheduler sees who is still owed an answer.
This module must never know locks, queues or instances.
"""

from collections.abc import Sequence
from typing import Protocol

from typing_extensions import override

from server.codec import join_rows, split_rows
from server.errors import ServingError
from server.lanes import Entry, Piece
from server.messages import InferRequest, InferResponse, Reply, Tensor, Ticket, Timing
from server.sessions.base import BatchOutputs, Part
from server.spec import ModelSpec

Outcome = InferResponse | ServingError

SHORT = 32
"""Bytes of text up to which rows count as alike: a country and a gender are nothing to sort customers by."""


class _Owner(Protocol):
    def cancel(self, pending: "Pending") -> None: ...


class Pending(Entry, Ticket):
    """One accepted request. `settled` turns True once, under the scheduler's lock: whoever turns it owes the reply."""

    __slots__ = ("_owner", "bytes", "deaths", "outcome", "parts", "reply", "request", "settled", "started")

    def __init__(self, request: InferRequest, reply: Reply, owner: _Owner, arrival: float) -> None:
        super().__init__(request.rows, request.deadline, arrival)
        self.size = request.size if request.size > SHORT else 0
        self.request = request
        self.reply = reply
        self.settled = False
        self.bytes = 0
        self.deaths = 0
        """How many instances died while running it."""
        self.started = 0.0
        self.parts: dict[int, tuple[Tensor, ...]] | None = None
        """Outputs by first row, of a request whose rows ran apart."""
        self.outcome: Outcome | None = None
        """The answer, while it waits for its turn where ordering is preserved."""
        self._owner = owner

    @override
    def cancel(self) -> None:
        self._owner.cancel(self)

    def part(self, start: int, rows: int) -> Part:
        """Return `rows` of the request's inputs from `start` on, as the instance wants them."""
        inputs = self.request.inputs
        if rows == self.rows:
            return Part(inputs, rows)
        stop = start + rows
        bounds = sorted({0, start, stop, self.rows})
        place = bounds.index(start)
        return Part(tuple(split_rows(tensor, bounds)[place] for tensor in inputs), rows)

    def collect(self, start: int, outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        """Keep the outputs of one slice; return those of the whole request once the last slice is there."""
        if self.parts is None:
            self.parts = {}
        self.parts[start] = outputs
        if sum(part[0].shape[0] for part in self.parts.values()) < self.rows:
            return None
        slices = [self.parts[key] for key in sorted(self.parts)]
        return tuple(join_rows(list(tensors)) for tensors in zip(*slices, strict=True))


class Responder:
    """Makes responses of raw outputs, for one model version."""

    def __init__(self, spec: ModelSpec) -> None:
        self._name = spec.name
        self._version = spec.version
        self._batches = spec.batches
        self._count = len(spec.outputs)
        self._places = {tensor.name: place for place, tensor in enumerate(spec.outputs)}

    def problem(self, pieces: Sequence[Piece[Pending]], run: BatchOutputs) -> str:
        """Say what is wrong with the shape of a run's outputs, "" if nothing is.

        A model may return fewer rows than it was given; whose rows those are, nobody can tell then.
        """
        if len(run.parts) != len(pieces):
            return f"expected outputs of {len(pieces)} parts, got {len(run.parts)}"
        for (_, _, rows), outputs in zip(pieces, run.parts, strict=True):
            if len(outputs) != self._count:
                return f"expected {self._count} outputs, got {len(outputs)}"
            if self._batches:
                for tensor in outputs:
                    if not tensor.shape or tensor.shape[0] != rows:
                        return f"output {tensor.name}: expected {rows} rows, got shape {list(tensor.shape)}"
        return ""

    def respond(self, pending: Pending, outputs: tuple[Tensor, ...], run: BatchOutputs, rows: int) -> InferResponse:
        """Return the answer to one request, with the outputs it asked for."""
        request = pending.request
        if request.outputs:
            outputs = tuple(outputs[self._places[name]] for name in request.outputs)
        timing = Timing(
            pending.started - pending.arrival, run.compute_input, run.compute_infer, run.compute_output, rows,
            pending.started,
        )  # fmt: skip
        return InferResponse(self._name, self._version, request.id, outputs, timing)
