"""Raw tensor bytes: counting, checking, cutting and joining, without numpy and without copying more than needed.

BYTES tensors are elements behind a 4-byte little-endian length each, so the batch of two tensors is their bytes one
after the other; only cutting one into rows has to walk the lengths. This module must never know protobuf or models.
"""

import struct
from collections.abc import Iterable

from server.errors import InvalidRequest
from server.messages import ITEM_BYTES, Buffer, Tensor, element_count

_LENGTH = struct.Struct("<I")


def encode_bytes(elements: Iterable[bytes]) -> bytes:
    """Return BYTES elements in the wire's raw form."""
    return b"".join(part for element in elements for part in (_LENGTH.pack(len(element)), element))


def decode_bytes(data: Buffer) -> list[bytes]:
    """Return the elements of a raw BYTES tensor.

    Raises:
        InvalidRequest: a length reaches past the end, or bytes are left over.
    """
    view = bytes(data)
    elements: list[bytes] = []
    at, end = 0, len(view)
    unpack = _LENGTH.unpack_from
    while at < end:
        if end - at < 4:
            raise InvalidRequest(f"BYTES element {len(elements)}: expected a 4-byte length, got {end - at} bytes")
        (length,) = unpack(view, at)
        at += 4
        if length > end - at:
            raise InvalidRequest(f"BYTES element {len(elements)}: its length says {length} bytes, {end - at} are left")
        elements.append(view[at : at + length])
        at += length
    return elements


def is_plain(data: bytes) -> bool:
    """Whether `data` is exactly one BYTES element of ASCII text: most are, and this takes 0.2 us."""
    return data.isascii() and len(data) >= 4 and _LENGTH.unpack_from(data)[0] == len(data) - 4


def check_text(data: bytes, elements: int) -> None:
    """Check that `data` is exactly `elements` BYTES elements of UTF-8 text, which is what ONNX strings are.

    Raises:
        InvalidRequest: the count differs, a length reaches past the end, or an element is not UTF-8.
    """
    found = decode_bytes(data)
    if len(found) != elements:
        raise InvalidRequest(f"expected {elements} BYTES elements, got {len(found)}")
    if not data.isascii():
        for index, element in enumerate(found):
            _check_utf8(element, index)


def _check_utf8(element: bytes, index: int) -> None:
    try:
        element.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            f"BYTES element {index}: expected UTF-8 text, got byte 0x{element[error.start]:02x} at {error.start}"
        ) from error


def bytes_offsets(data: Buffer, elements: int) -> list[int]:
    """Return where each of `elements` BYTES elements starts, and where the last one ends.

    The data must have been checked before (`check_text`): this one trusts the lengths.
    """
    offsets = [0]
    at = 0
    unpack = _LENGTH.unpack_from
    for _ in range(elements):
        at += 4 + int(unpack(data, at)[0])
        offsets.append(at)
    return offsets


def split_rows(tensor: Tensor, bounds: list[int]) -> list[Tensor]:
    """Cut a tensor along its first dimension at `bounds`, e.g. [0, 8, 16, 20] gives three tensors.

    The parts look at the same memory; nothing is copied.
    """
    rows = tensor.shape[0]
    per_row = element_count(tensor.shape[1:])
    view = memoryview(tensor.data)
    if tensor.datatype == "BYTES":
        offsets = bytes_offsets(tensor.data, rows * per_row)
        cuts = [offsets[row * per_row] for row in bounds]
    else:
        stride = per_row * ITEM_BYTES[tensor.datatype]
        cuts = [row * stride for row in bounds]
    return [
        Tensor(tensor.name, tensor.datatype, (stop - start, *tensor.shape[1:]), view[a:b])
        for start, stop, a, b in zip(bounds, bounds[1:], cuts, cuts[1:], strict=False)
    ]


def join_rows(parts: list[Tensor]) -> Tensor:
    """Put tensors of equal row shape together along the first dimension, the reverse of `split_rows`."""
    first = parts[0]
    if len(parts) == 1:
        return first
    shape = (sum(part.shape[0] for part in parts), *first.shape[1:])
    return Tensor(first.name, first.datatype, shape, b"".join(part.data for part in parts))
