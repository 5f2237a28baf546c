"""Made-up requests for a model nobody has called yet: to warm it up, to measure it and to see that rows are alone.

Never knows an instance.
"""

import math
from pathlib import Path

import numpy as np

from server.codec import split_rows
from server.errors import ModelLoadFailed
from server.messages import ITEM_BYTES, Tensor
from server.sessions.base import Part
from server.sessions.dtypes import NUMPY, Array, to_raw
from server.spec import ModelSpec, TensorSpec, Warmup, WarmupInput

TEXT = "warm up"


def made_up(spec: ModelSpec, rows: int, *, zeros: bool = False) -> list[Part]:
    """Return `rows` requests of one row each (one request for a model that does not batch), variable sizes 1.

    Numbers are random in [0, 1), integers 0 or 1; the same on every call.
    """
    generator = np.random.default_rng(0)
    count = rows if spec.batches else 1
    tensors = [_tensor(tensor, count, generator, zeros=zeros, batches=spec.batches) for tensor in spec.inputs]
    return in_rows(tensors, count) if spec.batches else [Part(tuple(tensors), 1)]


def in_rows(tensors: list[Tensor], rows: int) -> list[Part]:
    """Cut tensors into requests of one row."""
    columns = [split_rows(tensor, list(range(rows + 1))) for tensor in tensors]
    return [Part(row, 1) for row in zip(*columns, strict=True)]


def warmup_part(warmup: Warmup, spec: ModelSpec, folder: Path) -> Part:
    """Return the request that a `model_warmup` entry describes.

    Raises:
        ModelLoadFailed: a tensor is missing in it, or its file is missing or of the wrong size.
    """
    missing = [tensor.name for tensor in spec.inputs if tensor.name not in warmup.inputs and not tensor.optional]
    if missing:
        raise ModelLoadFailed(f"model_warmup {warmup.name!r}: expected input {missing[0]!r} as well")
    rows = max(1, warmup.batch_size) if spec.batches else 1
    tensors = []
    for tensor in spec.inputs:
        if tensor.name in warmup.inputs:
            shape = (*((rows,) if spec.batches else ()), *warmup.inputs[tensor.name].dims)
            tensors.append(_warmup_tensor(tensor, shape, warmup.inputs[tensor.name], folder))
    return Part(tuple(tensors), rows)


def _tensor(spec: TensorSpec, rows: int, generator: np.random.Generator, *, zeros: bool, batches: bool) -> Tensor:
    shape = tuple(max(1, size) if size == -1 else size for size in spec.shape)
    if batches:
        shape = (rows, *shape[1:])
    array = _array(spec.datatype, shape, None if zeros else generator)
    return Tensor(spec.name, spec.datatype, shape, to_raw(spec.datatype, array))


def _array(datatype: str, shape: tuple[int, ...], generator: np.random.Generator | None) -> Array:
    if datatype == "BYTES":
        return np.full(shape, TEXT, dtype=object)
    if generator is None:
        return np.zeros(shape, NUMPY[datatype])
    if datatype in ("FP16", "FP32", "FP64"):
        return generator.random(shape).astype(NUMPY[datatype])
    if datatype == "BF16":  # the upper half of a float32
        return (generator.random(shape, np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return generator.integers(0, 2, shape).astype(NUMPY[datatype])


def _warmup_tensor(spec: TensorSpec, shape: tuple[int, ...], source: WarmupInput, folder: Path) -> Tensor:
    if source.source != "file":
        generator = np.random.default_rng(0) if source.source == "random" else None
        return Tensor(spec.name, spec.datatype, shape, to_raw(spec.datatype, _array(spec.datatype, shape, generator)))
    path = folder / source.file
    if path.parent != folder or not path.is_file():
        raise ModelLoadFailed(f"model_warmup: expected a file {source.file!r} in the model's warmup folder")
    data = path.read_bytes()
    expected = math.prod(shape) * ITEM_BYTES.get(spec.datatype, 0)
    if spec.datatype != "BYTES" and len(data) != expected:
        raise ModelLoadFailed(f"model_warmup: expected {expected} bytes in {source.file!r}, it has {len(data)}")
    return Tensor(spec.name, spec.datatype, shape, data)
