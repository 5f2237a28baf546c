"""Where Redis is: every form of URL that --queue takes, as one frozen value whose text never shows a password.

    redis://[user@]host:port/db         one server
    rediss://...?ca=FILE&cert=FILE&key=FILE   the same over TLS; the certificate is always verified
    unix:///path/to/socket?db=0
    redis+sentinel://host:port,host:port/service/db     the master that the sentinels agree on
    redis+cluster://host:port,host:port                 a cluster, found through any of its nodes

A `+tls` before :// (redis+sentinel+tls, redis+cluster+tls) adds TLS. Passwords belong in a file (`read_password`) or
the environment: one in the URL is honoured, since deployments have them, but whoever can list processes sees it.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qs, unquote, urlsplit

from typing_extensions import override

Kind = Literal["single", "unix", "sentinel", "cluster"]

_SCHEMES: dict[str, tuple[Kind, bool]] = {
    "redis": ("single", False),
    "rediss": ("single", True),
    "unix": ("unix", False),
    "redis+sentinel": ("sentinel", False),
    "redis+sentinel+tls": ("sentinel", True),
    "redis+cluster": ("cluster", False),
    "redis+cluster+tls": ("cluster", True),
}
_PORTS = {"single": 6379, "sentinel": 26379, "cluster": 6379}
_FILES = ("ca", "cert", "key")


class InvalidAddress(ValueError):
    """The URL or password file cannot be used; the text names what was expected and shows no secret."""


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """A parsed URL. `hosts` has one entry but for sentinel and cluster, none for unix."""

    kind: Kind
    hosts: tuple[tuple[str, int], ...] = ()
    db: int = 0
    path: str = ""
    """The socket of `unix`, the service of `sentinel`."""
    tls: bool = False
    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)

    @override
    def __str__(self) -> str:
        hosts = ",".join(f"{host}:{port}" for host, port in self.hosts)
        scheme = next(s for s, meaning in _SCHEMES.items() if meaning == (self.kind, self.tls))
        tail = {"single": f"/{self.db}", "unix": self.path, "sentinel": f"/{self.path}/{self.db}", "cluster": ""}
        return f"{scheme}://{hosts}{tail[self.kind]}"

    def with_password(self, password: str | None) -> "RedisAddress":
        """Return the same place with this password, if there is one."""
        return self if password is None else replace(self, password=password)


def parse_address(url: str) -> RedisAddress:
    """Return what `url` says. Raises InvalidAddress."""
    scheme, sep, rest = url.partition("://")
    if not sep or scheme not in _SCHEMES:
        raise InvalidAddress(f"redis url: expected one of {', '.join(_SCHEMES)} before ://, got {scheme[:32]!r}")
    kind, tls = _SCHEMES[scheme]
    parts = urlsplit(f"//{rest}")
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    unknown = set(query) - {*_FILES, "db"}
    if unknown:
        raise InvalidAddress(f"redis url: expected only ca, cert, key and db after ?, got {min(unknown)[:32]!r}")
    login, _, hosts = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    path, db = _path_and_db(kind, parts.path, query.get("db", ""))
    return RedisAddress(
        kind, _hosts(kind, hosts), db, path, tls, query.get("ca"), query.get("cert"), query.get("key"),
        unquote(user) or None, unquote(password) or None,
    )  # fmt: skip


def read_password(file: Path) -> str:
    """Return the first line of a password file. Raises InvalidAddress."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidAddress(
            f"redis password file: expected a readable text file, got {type(error).__name__}"
        ) from None
    if not lines or not lines[0]:
        raise InvalidAddress("redis password file: expected the password on its first line, got an empty line")
    return lines[0]


def _hosts(kind: Kind, text: str) -> tuple[tuple[str, int], ...]:
    if kind == "unix":
        return ()
    hosts = tuple(_host(item, _PORTS[kind]) for item in text.split(",") if item)
    if not hosts or (kind == "single" and len(hosts) > 1):
        raise InvalidAddress(f"redis url: expected {'one host' if kind == 'single' else 'hosts'}, got {len(hosts)}")
    return hosts


def _host(item: str, default: int) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{item}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or port == 0:
        raise InvalidAddress("redis url: expected HOST or HOST:PORT with a port up to 65535, got something else")
    return host, port or default


def _path_and_db(kind: Kind, path: str, query_db: str) -> tuple[str, int]:
    if kind == "unix":
        name, db = path, query_db
    elif kind == "sentinel":
        name, _, db = path.strip("/").partition("/")
        if not name:
            raise InvalidAddress("redis url: expected /SERVICE after the sentinels, got none")
    else:
        name, db = "", path.strip("/") or query_db
    if db and not (db.isdecimal() and (kind != "cluster" or db == "0")):
        expected = "no database (a cluster has only 0)" if kind == "cluster" else "a database number"
        raise InvalidAddress(f"redis url: expected {expected}, got {db[:16]!r}")
    return name, int(db or "0")
