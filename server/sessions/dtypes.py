"""Between the protocol's datatypes, numpy's and ONNX's: one table each way, and raw bytes to arrays and back.

BF16 travels as uint16 because numpy has no such type. BYTES elements are Python strings inside ONNX Runtime: given
`bytes` it would quietly compute with their repr, so they are decoded strictly here. Never knows a runtime or a wire.
"""

from typing import Any

import numpy as np

from server.codec import decode_bytes, encode_bytes
from server.errors import InvalidRequest
from server.messages import Buffer
from server.sessions.base import RunFailed

Array = np.ndarray[Any, np.dtype[Any]]  # numpy.typing would cost every child 20 ms of its start

NUMPY: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BYTES": np.dtype(object),
}

DATATYPE_OF_ONNX: dict[str, str] = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(bfloat16)": "BF16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}
"""ONNX Runtime's name of a tensor type -> ours; a type that is not here cannot be served."""


def to_array(name: str, datatype: str, shape: tuple[int, ...], data: Buffer) -> Array:
    """Return the raw bytes of the tensor `name` as an array; a view of `data` unless the datatype is BYTES.

    Raises:
        RunFailed: the bytes are not what the shape says, or a string is not UTF-8.
    """
    try:
        return strings(shape, data) if datatype == "BYTES" else np.ndarray(shape, NUMPY[datatype], memoryview(data))
    except UnicodeDecodeError as error:
        raise RunFailed(f"input {name!r}: an element is not UTF-8") from error
    except (InvalidRequest, ValueError, TypeError) as error:
        raise RunFailed(f"input {name!r}: {error}") from error


def strings(shape: tuple[int, ...], data: Buffer) -> Array:
    """Return raw BYTES as an object array of str.

    Raises:
        InvalidRequest: lengths that do not add up.
        ValueError: not as many elements as the shape says, or one that is not UTF-8.
    """
    elements = [element.decode() for element in decode_bytes(data)]
    array = np.empty(len(elements), dtype=object)
    array[:] = elements
    return array.reshape(shape)


def to_raw(datatype: str, array: Array) -> bytes:
    """Return an array (strings as str, bytes or numpy's `<U` for BYTES) in the wire's raw form."""
    if datatype == "BYTES":
        return encode_bytes(text.encode() if isinstance(text, str) else text for text in array.reshape(-1).tolist())
    return np.ascontiguousarray(array, NUMPY[datatype]).tobytes()
