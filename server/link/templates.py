"""Requests and answers as bodies of frames, without saying again what was said before.

Most requests of a model differ in nothing but an id, a deadline and the tensors' contents. What they share (the
model, names, types, shapes) is a template: described once a link, in JSON, under a number that the frames then name.
With it a frame is one struct and the raw bytes of the tensors; neither end looks at a shape again. The numbers
of a link's templates begin afresh when there are `MOST_TEMPLATES`, since shapes may come from callers.

Instants travel as they are: time.monotonic() is CLOCK_MONOTONIC, which Linux counts for the machine and not for the
process, and both ends are of one machine. This module must never know sockets or who waits for an answer.
"""

import json
import math
import struct
from collections.abc import Callable, Sequence
from operator import attrgetter, itemgetter
from threading import Lock
from typing import Any

from server.errors import ModelNotReady
from server.link.frames import ANSWER, ANSWER_TEMPLATE, HEAD, REQUEST, REQUEST_TEMPLATE, CorruptFrame, frame
from server.messages import ITEM_BYTES, Buffer, InferRequest, InferResponse, Tensor, Timing, element_count
from server.spec import ModelSpec

MOST_TEMPLATES = 1024
JOINED = 16 << 10
"""Bytes up to which a frame is made one piece: copying them costs less than handing them to the kernel in pieces."""

Put = Callable[[Sequence[Buffer]], None]
_DESCRIPTION = attrgetter("name", "datatype", "shape")
_REQUEST = "IQQddHH"  # template, size, priority, deadline, timeout, bytes of the id, of the traceparent
_ANSWER = "IdddddI"  # template, the timing's four durations and start (one machine, one clock), batch_rows
_dump = json.JSONEncoder(separators=(",", ":")).encode


class Template:
    """Named tensors of one shape each, and the struct in front of their contents.

    On the way those of fixed size come first, so that one struct cuts them all; the lengths of the others (BYTES) are
    the last fields of the head.
    """

    def __init__(self, number: int, fields: str, shared: Sequence[Any], tensors: Sequence[Sequence[Any]]) -> None:
        self.number = number
        self.shared = shared
        self.spec: ModelSpec | None = None
        """What requests of this template were checked against."""
        self._names = [str(name) for name, _, _ in tensors]
        self._datatypes = [str(datatype) for _, datatype, _ in tensors]
        self._shapes = [tuple(map(int, shape)) for _, _, shape in tensors]
        sizes = [
            ITEM_BYTES[datatype] * element_count(shape) if datatype in ITEM_BYTES else -1
            for datatype, shape in zip(self._datatypes, self._shapes, strict=True)
        ]
        order = sorted(range(len(sizes)), key=lambda place: sizes[place] < 0)
        self._fixed = [sizes[place] for place in order if sizes[place] >= 0]
        self._varying = len(sizes) - len(self._fixed)
        self._depart = _arranger(order)
        self._arrive = _arranger([order.index(place) for place in range(len(order))])
        self.head = struct.Struct(f"<{fields}{self._varying}I")
        self.framed = struct.Struct(f"<IBQ{fields}{self._varying}I")
        self._cutter = struct.Struct("".join(f"{size}s" for size in self._fixed))

    def contents(self, tensors: Sequence[Tensor]) -> tuple[Sequence[Buffer], list[int]]:
        """Return the raw contents in the order of the way, and the lengths that the head must tell."""
        datas: Sequence[Buffer] = [tensor.data for tensor in tensors]
        if self._depart is not None:
            datas = self._depart(datas)
        return datas, [len(data) for data in datas[len(self._fixed) :]]

    def tensors(self, data: Buffer, at: int, stop: int, lengths: Sequence[int]) -> tuple[Tensor, ...]:
        """Return the tensors whose contents are data[at:stop]; views where `data` is one. Raises CorruptFrame."""
        if self._cutter.size + sum(lengths) != stop - at:
            expected = self._cutter.size + sum(lengths)
            raise CorruptFrame(f"expected {expected} bytes of tensors, got {stop - at}")
        raws: Sequence[Buffer]
        if type(data) is bytes and not lengths:
            raws = self._cutter.unpack_from(data, at)
        elif type(data) is bytes:
            raws = [*self._cutter.unpack_from(data, at), *_cut(data, at + self._cutter.size, lengths)]
        else:
            raws = _cut(data, at, [*self._fixed, *lengths])
        if self._arrive is not None:
            raws = self._arrive(raws)
        return tuple(map(Tensor, self._names, self._datatypes, self._shapes, raws))


class RequestWriter:
    """Writes requests to one link; any thread. `number_of` tells under which number the engine knows a spec."""

    def __init__(self, put: Put, number_of: Callable[[ModelSpec | None], int]) -> None:
        self._put = put
        self._number_of = number_of
        self._known: dict[object, Template] = {}
        self._lock = Lock()  # a template and the frames that name it must leave in this order

    def write(self, number: int, request: InferRequest) -> None:
        """Put a request on its way."""
        inputs = request.inputs
        key = (
            request.model_name, request.model_version, request.rows, request.outputs, id(request.spec),
            *map(_DESCRIPTION, inputs),
        )  # fmt: skip
        ident, trace = request.id.encode(), request.traceparent.encode()
        timeout = math.nan if request.timeout is None else request.timeout
        with self._lock:
            template = self._known.get(key)
            if template is None:
                template = self._define(key, request)
            datas, lengths = template.contents(inputs)
            body = template.head.size + len(ident) + len(trace) + sum(map(len, datas))
            head = template.framed.pack(
                body, REQUEST, number, template.number, request.size, request.priority, request.deadline, timeout,
                len(ident), len(trace), *lengths,
            )  # fmt: skip
            parts = (head, ident, trace, *datas)
            self._put((b"".join(parts),) if body <= JOINED else parts)

    def _define(self, key: object, r: InferRequest) -> Template:
        shared = (r.model_name, r.model_version, r.rows, r.outputs, self._number_of(r.spec))
        template = _define(self._known, key, self._put, REQUEST_TEMPLATE, _REQUEST, shared, r.inputs)
        template.spec = r.spec  # kept, so that no other object gets the id that is in the key
        return template


class AnswerWriter:
    """Writes answers to one link; any thread."""

    def __init__(self, put: Put) -> None:
        self._put = put
        self._known: dict[object, Template] = {}
        self._lock = Lock()

    def write(self, number: int, answer: InferResponse) -> None:
        """Put an answer on its way; its id stays behind, the other end knows it."""
        key = (answer.model_name, answer.model_version, *map(_DESCRIPTION, answer.outputs))
        t = answer.timing
        with self._lock:
            template = self._known.get(key)
            if template is None:
                template = _define(self._known, key, self._put, ANSWER_TEMPLATE, _ANSWER, key[:2], answer.outputs)
            datas, lengths = template.contents(answer.outputs)
            body = template.head.size + sum(map(len, datas))
            head = template.framed.pack(
                body, ANSWER, number, template.number, t.queue, t.compute_input, t.compute_infer, t.compute_output,
                t.started, t.batch_rows, *lengths,
            )  # fmt: skip
            self._put((b"".join((head, *datas)),) if body <= JOINED else (head, *datas))


class TemplateReader:
    """The templates that the other end has defined; `read_request` or `read_answer` undo what was written by them."""

    def __init__(self, fields: str, shared: list[type]) -> None:
        self._fields = fields
        self._shared = shared
        self._known: dict[int, Template] = {}

    def define(self, number: int, data: Buffer, start: int, stop: int) -> None:
        """Learn a template. Raises CorruptFrame."""
        try:
            shared, *tensors = json.loads(bytes(data[start:stop]))
            template = Template(number, self._fields, shared, tensors)
            kinds = [type(value) for value in shared]
        except (ValueError, TypeError, struct.error) as error:
            raise CorruptFrame(f"template {number} is none: {error}") from None
        if kinds != self._shared:
            raise CorruptFrame(f"template {number} is none: it begins with {shared}")
        self._known[number] = template

    def head(self, data: Buffer, start: int, stop: int) -> tuple[Template, tuple[Any, ...]]:
        """Return the template that a body names and the fields of its head. Raises CorruptFrame."""
        try:
            template = self._known[int.from_bytes(data[start : start + 4], "little")]
            fields = template.head.unpack_from(data, start)
        except (LookupError, struct.error):
            raise CorruptFrame(f"a body of {stop - start} bytes that names no template") from None
        if start + template.head.size > stop:
            raise CorruptFrame(f"expected a head of {template.head.size} bytes, got {stop - start}")
        return template, fields


class RequestReader(TemplateReader):
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
        ident = str(data[at : at + id_length], "utf-8")
        at += id_length
        trace = str(data[at : at + trace_length], "utf-8") if trace_length else ""
        inputs = template.tensors(data, at + trace_length, stop, lengths)
        known = None if timeout != timeout else timeout  # noqa: PLR0124 - NaN stands for none
        return InferRequest(
            model, version, ident, inputs, rows, size, tuple(outputs), priority, deadline, known, trace, template.spec
        )  # fmt: skip


class AnswerReader(TemplateReader):
    """Reads what an AnswerWriter wrote."""

    def __init__(self) -> None:
        super().__init__(_ANSWER, [str, str])

    def read(self, data: Buffer, start: int, stop: int, ident: str) -> InferResponse:
        """Return the answer to the request whose id is `ident`. Raises CorruptFrame."""
        template, (_, queue, into, infer, out, began, batch_rows, *lengths) = self.head(data, start, stop)
        outputs = template.tensors(data, start + template.head.size, stop, lengths)
        model, version = template.shared
        return InferResponse(model, version, ident, outputs, Timing(queue, into, infer, out, batch_rows, began))


def _define(  # noqa: PLR0913, PLR0917 - one call for both kinds
    known: dict[object, Template],
    key: object,
    put: Put,
    kind: int,
    fields: str,
    shared: Sequence[object],
    tensors: Sequence[Tensor],
) -> Template:
    """Describe a template to the other end; under the writer's lock."""
    if len(known) >= MOST_TEMPLATES:
        known.clear()
    described = [_DESCRIPTION(tensor) for tensor in tensors]
    template = known[key] = Template(len(known), fields, shared, described)
    put((frame(kind, template.number, _dump([shared, *described]).encode()),))
    return template


def _cut(data: Buffer, at: int, lengths: Sequence[int]) -> list[Buffer]:
    raws: list[Buffer] = []
    for length in lengths:
        raws.append(data[at : at + length])
        at += length
    return raws


def _arranger(places: list[int]) -> "Callable[[Sequence[Buffer]], Sequence[Buffer]] | None":
    return None if places == sorted(places) else itemgetter(*places)


assert HEAD.size == struct.calcsize("<IBQ"), "the head of a frame is the beginning of `Template.framed`"  # noqa: S101
