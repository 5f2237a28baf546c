"""How a batch is put together from its parts and taken apart again, in bytes.

Both kinds of instance use it, so a row's way is the same in either. Joining and cutting bytes needs no numpy, which
keeps the frontend's share of a request at a few microseconds. Never knows where the batch runs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from server.codec import bytes_offsets
from server.messages import ITEM_BYTES, Buffer, Packed, Tensor
from server.sessions.base import Part, RunFailed
from server.spec import ModelSpec, TensorSpec


@dataclass(slots=True)
class Column:
    """One input of a batch: its place among the spec's inputs, the graph's shape, and its bytes in pieces."""

    index: int
    shape: tuple[int, ...]
    chunks: Sequence[Buffer]
    nbytes: int


@dataclass(slots=True)
class Output:
    """One output of a batch as it came: the graph's shape, and its bytes."""

    shape: tuple[int, ...]
    data: Buffer


class BatchLayout:
    """Gathers parts into columns and scatters outputs to parts, for one spec."""

    def __init__(self, spec: ModelSpec) -> None:
        self.batches = spec.batches
        self.inputs = spec.inputs
        self.outputs = spec.outputs
        self._index = {tensor.name: index for index, tensor in enumerate(spec.inputs)}
        self._plain = [_plain(tensor) if spec.batches else None for tensor in spec.inputs]

    def gather(self, parts: Sequence[Part]) -> list[Column]:
        """Return the inputs of one batch, in the order the parts bring them.

        Raises:
            RunFailed: the parts do not fit together, or bytes and shape disagree.
        """
        if not self.batches and len(parts) != 1:
            raise RunFailed(f"a model without a batch dimension runs 1 request at a time, {len(parts)} came")
        rows = sum([part.rows for part in parts])
        names, columns = _columns(parts)
        return [
            self._column(rows, parts, place, name, chunks)
            for place, (name, chunks) in enumerate(zip(names, columns, strict=True))
        ]

    def _column(self, rows: int, parts: Sequence[Part], place: int, name: str, chunks: Sequence[Buffer]) -> Column:
        index = self._index.get(name, -1)
        if index < 0:
            raise RunFailed(f"expected the inputs {list(self._index)}, {name!r:.64} came")
        nbytes = sum(map(len, chunks))
        plain = self._plain[index]
        if plain is not None and nbytes == rows * plain[1]:
            return Column(index, (rows, *plain[0]), chunks, nbytes)
        return self._odd_column(Column(index, (), chunks, nbytes), rows, parts, place)

    def _odd_column(self, column: Column, rows: int, parts: Sequence[Part], place: int) -> Column:
        """Work out the shape of a column whose rows are not all of one size by promise."""
        first, spec = parts[0].inputs[place], self.inputs[column.index]
        shape = (rows, *first.shape[1:]) if self.batches else first.shape
        if len(parts) > 1 and -1 in spec.shape[1:]:
            _check_alike([part.inputs[place] for part in parts])
        if first.datatype != "BYTES" and column.nbytes != math.prod(shape) * ITEM_BYTES[first.datatype]:
            raise RunFailed(
                f"input {spec.name!r}: shape {list(shape)} of {first.datatype} came with {column.nbytes} bytes"
            )
        if spec.reshape is not None:
            shape = reshaped(shape, spec.reshape, batches=self.batches)
        column.shape = shape
        return column

    def scatter(self, outputs: Sequence[Output], parts: Sequence[Part]) -> list[tuple[Tensor, ...]]:
        """Return each part's own rows of every output, as bytes of their own.

        Raises:
            RunFailed: an output has other dimensions than the spec promises, or other rows than went in.
        """
        rows = sum([part.rows for part in parts])
        columns = [self._cut(spec, output, rows, parts) for spec, output in zip(self.outputs, outputs, strict=True)]
        return list(zip(*columns, strict=True))

    def _cut(self, spec: TensorSpec, output: Output, rows: int, parts: Sequence[Part]) -> list[Tensor]:
        shape = output.shape
        if spec.reshape is not None:
            shape = (rows, *spec.shape[1:]) if self.batches else spec.shape
            shape = settled(shape, math.prod(output.shape))
        expected = (rows, *spec.shape[1:]) if self.batches else spec.shape
        if not fits(shape, expected):
            raise RunFailed(f"output {spec.name!r}: expected shape {list(expected)}, the model gave {list(shape)}")
        data = bytes(output.data)
        if len(parts) == 1:
            return [Tensor(spec.name, spec.datatype, shape, data)]
        tail = shape[1:]
        if spec.datatype == "BYTES":
            return _cut_bytes(spec, tail, data, parts)
        stride = len(data) // rows
        if rows == len(parts) and stride:
            one = (1, *tail)
            name, datatype = spec.name, spec.datatype
            return [Tensor(name, datatype, one, data[at : at + stride]) for at in range(0, len(data), stride)]
        tensors, at = [], 0
        for part in parts:
            end = at + part.rows * stride
            tensors.append(Tensor(spec.name, spec.datatype, (part.rows, *tail), data[at:end]))
            at = end
        return tensors


def _columns(parts: Sequence[Part]) -> tuple[Sequence[str], Sequence[Sequence[Buffer]]]:
    """Return the names of the inputs and the bytes that each part brings of each. Raises RunFailed."""
    try:
        columns = list(zip(*[_raws(part.inputs) for part in parts], strict=True))
    except ValueError as error:
        raise RunFailed("requests with different inputs in one batch") from error
    return [tensor.name for tensor in parts[0].inputs], columns


def _raws(inputs: Sequence[Tensor]) -> Sequence[Buffer]:
    return inputs.raws if type(inputs) is Packed else [tensor.data for tensor in inputs]


def _cut_bytes(spec: TensorSpec, tail: tuple[int, ...], data: bytes, parts: Sequence[Part]) -> list[Tensor]:
    per_row = math.prod(tail)
    offsets = bytes_offsets(data, sum([part.rows for part in parts]) * per_row)
    tensors, at = [], 0
    for part in parts:
        end = at + part.rows * per_row
        tensors.append(Tensor(spec.name, "BYTES", (part.rows, *tail), data[offsets[at] : offsets[end]]))
        at = end
    return tensors


def _plain(tensor: TensorSpec) -> tuple[tuple[int, ...], int] | None:
    """Return the shape and the bytes of a row where both are fixed, None where each batch must be looked at."""
    tail = tensor.shape[1:]
    if tensor.datatype == "BYTES" or tensor.reshape is not None or -1 in tail:
        return None
    return tail, math.prod(tail) * ITEM_BYTES[tensor.datatype]


def _check_alike(tensors: Sequence[Tensor]) -> None:
    first = tensors[0]
    for tensor in tensors:
        if tensor.shape[1:] != first.shape[1:]:
            raise RunFailed(
                f"input {first.name!r}: rows of shape {list(first.shape[1:])} and {list(tensor.shape[1:])} in one batch"
            )


def fits(shape: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    """Whether a shape is what was promised, -1 standing for any size."""
    return len(shape) == len(expected) and all(want in (-1, size) for size, want in zip(shape, expected, strict=True))


def reshaped(shape: tuple[int, ...], target: tuple[int, ...], *, batches: bool) -> tuple[int, ...]:
    """Return the graph's shape of an input under Triton's `reshape`, which excludes the batch dimension."""
    tail = shape[1:] if batches else shape
    fresh = settled(target, math.prod(tail))
    return (shape[0], *fresh) if batches else fresh


def settled(shape: tuple[int, ...], elements: int) -> tuple[int, ...]:
    """Return `shape` with its one -1, if any, worked out from the number of elements.

    Raises:
        RunFailed: no such size exists.
    """
    known = math.prod([size for size in shape if size != -1])
    if shape.count(-1) == 1 and known and elements % known == 0:
        return tuple(elements // known if size == -1 else size for size in shape)
    if -1 not in shape and known == elements:
        return shape
    raise RunFailed(f"{elements} elements cannot be reshaped to {list(shape)}")
