"""Typed tensor contents (`fp32_contents` and its like) turned into the raw form everything behind the wire uses.

Few clients send them (tritonclient never does), so this is off the hot path; it is exact all the same.
"""

from array import array
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from server.codec import encode_bytes
from server.errors import InvalidRequest
from server.pb.open_inference_pb2 import InferTensorContents
from server.wire.text import quote

_LAYOUTS: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "BOOL": ("bool_contents", "B"),
        "INT8": ("int_contents", "b"),
        "INT16": ("int_contents", "h"),
        "INT32": ("int_contents", "i"),
        "INT64": ("int64_contents", "q"),
        "UINT8": ("uint_contents", "B"),
        "UINT16": ("uint_contents", "H"),
        "UINT32": ("uint_contents", "I"),
        "UINT64": ("uint64_contents", "Q"),
        "FP32": ("fp32_contents", "f"),
        "FP64": ("fp64_contents", "d"),
        "BYTES": ("bytes_contents", ""),
    }
)
"""By datatype: the field that carries it and the array code of its raw form. FP16 and BF16 have no field."""


def to_raw(name: str, datatype: str, elements: int, contents: InferTensorContents) -> bytes:
    """Return the raw form of an input's typed contents.

    Raises:
        InvalidRequest: another field than the datatype's is used, or the number or a value of the elements is wrong.
    """
    if datatype not in _LAYOUTS:
        raise InvalidRequest(f"input {quote(name)}: {datatype} has no typed contents, expected raw_input_contents")
    field, code = _LAYOUTS[datatype]
    for used, _ in contents.ListFields():
        if used.name != field:
            raise InvalidRequest(f"input {quote(name)}: expected {field} for {datatype}, got {used.name}")
    values = getattr(contents, field)
    if len(values) != elements:
        raise InvalidRequest(f"input {quote(name)}: expected {elements} values in {field}, got {len(values)}")
    if not code:
        return encode_bytes(values)
    try:
        return array(code, values).tobytes()
    except OverflowError as error:
        raise InvalidRequest(f"input {quote(name)}: {field} has a value out of range for {datatype}") from error
