"""Count what a ModelInferRequest's bytes ask for before protobuf turns them into objects.

Parsing multiplies hostile bytes: 4 MB of empty `inputs` become 185 MB and hold the thread for 92 ms; packed one-byte
integers and empty strings grow sixteenfold. So the fields of the request, of its inputs and of their typed contents
are walked first, without building anything, and the walk stops at the first bound that is crossed. It costs about
0.15 us a field; messages up to `SMALL` bytes are not walked at all, because the worst of them parses to 0.7 MB.
(Wire format: https://protobuf.dev/programming-guides/encoding/.)
"""

from collections.abc import Iterator

from server.errors import InvalidRequest
from server.wire.limits import Limits

SMALL = 16 << 10
MAX_FIELDS = 1 << 12
"""Fields walked in one message, 2 ms' worth; only `bytes_contents` may need more, and raw contents carry it better."""

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
_LONGEST = 10
"""Bytes of the longest varint."""
_CHUNK = 64 << 10
_CONTINUED = bytes(range(0x80, 0x100))

_PARAMETERS, _INPUTS, _OUTPUTS, _RAW = 4, 5, 6, 7  # of ModelInferRequest
_SHAPE, _CONTENTS = 3, 5  # of InferInputTensor; its parameters have the request's number
_FIXED_WIDTH = {6: 4, 7: 8}  # fp32_contents, fp64_contents of InferTensorContents
_BYTES_CONTENTS = 8


def prescan(data: bytes, limits: Limits) -> None:
    """Walk the bytes of a ModelInferRequest.

    Raises:
        InvalidRequest: they are malformed, or ask for more of something than `limits` allow.
    """
    if len(data) > SMALL:
        _Scan(data, limits).request()


def prescan_rows(data: bytes, limits: Limits) -> None:
    """Walk the bytes of a typed request, whose rows are its field 1.

    Raises:
        InvalidRequest: they are malformed, or there are more rows than `limits` allow.
    """
    if len(data) > SMALL:
        _Scan(data, limits).rows()


class _Scan:
    """One walk; `_left` is the number of fields it may still look at."""

    def __init__(self, data: bytes, limits: Limits) -> None:
        self._data = data
        self._limits = limits
        self._left = MAX_FIELDS

    def rows(self) -> None:
        self._left = self._limits.max_rows + MAX_FIELDS
        rows = 0
        for number, _, __, ___ in self._fields(0, len(self._data)):
            rows += number == 1
            _bound(rows, self._limits.max_rows, "rows")

    def request(self) -> None:
        limits = self._limits
        bounds = {
            _PARAMETERS: ("parameters", limits.max_parameters),
            _INPUTS: ("inputs", limits.max_inputs),
            _OUTPUTS: ("outputs", limits.max_outputs),
            _RAW: ("raw_input_contents", limits.max_inputs),
        }
        counts = dict.fromkeys(bounds, 0)
        for number, kind, start, stop in self._fields(0, len(self._data)):
            if number in bounds:
                counts[number] += 1
                name, most = bounds[number]
                _bound(counts[number], most, name)
            if number == _INPUTS and kind == LENGTH:
                self._input(start, stop)

    def _input(self, start: int, stop: int) -> None:
        rank = parameters = 0
        for number, kind, begin, end in self._fields(start, stop):
            if number == _SHAPE:
                shown = min(end, begin + _LONGEST * (self._limits.max_rank + 1))  # as much as too many of them take
                rank += self._varints(begin, shown) if kind == LENGTH else 1
                _bound(rank, self._limits.max_rank, "dimensions of an input's shape")
            elif number == _PARAMETERS:
                parameters += 1
                _bound(parameters, self._limits.max_parameters, "parameters of an input")
            elif number == _CONTENTS and kind == LENGTH:
                self._contents(begin, end)

    def _contents(self, start: int, stop: int) -> None:
        values = elements = 0
        for number, kind, begin, end in self._fields(start, stop):
            if number == _BYTES_CONTENTS:
                elements += 1
                _bound(elements, self._limits.max_bytes_elements, "elements in bytes_contents")
            elif kind == LENGTH:
                width = _FIXED_WIDTH.get(number)
                values += (end - begin) // width if width else self._varints(begin, end)
            else:
                values += 1
            _bound(values, self._limits.max_elements, "values in an input's contents")

    def _varints(self, start: int, stop: int) -> int:
        """Count packed varints: each has exactly one byte below 0x80, its last.

        Where even ten bytes each would be too many values, the lower bound says so without looking at them.
        """
        if stop - start > _LONGEST * self._limits.max_elements:
            return (stop - start) // _LONGEST
        data = self._data
        return sum(
            len(data[at : min(at + _CHUNK, stop)].translate(None, _CONTINUED)) for at in range(start, stop, _CHUNK)
        )

    def _fields(self, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """Yield number, wire type and the start and stop of each field's value in data[at:end]."""
        data = self._data
        while at < end:
            self._left -= 1
            if self._left < 0:
                raise InvalidRequest(f"expected at most {MAX_FIELDS} protobuf fields in a request, got more")
            tag = data[at]
            if tag < 0x80:
                at += 1
            else:
                tag, at = varint(data, at, end)
            kind = tag & 7
            if kind == LENGTH:
                size, at = (data[at], at + 1) if at < end and data[at] < 0x80 else varint(data, at, end)
                stop = at + size
            else:
                stop = self._skip(kind, at, end)
            if stop > end:
                raise malformed()
            yield tag >> 3, kind, at, stop
            at = stop

    def _skip(self, kind: int, at: int, end: int) -> int:
        """Return where a value of no stated length ends. Groups, which proto3 does not have, are refused."""
        if kind == VARINT:
            return varint(self._data, at, end)[1]
        if kind in (FIXED32, FIXED64):
            return at + (4 if kind == FIXED32 else 8)
        raise malformed()


def varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """Decode the varint at data[at]; return its value and where it ends.

    Raises:
        InvalidRequest: it runs past `end` or over ten bytes.
    """
    value = shift = 0
    for index in range(at, min(at + _LONGEST, end)):
        byte = data[index]
        if byte < 0x80:
            return value | byte << shift, index + 1
        value |= (byte & 0x7F) << shift
        shift += 7
    raise malformed()


def malformed() -> InvalidRequest:
    """Return the error for bytes that are no message of the expected type."""
    return InvalidRequest("the message is not a well-formed protobuf message of this method's request type")


def _bound(count: int, most: int, what: str) -> None:
    if count > most:
        raise InvalidRequest(f"too many {what}: expected at most {most}, got more")
