"""Who may call what: API keys from a file, checked before a byte of the message is looked at.

State: a dictionary from the SHA-256 digest of each key to its name and scopes; the keys themselves are not kept.
A key comes as metadata, `authorization: Bearer KEY` or `api-key: KEY`. Without a file anybody may call.

A line of the file is `name:scopes:key` or `name:scopes:sha256=HEX`, scopes separated by commas; # begins a comment.
"""

import hashlib
import hmac
import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from server.errors import PermissionDenied, Unauthenticated
from server.transports.base import Metadata

_MAX_KEY = 4096
_MIN_KEY = 16
"""Characters; shorter keys can be guessed over the network."""
_DIGEST = "sha256="


class Scope(StrEnum):
    """What a method needs; each key names the ones it has, none implies another."""

    INFER = "infer"
    """Predictions, streams of them, and jobs."""
    READ = "read"
    """Metadata, configuration, statistics, readiness."""
    ADMIN = "admin"
    """Loading and unloading models, shared memory, log settings."""


@dataclass(frozen=True, slots=True)
class Identity:
    """The owner of a key."""

    name: str
    scopes: frozenset[Scope]


ANYBODY = Identity("", frozenset(Scope))


class InvalidKeys(Exception):
    """The key file cannot be used; the text says where and why and never shows a key."""


class Authenticator:
    """Says who is calling. `keys` None means that nobody has to say."""

    def __init__(self, keys: Mapping[bytes, Identity] | None) -> None:
        self._keys = keys

    @property
    def required(self) -> bool:
        """Whether callers need a key."""
        return self._keys is not None

    def check(self, metadata: Metadata, scope: Scope) -> Identity:
        """Return who is calling.

        Raises:
            Unauthenticated: no key came, more than one, or an unknown one.
            PermissionDenied: the key lacks `scope`.
        """
        if self._keys is None:
            return ANYBODY
        digest = hashlib.sha256(_presented(metadata)).digest()
        identity = None
        for known, owner in self._keys.items():  # every one of them, so that time tells nothing
            if hmac.compare_digest(known, digest):
                identity = owner
        if identity is None:
            raise Unauthenticated("expected a valid API key, got an unknown one")
        if scope not in identity.scopes:
            raise PermissionDenied(f"expected a key with scope {scope.value}, got one without")
        return identity


def parse_keys(lines: Iterable[str]) -> Mapping[bytes, Identity]:
    """Read a key file.

    Raises:
        InvalidKeys: a line is malformed, a name or key comes twice, or there is no key at all.
    """
    keys: dict[bytes, Identity] = {}
    names: set[str] = set()
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        digest, identity = _entry(text, f"line {number}")
        if digest in keys or identity.name in names:
            raise InvalidKeys(f"line {number}: expected each name and key once, got one of them again")
        keys[digest] = identity
        names.add(identity.name)
    if not keys:
        raise InvalidKeys("expected at least one line of name:scopes:key, got none")
    return MappingProxyType(keys)


def _entry(text: str, where: str) -> tuple[bytes, Identity]:
    name, _, rest = text.partition(":")
    scopes, _, key = rest.partition(":")
    if not name or not scopes or not key:
        raise InvalidKeys(f"{where}: expected name:scopes:key")
    try:
        allowed = frozenset(Scope(scope.strip()) for scope in scopes.split(","))
    except ValueError:
        raise InvalidKeys(f"{where}: expected scopes out of {', '.join(Scope)}") from None
    return _digest(key, where), Identity(name, allowed)


def _digest(key: str, where: str) -> bytes:
    if key.startswith(_DIGEST):
        digits = key.removeprefix(_DIGEST)
        if len(digits) != 64 or not set(digits) <= set(string.hexdigits):
            raise InvalidKeys(f"{where}: expected 64 hexadecimal digits after {_DIGEST}, got {len(digits)} characters")
        return bytes.fromhex(digits)
    if not _MIN_KEY <= len(key) <= _MAX_KEY or not key.isascii():
        raise InvalidKeys(f"{where}: expected a key of {_MIN_KEY} to {_MAX_KEY} ASCII characters, got {len(key)}")
    return hashlib.sha256(key.encode()).digest()


def _presented(metadata: Metadata) -> bytes:
    """Return the one key a caller presents. Raises Unauthenticated."""
    found = [(name, value) for name, value in metadata if name in ("authorization", "api-key")]
    if len(found) != 1:
        raise Unauthenticated(
            f"expected one API key as metadata 'authorization: Bearer KEY' or 'api-key: KEY', got {len(found)}"
        )
    name, value = found[0]
    key = value.encode(errors="replace") if isinstance(value, str) else value
    if name == "authorization":
        scheme, _, key = key.partition(b" ")
        if scheme.lower() != b"bearer":
            raise Unauthenticated("expected metadata 'authorization: Bearer KEY', got another scheme")
    if len(key) > _MAX_KEY:
        raise Unauthenticated(f"expected an API key of at most {_MAX_KEY} characters, got {len(key)}")
    return key
