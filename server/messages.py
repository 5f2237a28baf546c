"""What travels between the parts: requests, tensors as raw bytes, answers.

Tensors stay in the wire's own form from end to end (row-major little-endian; BYTES elements each behind a 4-byte
little-endian length), so that batching is joining bytes and nothing on the way needs numpy or protobuf.
This module must never know a transport, a broker or a runtime.

The classes are plain slotted dataclasses, not frozen ones: a frozen dataclass costs about a microsecond a field
to build and these are built per request. Treat them as immutable all the same.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, overload

from typing_extensions import override

from server.errors import ServingError
from server.spec import ModelSpec

Buffer = bytes | memoryview
"""Raw tensor bytes; a memoryview where rows of a larger request are looked at without a copy."""

ITEM_BYTES: dict[str, int] = {
    "BOOL": 1,
    "UINT8": 1,
    "UINT16": 2,
    "UINT32": 4,
    "UINT64": 8,
    "INT8": 1,
    "INT16": 2,
    "INT32": 4,
    "INT64": 8,
    "FP16": 2,
    "BF16": 2,
    "FP32": 4,
    "FP64": 8,
}
"""Bytes per element of each fixed-size datatype of the protocol; BYTES has none."""

NUMPY_NAMES: dict[str, str] = {
    "BOOL": "?",
    "UINT8": "u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}
"""numpy's name for the raw form of each datatype it has, for those who do use it; it lacks BF16."""

NO_DEADLINE = math.inf


@dataclass(slots=True)
class Tensor:
    """One named array: `shape` includes the batch dimension, `data` is the wire's raw form of it."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: Buffer


Form = tuple[tuple[str, str, tuple[int, ...]], ...]
"""Name, datatype and shape of each of several tensors."""


class Packed(Sequence[Tensor]):
    """Tensors as their bytes and the form that many requests share; a Tensor is made for whoever looks at one.

    A batch is joined from the bytes alone, so for most requests nobody does, and ten objects a request are not made.
    """

    __slots__ = ("form", "raws")

    def __init__(self, form: Form, raws: Sequence[Buffer]) -> None:
        self.form = form
        self.raws = raws

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Tensor, ...]: ...
    @override
    def __getitem__(self, index: int | slice) -> Tensor | tuple[Tensor, ...]:
        if isinstance(index, slice):
            return tuple(self)[index]
        return Tensor(*self.form[index], self.raws[index])

    @override
    def __len__(self) -> int:
        return len(self.raws)

    @override
    def __iter__(self) -> Iterator[Tensor]:
        return (Tensor(*form, raw) for form, raw in zip(self.form, self.raws, strict=True))

    @override
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    __hash__ = None  # type: ignore[assignment]

    @override
    def __repr__(self) -> str:
        return repr(tuple(self))


def taken_apart(tensors: Sequence[Tensor]) -> Packed:
    """Return tensors as their form and their bytes."""
    if type(tensors) is Packed:
        return tensors
    return Packed(tuple([(t.name, t.datatype, t.shape) for t in tensors]), [t.data for t in tensors])


@dataclass(slots=True)
class InferRequest:
    """One validated inference request; `inputs` are in the order of the model's spec.

    `rows` is the size of the batch dimension (1 for a model without one). `size` is what similar requests are
    batched by: bytes of its BYTES inputs per row, 0 where all rows are alike. `deadline` is an instant of
    time.monotonic(), infinity for none. `priority` 1 is the most urgent, 0 asks for the model's default.
    `outputs` empty means all of them.
    """

    model_name: str
    model_version: str
    id: str
    inputs: Sequence[Tensor]
    rows: int
    size: int = 0
    outputs: tuple[str, ...] = ()
    priority: int = 0
    deadline: float = NO_DEADLINE
    timeout: float | None = None
    """The request's own `timeout` parameter in seconds, None when it brought none."""
    traceparent: str = ""
    spec: ModelSpec | None = None
    """What it was checked against; None where that was done by another process."""


@dataclass(slots=True)
class Timing:
    """Where one request's time went, in seconds; `batch_rows` is the batch it ran in."""

    queue: float = 0.0
    compute_input: float = 0.0
    compute_infer: float = 0.0
    compute_output: float = 0.0
    batch_rows: int = 0
    started: float = 0.0
    """The instant (time.monotonic() of this machine) its batch began, 0 where it ran on another or not at all."""

    def for_log(self) -> dict[str, object]:
        """Return what a log line says of it."""
        return {
            "queue_ms": round(self.queue * 1000, 3),
            "infer_ms": round(self.compute_infer * 1000, 3),
            "batch_rows": self.batch_rows,
        }


@dataclass(slots=True)
class InferResponse:
    """The answer to one request; `outputs` are those it asked for, in that order."""

    model_name: str
    model_version: str
    id: str
    outputs: tuple[Tensor, ...]
    timing: Timing = field(default_factory=Timing)


Reply = Callable[[InferResponse | ServingError], None]
"""Called exactly once per submitted request, from whichever thread heard the outcome; must not block or raise."""


class Ticket(Protocol):
    """A submitted request as its caller sees it."""

    def cancel(self) -> None:
        """Give the request up: its reply is called with Cancelled unless it was already answered.

        Batch-mates are not disturbed; a row already running is computed and thrown away.
        """


def element_count(shape: Sequence[int]) -> int:
    """Return the number of elements of `shape`, in Python integers because numpy's product wraps around."""
    return math.prod(shape)
