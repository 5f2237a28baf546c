"""Calls in groups, as callers send them who do not wait for answers, and a server that refuses some of them unheard."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise

import hpack

from server.transports.base import Fast, Metadata, StatusCode, StatusError
from server.transports.http2.connection import Connection
from tests.http2.frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADER_TABLE_SIZE,
    HEADERS,
    NONE,
    OK,
    PADDED,
    RESOURCE_EXHAUSTED,
    UNAVAILABLE,
    WITH_PRIORITY,
    raw,
    request,
)
from tests.http2.host import Host, hosted
from tests.http2.peer import Peer
from tests.transports import DEFAULTS, frame

PATH = "/t.S/Shed"
FULL, BRIM, WELCOME = b"full", b"brim", b"welcome"
PATIENT = replace(DEFAULTS, min_ping_interval=0.0)
CREDIT = 8 << 20
"""Bytes that a caller may send on all of its streams together ahead of the server."""
GUEST = ("x-guest", "yes")
"""Who may hear of refusals."""


@dataclass
class Refusal:
    """A refusal of messages that begin so."""

    status: StatusError
    alike: int
    calls: int = 0

    def count(self, calls: int) -> None:
        self.calls += calls


class Shed:
    """Refuses guests' messages by their beginnings while it is `strict`, and counts what it is told."""

    status = StatusError(StatusCode.RESOURCE_EXHAUSTED, "too many", (("grpc-retry-pushback-ms", "100"),))

    def __init__(self) -> None:
        self.refusals = {
            FULL: Refusal(StatusError(StatusCode.RESOURCE_EXHAUSTED, "no room"), len(FULL)),
            BRIM: Refusal(StatusError(StatusCode.UNAVAILABLE, "no room either"), len(BRIM)),
        }
        self.strict = True
        self.calls = 0

    def refuse(self, message: bytes, _: float, metadata: Metadata, __: float) -> Refusal | None:
        if not self.strict or GUEST not in metadata:
            return None
        return next((found for start, found in self.refusals.items() if message.startswith(start)), None)

    def count(self, calls: int) -> None:
        self.calls += calls

    def counts(self) -> tuple[int, int, int]:
        """Return what was counted of those shed by their headers, and of each refusal."""
        return self.calls, self.refusals[FULL].calls, self.refusals[BRIM].calls


@dataclass(frozen=True)
class Group:
    """Calls that are alike but for what is said here, and for the number in their messages."""

    calls: int
    starts: bytes = FULL
    size: int = 20
    """Bytes of each message, at least those it begins with and its number."""
    timeout: str | None = "30S"
    fields: tuple[tuple[str, str], ...] = (GUEST,)
    numbered: bool = False
    """Whether a header has the number too."""
    table: str = "used"
    """What becomes of the table of repeated fields: used, unused, or filled by headers that do not use it."""
    headers: str = "plain"
    """How the headers come: plain, padded, continued."""
    body: str = "whole"
    """How the data comes: whole, padded, halves, late end, trailers."""
    gap: int = 2
    """From one stream to the next."""


@dataclass
class Sent:
    """A call, and how it has to end."""

    message: bytes
    number: str | None
    status: str
    details: str | None


@dataclass
class Scene:
    """A server with a method that sheds, and one of its callers."""

    host: Host
    shed: Shed
    handled: list[tuple[bytes, str | None]]
    peer: Peer
    crowded: bool = False
    sent: dict[int, Sent] = field(default_factory=dict)
    data: int = 0
    """Bytes of DATA that were made."""

    def make(self, groups: Iterable[Group], *, crossed: bool = False) -> bytes:
        """Return groups of calls as bytes, and remember how they have to end.

        Where they are `crossed`, the headers of every second one stand before the data of the first.
        """
        calls = [self._call(group) for group in groups for _ in range(group.calls)]
        if crossed:
            calls = [(one[0] + other[0], one[1] + other[1]) for one, other in zip(calls[::2], calls[1::2], strict=True)]
        return b"".join(part for call in calls for part in call)

    def pour(self, data: bytes, cuts: Sequence[float] = ()) -> None:
        """Send bytes in pieces, each of which the server reads by itself."""
        places = sorted({0, len(data), *(int(cut * len(data)) for cut in cuts)})
        for start, end in pairwise(places):
            self.peer.send(data[start:end])
            self.host.taken(self.peer)

    def check(self) -> None:
        """Fail unless every call has ended as it must, was counted and handled as it must, and nothing else came."""
        for stream, sent in self.sent.items():
            answer = self.peer.answer(stream)
            assert (answer.status, answer.details) == (sent.status, sent.details), stream
            assert answer.ended
            assert not answer.reset  # but for NO_ERROR, behind an answer
            assert bytes(answer.body) == (frame(sent.message[:20]) if sent.status == OK else b"")
        assert self.peer.pong()
        assert self.peer.answers.keys() == self.sent.keys()
        assert self.shed.counts() == self._expected()
        assert sorted(self.handled) == sorted(
            (sent.message, sent.number) for sent in self.sent.values() if sent.status == OK
        )
        self._check_credit()
        answer = self.peer.ask(PATH, b"afterwards", ("x-after", "new"), ("x-number", "0"))
        assert (answer.message, self.handled.pop()) == (b"afterwards", (b"afterwards", "0"))

    def _expected(self) -> tuple[int, int, int]:
        ends = [sent.details for sent in self.sent.values()]
        return ends.count("too many"), ends.count("no room"), ends.count("no room either")

    def _check_credit(self) -> None:
        """Every byte of DATA is given back, or will be."""
        granted = self.peer.sendable[0] - CREDIT
        assert granted + self.connection()._taken == self.data

    def connection(self) -> Connection:
        """Return the server's side of it."""
        port = f":{self.peer.socket.getsockname()[1]}"
        (found,) = (
            caller.connection for caller in self.host.transport._loop._callers if caller.connection.peer.endswith(port)
        )
        return found

    def _call(self, group: Group) -> tuple[bytes, bytes]:
        peer = self.peer
        for _ in range(2, group.gap, 2):
            peer.stream()
        stream = peer.stream()
        number = b"%06d" % len(self.sent)
        message = (group.starts + number).ljust(group.size, b".")
        named = number.decode() if group.numbered else None
        self.sent[stream] = Sent(message, named, *self._ending(group))
        fields = request(PATH, *group.fields)
        fields += [("grpc-timeout", group.timeout)] if group.timeout is not None else []
        fields += [("x-number", named)] if named is not None else []
        return self._headers(group, stream, fields), self._body(group, stream, frame(message))

    def _ending(self, group: Group) -> tuple[str, str | None]:
        if group.timeout is None:
            return OK, None
        if self.crowded:
            return RESOURCE_EXHAUSTED, "too many"
        if GUEST in group.fields and group.starts != WELCOME:
            return (RESOURCE_EXHAUSTED, "no room") if group.starts == FULL else (UNAVAILABLE, "no room either")
        return OK, None

    def _headers(self, group: Group, stream: int, fields: Iterable[tuple[str, str]]) -> bytes:
        encoder = self.peer.encoder
        if group.table == "used":
            block = encoder.encode(fields)
        else:
            block = hpack.Encoder().encode([(*pair, True) for pair in fields])  # "sensitive" ones enter no table
        if group.table == "filled":
            block += b"\x40\x06x-fill\x01x"
            encoder.header_table.add(b"x-fill", b"x")
        if group.headers == "padded":
            return raw(HEADERS, END_HEADERS | PADDED | WITH_PRIORITY, stream, b"\3" + bytes(5) + block + bytes(3))
        if group.headers == "continued":
            return raw(HEADERS, NONE, stream, block[:5]) + raw(CONTINUATION, END_HEADERS, stream, block[5:])
        return raw(HEADERS, END_HEADERS, stream, block)

    def _body(self, group: Group, stream: int, body: bytes) -> bytes:
        most = 16384 - 15 if group.body == "padded" else 16384
        pieces = [body[at : at + most] for at in range(0, len(body), most)]
        before, last = [raw(DATA, NONE, stream, piece) for piece in pieces[:-1]], pieces[-1]
        self.data += len(body)
        match group.body:
            case "padded":
                self.data += 15
                before.append(raw(DATA, END_STREAM | PADDED, stream, b"\x0e" + last + bytes(14)))
            case "halves":
                before += [raw(DATA, NONE, stream, last[:7]), raw(DATA, END_STREAM, stream, last[7:])]
            case "late end":
                before += [raw(DATA, NONE, stream, last), raw(DATA, END_STREAM, stream)]
            case "trailers":
                trailers = [("x-trailer", str(stream))]
                before += [raw(DATA, NONE, stream, last), self.peer.headers(stream, trailers, END_HEADERS | END_STREAM)]
            case _:
                before.append(raw(DATA, END_STREAM, stream, last))
        return b"".join(before)


class Stage:
    """A server on which one scene after the other is played."""

    def __init__(self, host: Host, method: "Method") -> None:
        self.host = host
        self._method = method

    @contextmanager
    def scene(self, *settings: tuple[int, int], crowded: bool = False) -> Iterator[Scene]:
        """Connect; while the server is `crowded` every call waits for hours."""
        self._method.shed, self._method.handled = Shed(), []
        backlog = self.host.transport._loop._backlog
        with self.host.connect(*settings) as peer:
            assert peer.pong()
            if (HEADER_TABLE_SIZE, 0) in settings:
                peer.decoder.max_allowed_table_size = 0  # it wants to be told that the server has followed
            if crowded:
                backlog.wait = lambda: 10_000.0
            try:
                yield Scene(self.host, self._method.shed, self._method.handled, peer, crowded)
            finally:
                vars(backlog).pop("wait", None)


class Method:
    """Hands on to the scene's own."""

    status = Shed.status
    recent = "something, perhaps"

    def __init__(self) -> None:
        self.shed = Shed()
        self.handled: list[tuple[bytes, str | None]] = []
        self.before: Callable[[bytes], None] = lambda _: None
        """Called before a message is handled, on the transport's thread."""

    def refuse(self, message: bytes, seconds: float, metadata: Metadata, waited: float) -> Refusal | None:
        return self.shed.refuse(message, seconds, metadata, waited)

    def count(self, calls: int) -> None:
        self.shed.count(calls)

    def handle(self, call, message: bytes) -> None:
        self.before(message)
        self.handled.append((message, dict(call.metadata).get("x-number")))
        call.reply(message[:20])


@contextmanager
def stage(method: Method | None = None) -> Iterator[Stage]:
    """Serve a method that sheds for the length of a with-block."""
    method = method or Method()
    with hosted(PATIENT, Shed=Fast(method.handle, method)) as host:
        yield Stage(host, method)
