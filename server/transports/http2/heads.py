"""What the headers of a call say, and the headers of its answer: gRPC over HTTP/2's "Request" and "Response".

Knows no connection.
"""

import re
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from server.transports.base import Metadata, StatusCode, StatusError
from server.transports.failure import METHOD_NOT_FOUND
from server.transports.http2.endings import Headers, ending
from server.transports.http2.frames import ConnectionFault, ErrorCode
from server.transports.http2.hpack import HeaderDecoder, HeaderError, HeadersTooLarge, encode_plain
from server.transports.http2.messages import ENCODINGS

_OURS = frozenset({b"te", b"content-type", b"grpc-encoding", b"grpc-accept-encoding"})
"""Headers that are between the transports, not metadata."""
_FORBIDDEN = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"})
_PSEUDO = frozenset({b":method", b":scheme", b":path", b":authority"})
_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_TIMEOUT = re.compile(rb"(\d{1,8})([HMSmun])")
_BAD_NAME = re.compile(rb"[A-Z:\x00-\x20\x7f-\xff]")
_BAD_VALUE = re.compile(rb"[\x00\r\n]")


_LARGEST = 64 << 10
"""Bytes of decoded headers beyond which a connection ends."""


class Malformed(Exception):
    """Not a request by HTTP/2's own rules: the stream ends with PROTOCOL_ERROR."""


@dataclass(slots=True)
class Head:
    """The headers of calls that look alike; nobody changes them."""

    route: Any
    """What the router has for the path; None for an unknown one."""
    method: str
    metadata: Metadata
    timeout: float | None
    """Seconds."""
    encoding: str
    refusal: bytes | None = None
    """The header block that ends such a call at once."""
    hurry: float | None = None
    """The timeout of calls that may be shed."""
    malformed: bool = False
    """Whether this is no request by HTTP/2's own rules."""


_MALFORMED = Head(None, "", (), None, "identity", malformed=True)
_MOST_KNOWN = 256
_LARGEST_KNOWN = 1024
"""Blocks that are remembered, and their bytes: so that a connection cannot make us keep more than some hundred kB."""


class Heads:
    """Reads header blocks; those that look alike, as nearly all of a caller's do, only once."""

    def __init__(self, find: Callable[[str], object], limit: int) -> None:
        """Begin a connection's.

        Args:
            find: returns the route of a path, None if there is none.
            limit: bytes that a call's headers may have, names, values and 32 each.
        """
        self._find = find
        self._limit = limit
        self._decoder = HeaderDecoder(max(_LARGEST, 2 * limit))
        self._known: dict[bytes, Head] = {}
        self._alike: dict[tuple[tuple[bytes, bytes], ...], Head] = {}
        """Heads by all of their fields but the timeout."""
        self._changes = 0

    def read(self, block: bytes) -> Head:
        """Return what a block says.

        Raises:
            ConnectionFault: it cannot be decoded.
        """
        head = self._known.get(block)
        return self._read(block) if head is None else head

    def knows(self, block: bytes) -> bool:
        """Whether a block may be passed over, because it has been read and changes no table."""
        return block in self._known

    def read_trailers(self, block: bytes) -> bool:
        """Decode the block that ends a request, which means nothing in gRPC; False when it is malformed.

        Raises:
            ConnectionFault: it cannot be decoded.
        """
        fields = self._decode(block)
        self._forget_if_changed()
        return not any(_BAD_NAME.search(name) or _BAD_VALUE.search(value) for name, value in fields)

    def _forget_if_changed(self) -> bool:
        """Forget what blocks meant if the table has changed since: the same bytes mean something else now."""
        changed = self._decoder.changes != self._changes
        if changed or len(self._known) >= _MOST_KNOWN:
            self._known.clear()
        self._changes = self._decoder.changes
        return changed

    def _decode(self, block: bytes) -> Headers:
        try:
            return self._decoder.decode(block)
        except HeadersTooLarge as error:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, str(error)) from None
        except HeaderError as error:
            raise ConnectionFault(ErrorCode.COMPRESSION_ERROR, str(error)) from None

    def _read(self, block: bytes) -> Head:
        remember = len(block) <= _LARGEST_KNOWN
        head = self._understand(self._decode(block), remember=remember)
        if not self._forget_if_changed() and remember:
            self._known[block] = head
        return head

    def _understand(self, fields: Headers, *, remember: bool) -> Head:
        """Return what the fields say; a caller's calls often differ in their deadline only."""
        timeout, before = None, 0
        rest: Headers = []
        for field in fields:
            if field[0] == b"grpc-timeout":
                timeout, before = field[1], len(rest)
            else:
                rest.append(field)
        alike = tuple(rest)
        head = self._alike.get(alike)
        if head is None:
            head = self._understand_rest(rest)
            if len(self._alike) >= _MOST_KNOWN:
                self._alike.clear()
            if remember:
                self._alike[alike] = head
        if timeout is None or head.route is None:
            return head
        if any(name.startswith(b":") for name, _ in rest[before:]):
            return _MALFORMED
        return with_timeout(head, timeout)

    def _understand_rest(self, fields: Headers) -> Head:
        try:
            return read_head(fields, self._find, self._limit)
        except Malformed:
            return _MALFORMED


def read_head(fields: Headers, find: Callable[[str], object], limit: int) -> Head:
    """Understand a request's headers.

    Args:
        fields: as they were decoded, without the timeout.
        find: returns the route of a path, None if there is none.
        limit: bytes that they may have, names, values and 32 each.

    Raises:
        Malformed: as RFC 9113 means it, section 8.
    """
    pseudo = _pseudo(fields)
    if pseudo.get(b":method") != b"POST":
        return _refused(b"405")
    named = dict(fields)
    if not named.get(b"content-type", b"").startswith(b"application/grpc"):
        return _refused(b"415")
    method = pseudo[b":path"].decode("latin-1")
    encoding = named.get(b"grpc-encoding", b"identity").decode("latin-1")
    try:
        _check(fields, encoding, limit)
        metadata = _metadata(fields)
    except StatusError as status:
        return Head(None, method, (), None, encoding, ending(status))
    route = find(method)
    refusal = ending(StatusError(StatusCode.UNIMPLEMENTED, METHOD_NOT_FOUND)) if route is None else None
    return Head(route, method, metadata, None, encoding, refusal)


def with_timeout(head: Head, value: bytes) -> Head:
    """Return the same head with a timeout as gRPC writes it, "100m" say."""
    match = _TIMEOUT.fullmatch(value)
    if match is None:
        words = f"expected grpc-timeout to be up to 8 digits and one of HMSmun, it is {value.decode('latin-1')!r:.64}"
        return Head(None, head.method, (), None, head.encoding, ending(StatusError(StatusCode.INTERNAL, words)))
    seconds = int(match[1]) * _UNITS[match[2]]
    hurry = seconds if head.route.shedder is not None else None
    return Head(head.route, head.method, head.metadata, seconds, head.encoding, hurry=hurry)


def _check(fields: Headers, encoding: str, limit: int) -> None:
    if sum(len(name) + len(value) + 32 for name, value in fields) > limit:
        raise StatusError(StatusCode.RESOURCE_EXHAUSTED, f"expected at most {limit} bytes of metadata")
    if encoding not in ENCODINGS:
        words = f"expected grpc-encoding to be one of {', '.join(ENCODINGS)}, it is {encoding!r:.64}"
        raise StatusError(StatusCode.UNIMPLEMENTED, words)


def _refused(status: bytes) -> Head:
    return Head(None, "", (), None, "identity", encode_plain([(b":status", status)]))


def _pseudo(fields: Headers) -> dict[bytes, bytes]:
    """Check what HTTP/2 says of a request's fields and return those with a colon."""
    pseudo: dict[bytes, bytes] = {}
    regular = False
    for name, value in fields:
        if name.startswith(b":"):
            if regular or name not in _PSEUDO or name in pseudo:
                raise Malformed(f"expected each of HTTP/2's own fields once, before the others; {name!r:.64} is not so")
            pseudo[name] = value
        else:
            regular = True
            if not name or _BAD_NAME.search(name) or name in _FORBIDDEN:
                raise Malformed(f"expected a field of HTTP/2, got {name!r:.64}")
            if name == b"te" and value != b"trailers":
                raise Malformed(f"expected te to be trailers, got {value!r:.64}")
        if _BAD_VALUE.search(value):
            raise Malformed(f"expected {name!r:.64} to have no line end")
    if not (pseudo.get(b":method") and pseudo.get(b":scheme") and pseudo.get(b":path")):
        raise Malformed("expected :method, :scheme and :path")
    return pseudo


def _metadata(fields: Iterable[tuple[bytes, bytes]]) -> Metadata:
    found: list[tuple[str, str | bytes]] = []
    for name, value in fields:
        if name in _OURS or name.startswith(b":"):
            continue
        key = name.decode("ascii")
        if key.endswith("-bin"):
            found.extend((key, _unbase64(key, part)) for part in value.split(b","))
        else:
            found.append((key, value.decode("latin-1")))
    return tuple(found)


def _unbase64(key: str, value: bytes) -> bytes:
    try:
        return b64decode(value.strip().rstrip(b"=") + b"=" * (-len(value.strip().rstrip(b"=")) % 4), validate=True)
    except Base64Error:
        raise StatusError(StatusCode.INTERNAL, f"expected {key!r:.64} to be in base64") from None
