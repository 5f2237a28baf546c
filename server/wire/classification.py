"""Triton's classification extension: an output as its k largest values, each as "value:index:label" text."""

from typing import Any

import numpy as np
import numpy.typing as npt

from server.codec import encode_bytes
from server.messages import Tensor, element_count

_NUMPY = {
    "UINT8": "<u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8", "INT8": "<i1", "INT16": "<i2", "INT32": "<i4",
    "INT64": "<i8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip


def classify(tensor: Tensor, k: int, labels: tuple[str, ...], *, batched: bool) -> Tensor:
    """Return a BYTES tensor [rows, k] (or [k] for a model without a batch) of the largest values, best first.

    Floating-point values are written with six decimals, as Triton writes them; equal values keep the order of their
    indices. The label is left out where there is none.
    """
    rows = tensor.shape[0] if batched else 1
    values = _values(tensor).reshape(rows, element_count(tensor.shape) // rows)
    k = min(k, values.shape[1])
    best = np.argsort(_descending(values), axis=1, kind="stable")[:, :k]
    texts = [_entry(row[i].item(), int(i), labels) for row, indices in zip(values, best, strict=True) for i in indices]
    return Tensor(tensor.name, "BYTES", (rows, k) if batched else (k,), encode_bytes(texts))


def _descending(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return keys that sort the other way; ~x does for integers what -x does for floats, without overflow."""
    return -values if np.issubdtype(values.dtype, np.floating) else ~values


def _values(tensor: Tensor) -> npt.NDArray[Any]:
    if tensor.datatype == "BF16":  # the upper half of a float
        halves = np.frombuffer(tensor.data, "<u2").astype("<u4")
        return (halves << 16).view("<f4")
    return np.frombuffer(tensor.data, _NUMPY[tensor.datatype])


def _entry(value: float, index: int, labels: tuple[str, ...]) -> bytes:
    number = f"{value:f}" if isinstance(value, float) else str(value)
    return f"{number}:{index}:{labels[index]}".encode() if index < len(labels) else f"{number}:{index}".encode()
