"""Requests and answers as frames.

Instants travel as they are: time.monotonic() is CLOCK_MONOTONIC, which Linux counts for the machine and not for the
process, and both ends are of one machine. This module must never know sockets or who waits for an answer.
"""

import math
from collections.abc import Callable, Sequence

from server.errors import ModelNotReady
from server.link.frames import ANSWER, ANSWER_TEMPLATE, REQUEST, REQUEST_TEMPLATE
from server.link.templates import JOINED, LearntTemplates, Put, Templates
from server.messages import Buffer, InferRequest, InferResponse, Packed, Tensor, Timing, taken_apart
from server.spec import ModelSpec

_REQUEST = "IQQddHH"  # template, size, priority, deadline, timeout, bytes of the id, of the traceparent
_ANSWER = "IdddddI"  # template, the timing's four durations and start, batch_rows


class RequestWriter:
    """Writes requests to one link; any thread. `number_of` tells under which number the engine knows a spec."""

    def __init__(self, put: Put, number_of: Callable[[ModelSpec | None], int]) -> None:
        self._put = put
        self._number_of = number_of
        self._templates = Templates(put, REQUEST_TEMPLATE, _REQUEST)

    def write(self, number: int, request: InferRequest) -> None:
        """Put a request on its way."""
        inputs = taken_apart(request.inputs)
        r, templates = request, self._templates
        # The template holds on to both objects, so no other can have the ids that are in the key.
        shared = inputs is r.inputs
        key = (
            id(inputs.form) if shared else inputs.form, id(r.spec), r.model_name, r.model_version, r.rows, r.outputs,
        )  # fmt: skip
        ident, trace = r.id.encode(), r.traceparent.encode()
        timeout = math.nan if r.timeout is None else r.timeout
        with templates.lock:
            template = templates.known.get(key)
            if template is None:
                about = (r.model_name, r.model_version, r.rows, r.outputs, self._number_of(r.spec))
                template = templates.define(key, about, inputs.form)
                template.spec = r.spec
            raws, lengths = template.depart(inputs.raws)
            body = template.head.size + len(ident) + len(trace) + sum(map(len, raws))
            head = template.framed.pack(
                body, REQUEST, number, template.number, r.size, r.priority, r.deadline, timeout, len(ident), len(trace),
                *lengths,
            )  # fmt: skip
            self._put(_pieces(body, (head, ident, trace, *raws)))


class RequestReader(LearntTemplates):
    """Reads what a RequestWriter wrote. `spec_of` returns the spec under a number, None when it is out of service."""

    def __init__(self, spec_of: Callable[[int], ModelSpec | None]) -> None:
        super().__init__(_REQUEST, [str, str, int, list, int])
        self._spec_of = spec_of

    def read(self, data: Buffer, start: int, stop: int) -> InferRequest:
        """Return the request.

        Raises:
            CorruptFrame; UnicodeDecodeError: an id that is no text.
            ModelNotReady: what it was checked against has left service.
        """
        template, head = self.head(data, start, stop)
        _, size, priority, deadline, timeout, id_length, trace_length, *lengths = head
        model, version, rows, outputs, spec_number = template.shared
        if template.spec is None and spec_number:
            template.spec = self._spec_of(spec_number)
            if template.spec is None:
                raise ModelNotReady(f"model {model!r}: this version is no longer in service")
        at = start + template.head.size
        ident = str(data[at : at + id_length], "utf-8") if id_length else ""
        at += id_length
        trace = str(data[at : at + trace_length], "utf-8") if trace_length else ""
        raws = template.arrive(data, at + trace_length, stop, lengths)
        known = None if timeout != timeout else timeout  # noqa: PLR0124 - NaN stands for none
        return InferRequest(
            model, version, ident, Packed(template.form, raws), rows, size, tuple(outputs), priority, deadline, known,
            trace, template.spec,
        )  # fmt: skip


class AnswerWriter:
    """Writes answers to one link; any thread."""

    def __init__(self, put: Put) -> None:
        self._put = put
        self._templates = Templates(put, ANSWER_TEMPLATE, _ANSWER)

    def write(self, number: int, answer: InferResponse) -> None:
        """Put an answer on its way; its id stays behind, the other end knows it."""
        outputs, templates, t = taken_apart(answer.outputs), self._templates, answer.timing
        key = (outputs.form, answer.model_name, answer.model_version)
        with templates.lock:
            template = templates.known.get(key)
            if template is None:
                template = templates.define(key, key[1:], outputs.form)
            raws, lengths = template.depart(outputs.raws)
            body = template.head.size + sum(map(len, raws))
            head = template.framed.pack(
                body, ANSWER, number, template.number, t.queue, t.compute_input, t.compute_infer, t.compute_output,
                t.started, t.batch_rows, *lengths,
            )  # fmt: skip
            self._put(_pieces(body, (head, *raws)))


class AnswerReader(LearntTemplates):
    """Reads what an AnswerWriter wrote."""

    def __init__(self) -> None:
        super().__init__(_ANSWER, [str, str])

    def read(self, data: Buffer, start: int, stop: int, ident: str) -> InferResponse:
        """Return the answer to the request whose id is `ident`. Raises CorruptFrame."""
        template, (_, queue, into, infer, out, started, batch_rows, *lengths) = self.head(data, start, stop)
        raws = template.arrive(data, start + template.head.size, stop, lengths)
        outputs = tuple([Tensor(*form, raw) for form, raw in zip(template.form, raws, strict=True)])
        model, version = template.shared
        return InferResponse(model, version, ident, outputs, Timing(queue, into, infer, out, batch_rows, started))


def _pieces(body: int, parts: Sequence[Buffer]) -> Sequence[Buffer]:
    return (b"".join(parts),) if body <= JOINED else parts
