"""What many frames have in common, said once: the form of their tensors, and what else they share.

Most requests of a model differ in nothing but an id, a deadline and the tensors' contents. The rest is a template:
described once a link, in JSON, under a number that the frames then name. With it a frame is one struct and the bytes
of the tensors, and neither end looks at a shape again. The numbers of a link begin afresh when there are
`MOST_TEMPLATES`, since shapes may come from callers. This module must never know sockets or who waits for an answer.
"""

import json
import struct
from collections.abc import Callable, Sequence
from operator import itemgetter
from threading import Lock
from typing import Any

from server.link.frames import CorruptFrame, frame
from server.messages import ITEM_BYTES, Buffer, Form, element_count
from server.spec import ModelSpec

MOST_TEMPLATES = 1024
JOINED = 16 << 10
"""Bytes up to which a frame is made one piece: copying them costs less than handing them to the kernel in pieces."""

Put = Callable[[Sequence[Buffer]], None]
_dump = json.JSONEncoder(separators=(",", ":")).encode


class Template:
    """Tensors of one form, and the struct in front of their contents, which begins with `fields`.

    On the way those of fixed size come first, so that one struct cuts them all; the lengths of the others (BYTES) are
    the last fields of the head. `shared` is whatever else the frames have in common.
    """

    def __init__(self, number: int, fields: str, shared: Sequence[Any], form: Form) -> None:
        self.number = number
        self.shared = shared
        self.form = form
        self.spec: ModelSpec | None = None
        """What requests of this template were checked against."""
        sizes = [
            ITEM_BYTES[datatype] * element_count(shape) if datatype in ITEM_BYTES else -1 for _, datatype, shape in form
        ]
        order = sorted(range(len(sizes)), key=lambda place: sizes[place] < 0)
        self._fixed = [sizes[place] for place in order if sizes[place] >= 0]
        varying = len(sizes) - len(self._fixed)
        self._depart = _arranger(order)
        self._arrive = _arranger([order.index(place) for place in range(len(order))])
        self.head = struct.Struct(f"<{fields}{varying}I")
        self.framed = struct.Struct(f"<IBQ{fields}{varying}I")
        """A whole frame's beginning: `frames.HEAD`, then the head of the body."""
        self._cutter = struct.Struct("".join(f"{size}s" for size in self._fixed))

    def depart(self, raws: Sequence[Buffer]) -> tuple[Sequence[Buffer], list[int]]:
        """Return the tensors' contents in the order of the way, and the lengths that the head must tell."""
        if self._depart is not None:
            raws = self._depart(raws)
        return raws, list(map(len, raws[len(self._fixed) :]))

    def arrive(self, data: Buffer, at: int, stop: int, lengths: Sequence[int]) -> Sequence[Buffer]:
        """Return the contents that data[at:stop] is made of; views where `data` is one. Raises CorruptFrame."""
        cut = at + self._cutter.size
        if cut + sum(lengths) != stop:
            raise CorruptFrame(f"expected {cut + sum(lengths) - at} bytes of tensors, got {stop - at}")
        raws: Sequence[Buffer]
        if type(data) is not bytes:
            raws = _cut(data, at, [*self._fixed, *lengths])
        elif lengths:
            raws = [*self._cutter.unpack_from(data, at), *_cut(data, cut, lengths)]
        else:
            raws = self._cutter.unpack_from(data, at)
        return raws if self._arrive is None else self._arrive(raws)


class Templates:
    """Those that this end has described to the other. `lock` holds a template and the frames that name it together."""

    def __init__(self, put: Put, kind: int, fields: str) -> None:
        self._put = put
        self._kind = kind
        self._fields = fields
        self.known: dict[object, Template] = {}
        self.lock = Lock()

    def define(self, key: object, shared: Sequence[object], form: Form) -> Template:
        """Describe one more to the other end; under the lock."""
        if len(self.known) >= MOST_TEMPLATES:
            self.known.clear()
        template = self.known[key] = Template(len(self.known), self._fields, shared, form)
        self._put((frame(self._kind, template.number, _dump([shared, *form]).encode()),))
        return template


class LearntTemplates:
    """Those that the other end has described to this one. `shared` is of what types they have to share."""

    def __init__(self, fields: str, shared: list[type]) -> None:
        self._fields = fields
        self._shared = shared
        self._known: dict[int, Template] = {}

    def define(self, number: int, data: Buffer, start: int, stop: int) -> None:
        """Learn one. Raises CorruptFrame."""
        try:
            shared, *tensors = json.loads(bytes(data[start:stop]))
            form = tuple((str(name), str(datatype), tuple(map(int, shape))) for name, datatype, shape in tensors)
            template = Template(number, self._fields, shared, form)
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


def _cut(data: Buffer, at: int, lengths: Sequence[int]) -> list[Buffer]:
    raws: list[Buffer] = []
    for length in lengths:
        raws.append(data[at : at + length])
        at += length
    return raws


def _arranger(places: list[int]) -> "Callable[[Sequence[Buffer]], Sequence[Buffer]] | None":
    return None if places == sorted(places) else itemgetter(*places)
