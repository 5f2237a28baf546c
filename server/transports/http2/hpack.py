"""Header compression, RFC 7541: a decoder for what a client sends, and two encoders that keep no state.

It is made for a server, which decodes the same dozen fields over and over: the common forms are read in one loop, and
the static and the dynamic table are one list, so that an index is one look-up. What we encode never refers to the
other side's dynamic table, so a block may be kept and sent again, on any connection.

It must never know: sockets, frames, streams, nor what a header means to gRPC.
"""

from collections.abc import Iterable

from server.transports.http2 import huffman
from server.transports.http2.hpack_tables import STATIC

_Field = tuple[bytes, bytes]
_Entry = tuple[_Field, int]

FIELD_OVERHEAD = 32
"""What a field counts beyond its name and its value, in tables and in limits."""

_INITIAL_TABLE_SIZE = 4096
_INDEXED, _INCREMENTAL, _RESIZE = 0x80, 0x40, 0x20
_MAX_INTEGER_BYTES = 5
_LONGEST_CODE = 4
"""No encoded byte stands for less than a quarter of a decoded one: the longest Huffman code has 30 bits."""


class HeaderError(Exception):
    """The block cannot be decoded: a COMPRESSION_ERROR for the connection."""


class HeadersTooLarge(HeaderError):
    """More than the limit once decoded (RFC 9113's count: names, values and 32 for each field)."""


def _entry(name: bytes, value: bytes) -> _Entry:
    return (name, value), len(name) + len(value) + FIELD_OVERHEAD


# The first byte of an indexed field is 0x80 + its index, and its place in a decoder's table. Nothing is at index 0.
_HEAD: list[_Entry] = [_entry(b"", b"")] * (_INDEXED + 1) + [_entry(*field) for field in STATIC]
_NEWEST = len(_HEAD)


class HeaderDecoder:
    """Decodes the blocks of one connection, in their order. After an error it must not be used again.

    The table begins with the 4096 bytes that the protocol assumes, also when less is advertised: a client may fill it
    before our settings reach it, and says when it has followed them.
    """

    __slots__ = ("_advertised", "_capacity", "_limit", "_table", "_used", "changes")

    def __init__(self, limit: int = 65536, table_size: int = 4096) -> None:
        self.changes = 0
        """How often the dynamic table has changed: while this stays the same, so does what a block means."""
        self._limit = limit
        self._advertised = table_size
        self._capacity = _INITIAL_TABLE_SIZE
        self._used = 0
        self._table = _HEAD.copy()

    def decode(self, block: bytes) -> list[tuple[bytes, bytes]]:
        """Return the fields of a block. A field from the table is the same object each time."""
        limit, table = self._limit, self._table
        if len(block) > _LONGEST_CODE * limit:
            raise HeadersTooLarge(f"{len(block)} bytes cannot be less than {limit} decoded")
        fields: list[_Field] = []
        append = fields.append
        size, at, end = 0, 0, len(block)
        try:
            if block and _RESIZE <= block[0] < _INCREMENTAL:
                at = self._resizes(block)
            while at < end:
                first = block[at]
                if _INDEXED < first < 0xFF:
                    field, cost = table[first]
                    at += 1
                else:
                    (field, cost), at = self._longer(block, at, first)
                size += cost
                if size > limit:
                    raise HeadersTooLarge(f"more than {limit} bytes of headers")
                append(field)
        except IndexError:
            raise HeaderError("a block ends within a field, or names an index that is not in the table") from None
        return fields

    def _resizes(self, block: bytes) -> int:
        """Follow the table size updates that a block begins with, and return where its fields begin."""
        at = 0
        while at < len(block) and _RESIZE <= block[at] < _INCREMENTAL:
            capacity, at = _read_integer(block, at, 0x1F)
            if capacity > self._advertised:
                raise HeaderError(f"a table of {capacity} bytes, where {self._advertised} are allowed")
            if capacity != self._capacity:
                self._capacity = capacity
                self.changes += 1
                self._evict()
        return at

    def _longer(self, block: bytes, at: int, first: int) -> tuple[_Entry, int]:
        """Read a field that is not one byte: return it, and where the next one begins."""
        if first < _INDEXED:
            return self._literal(block, at, first)
        index, at = _read_integer(block, at, 0x7F)
        if not index:
            raise HeaderError("index 0")
        return self._table[_INDEXED + index], at

    def _literal(self, block: bytes, at: int, first: int) -> tuple[_Entry, int]:
        if first >= _INCREMENTAL:
            mask = 0x3F
        elif first < _RESIZE:
            mask = 0x0F
        else:
            raise HeaderError("a table size update that is not at the start of its block")
        index = first & mask
        if index:
            at += 1
            if index == mask:
                index, at = _read_integer(block, at - 1, mask)
            name = self._table[_INDEXED + index][0][0]
        else:
            name, at = _read_string(block, at + 1)
        value, at = _read_string(block, at)
        entry = (name, value), len(name) + len(value) + FIELD_OVERHEAD
        if first >= _INCREMENTAL:
            self._insert(entry)
        return entry, at

    def _insert(self, entry: _Entry) -> None:
        """Add an entry. One that is larger than the table empties it and is not added: that is no error."""
        if entry[1] <= self._capacity:
            self._table.insert(_NEWEST, entry)
            self.changes += 1
            self._used += entry[1]
            if self._used > self._capacity:
                self._evict()
        elif self._used:
            del self._table[_NEWEST:]
            self.changes += 1
            self._used = 0

    def _evict(self) -> None:
        while self._used > self._capacity:
            self._used -= self._table.pop()[1]


def _read_string(block: bytes, at: int) -> tuple[bytes, int]:
    first = block[at]
    length = first & 0x7F
    at += 1
    if length == 0x7F:
        length, at = _read_integer(block, at - 1, 0x7F)
    end = at + length
    if end > len(block):
        raise HeaderError("a block ends within a string")
    text = block[at:end]
    if first < 0x80:
        return text, end
    try:
        return huffman.decode(text), end
    except huffman.Invalid:
        raise HeaderError("not a Huffman string") from None


def _read_integer(block: bytes, at: int, mask: int) -> tuple[int, int]:
    """Read an integer whose first byte has it under this mask; return it, and where it ends."""
    value = block[at] & mask
    at += 1
    if value < mask:
        return value, at
    for shift in range(0, 7 * _MAX_INTEGER_BYTES, 7):
        byte = block[at]
        at += 1
        value += (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise HeaderError("an integer that is too long")


def integer(value: int, prefix_bits: int, first: int) -> bytes:
    """Encode an integer in the low bits of a byte that is otherwise `first`, and in as many more bytes as it needs."""
    mask = (1 << prefix_bits) - 1
    if value < mask:
        return bytes((first | value,))
    encoded = bytearray((first | mask,))
    value -= mask
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


# The first of the indices that share a name counts, so the last ones are entered first.
_INDICES = {name: index for index, (name, _) in reversed([*enumerate(STATIC, start=1)])}
_STATIC_FIELDS = {field: integer(index, 7, _INDEXED) for index, field in enumerate(STATIC, start=1)}
_PLAIN_NAMES = {name: integer(index, 4, 0) for name, index in _INDICES.items()}
_INDEXED_NAMES = {name: integer(index, 6, _INCREMENTAL) for name, index in _INDICES.items()}


def encode_plain(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Encode without any trace in the other side's table: the block means the same whenever it is sent."""
    return _encode(headers, _PLAIN_NAMES, b"\x00")


def encode_indexed(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Encode so that what is not in the static table enters the other side's dynamic table, in this order."""
    return _encode(headers, _INDEXED_NAMES, b"\x40")


def _encode(headers: Iterable[tuple[bytes, bytes]], names: dict[bytes, bytes], new_name: bytes) -> bytes:
    parts: list[bytes] = []
    for field in headers:
        encoded = _STATIC_FIELDS.get(field)
        if encoded is None:
            name, value = field
            encoded = (names.get(name) or new_name + _string(name)) + _string(value)
        parts.append(encoded)
    return b"".join(parts)


def _string(text: bytes) -> bytes:
    return integer(len(text), 7, 0) + text
