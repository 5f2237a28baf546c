"""One HTTP/2 connection that sends one and the same call again and again (RFC 9113, gRPC over HTTP/2)."""

import select
import socket
import ssl
import struct
import time
from collections.abc import Iterator, Sequence

from server.load.answers import INTERNAL, Answers, number
from server.load.outgoing import Outgoing
from server.load.template import Headers
from server.transports.http2.frames import (
    ACK,
    CONTINUATION,
    DEFAULT_WINDOW,
    ENABLE_PUSH,
    GOAWAY,
    HEADER_TABLE_SIZE,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    MAX_CONCURRENT_STREAMS,
    MOST,
    PING,
    PREFACE,
    PREFIX_SIZE,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    ErrorCode,
    frame,
    read_settings,
    read_uint32,
    settings,
    window_update,
)

OK, CANCELLED, DEADLINE_EXCEEDED, PERMISSION_DENIED, RESOURCE_EXHAUSTED, UNAVAILABLE = 0, 1, 4, 7, 8, 14
_RESETS: dict[int, int] = {
    ErrorCode.REFUSED_STREAM: UNAVAILABLE,
    ErrorCode.CANCEL: CANCELLED,
    ErrorCode.ENHANCE_YOUR_CALM: RESOURCE_EXHAUSTED,
    ErrorCode.INADEQUATE_SECURITY: PERMISSION_DENIED,
}
"""What a stream's reset means to gRPC; anything else is INTERNAL."""
_READ = 1 << 18
_PATIENCE = 10.0
"""Seconds in which a peer has to accept and to greet."""
_LONGEST = 99_999_999
"""The most milliseconds that gRPC's eight digits can say."""
_NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Connection:
    """A socket and the calls that are open on it; raises OSError where the peer cannot be talked to."""

    def __init__(
        self, address: str, headers: Headers, message: bytes, deadline: float, tls: ssl.SSLContext | None = None
    ) -> None:
        """Connect, and hear what the peer allows.

        Args:
            address: "host:port".
            headers: of each call, without its timeout.
            message: of each call.
            deadline: seconds that a call has from the instant at which it was meant to be sent.
            tls: how to secure the connection, None for not.
        """
        self.leaving = False
        """Whether the peer wants no more calls here."""
        self.lost = False
        """Whether the peer is gone."""
        self._why = ""
        """What the operating system, or TLS, had to say to that."""
        self._deadline = deadline
        self._outgoing = Outgoing(headers, message)
        self._answers = Answers(self._rare)
        self._sent: list[float] = []
        """The instants at which calls were meant to be sent; the first one's stream is 1, the next one's 3."""
        self._ended = 0
        self._heard: list[tuple[float, int, list[bytes]]] = []
        """When, and how, which streams ended."""
        self._told = 0
        """How much of that `news` has told."""
        self._over: set[int] = set()
        """The streams of that, as far as `_ends` has looked."""
        self._looked = 0
        self._streams = MOST
        self._unsent = memoryview(b"")
        self.socket = _connect(address, tls)
        try:
            self._greet()
        except OSError:
            self.close()
            raise

    @property
    def open(self) -> int:
        """Calls that have not ended."""
        return len(self._sent) - self._ended

    @property
    def wants_to_write(self) -> bool:
        """Whether the socket did not take everything yet."""
        return bool(self._outgoing.pieces or self._unsent) and not self.lost

    def room(self) -> int:
        """Return how many calls could be sent now: streams, and window for their messages."""
        return 0 if self.leaving else max(min(self._streams - self.open, self._outgoing.room()), 0)

    def start(self, instants: Sequence[float], now: float) -> None:
        """Send a call for each instant, with the time that is left to the first of them; there must be room."""
        left = min(max(int((self._deadline + instants[0] - now) * 1000), 1), _LONGEST)
        self._outgoing.write(2 * len(self._sent) + 1, len(instants), left)
        self._sent += instants

    def flush(self) -> None:
        """Give the socket what it takes."""
        while self.wants_to_write:
            if not self._unsent:
                self._unsent = memoryview(b"".join(self._outgoing.pieces))
                self._outgoing.pieces.clear()
            try:
                sent = self.socket.send(self._unsent)
            except _NOT_NOW:
                return
            except OSError:  # the peer is gone; what it said before is still to be read, and then the end
                self.leaving = True
                self._unsent = memoryview(b"")
                self._outgoing.pieces.clear()
            else:
                self._unsent = self._unsent[sent:]

    def receive(self) -> int:
        """Read what has come; return how many calls have ended with it."""
        before = self._ended
        while not self.lost:
            try:
                chunk = self.socket.recv(_READ)
            except _NOT_NOW:
                break
            except OSError as error:
                chunk, self._why = b"", f": {error}"
            if chunk:
                self._answers.read(chunk)
            else:
                self._lose()
            if not isinstance(self.socket, ssl.SSLSocket):  # which may hold more than `select` knows of
                break
        self._note()
        if self._outgoing.sending and self._outgoing.sending in self._ends():
            self._outgoing.drop()
        if self._answers.taken > MOST // 2:
            self._outgoing.pieces.append(window_update(0, self._answers.taken))
            self._answers.taken = 0
        return self._ended - before

    def watch(self) -> None:
        """Keep the messages of answers from now on, for `news`."""
        self._answers.messages = {}

    def news(self) -> Iterator[tuple[float, int, bytes]]:
        """Yield latency, status and message of the calls that have ended since this was last asked."""
        messages = self._answers.messages or {}
        for now, status, streams in self._heard[self._told :]:
            for stream in map(number, streams):
                yield now - self._sent[stream >> 1], status, bytes(messages.pop(stream, b"")[PREFIX_SIZE:])
        self._told = len(self._heard)

    def results(self) -> Iterator[tuple[float, float, int]]:
        """Yield instant, latency and status of every call that ended, by its first end."""
        seen = bytearray(len(self._sent))
        for now, status, streams in self._heard:
            for stream in streams:
                place = number(stream) >> 1
                if not seen[place]:
                    seen[place] = 1
                    yield self._sent[place], now - self._sent[place], status

    def close(self) -> None:
        """Close the socket; what is open stays unanswered."""
        self.socket.close()

    def _note(self) -> None:
        """Take over what was read: only the time is missing, and the rest can wait."""
        now, heard = time.monotonic(), self._answers.heard
        self._heard += [(now, status, streams) for status, streams in heard]
        self._ended += sum(len(streams) for _, streams in heard)
        heard.clear()

    def _rare(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == WINDOW_UPDATE:
            self._outgoing.grow(stream, read_uint32(payload)[0])
        elif kind == RST_STREAM:
            self._reset(stream, read_uint32(payload)[0])
        elif kind in (SETTINGS, PING):
            if not flags & ACK:
                self._acknowledge(kind, payload)
        elif kind == GOAWAY:
            last, code = struct.unpack_from(">II", payload)
            self._goes(last, code, payload[8:].decode(errors="replace"))
        elif kind in (HEADERS, PUSH_PROMISE, CONTINUATION):
            raise ConnectionError(f"expected the headers of an answer in one frame, got a frame of type {kind}")

    def _reset(self, stream: int, code: int) -> None:
        if stream not in self._ends():  # after an answer it says nothing
            self._answers.end(stream, _RESETS.get(code, INTERNAL))
        if stream == self._outgoing.sending:
            self._outgoing.sending = 0

    def _acknowledge(self, kind: int, payload: bytes) -> None:
        if kind == SETTINGS:
            said = dict(read_settings(payload))
            self._streams = said.get(MAX_CONCURRENT_STREAMS, self._streams)
            self._outgoing.settle(said)
        self._outgoing.pieces.append(frame(kind, ACK, 0, payload if kind == PING else b""))

    def _goes(self, last: int, code: int, words: str) -> None:
        """Hear that calls above a stream were not and will not be acted on."""
        if code != ErrorCode.NO_ERROR:
            raise ConnectionError(f"the server broke off the connection with HTTP/2 error {code}: {words}")
        self.leaving = True
        self._give_up(last & MOST)

    def _lose(self) -> None:
        self.lost = self.leaving = True
        self._give_up(0)

    def _give_up(self, last: int) -> None:
        ended = self._ends()
        for stream in range(last + 1 | 1, 2 * len(self._sent), 2):
            if stream not in ended:
                self._answers.end(stream, UNAVAILABLE)

    def _ends(self) -> set[int]:
        """Return the streams that have ended: as dear as all else, so asked only where that is in doubt."""
        self._note()
        for _, _, streams in self._heard[self._looked :]:
            self._over.update(map(number, streams))
        self._looked = len(self._heard)
        return self._over

    def _greet(self) -> None:
        said = settings(((HEADER_TABLE_SIZE, 0), (ENABLE_PUSH, 0), (INITIAL_WINDOW_SIZE, MOST)))
        self._outgoing.pieces.append(PREFACE + said + window_update(0, MOST - DEFAULT_WINDOW))
        until = time.monotonic() + _PATIENCE
        self.flush()
        while not self._outgoing.settled:
            self.receive()
            if self.lost:
                raise ConnectionError(f"the server closed the connection before it greeted{self._why}")
            if time.monotonic() > until:
                raise ConnectionError(f"expected the server to speak HTTP/2 within {_PATIENCE:.0f} s")
            select.select((self.socket,), (), (), 0.05)
        self.flush()


def _connect(address: str, tls: ssl.SSLContext | None) -> socket.socket:
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    if not (host and port.isdecimal() and int(port) < 1 << 16):
        raise ConnectionError(f"expected an address like host:port, got {address!r}")
    connected = socket.create_connection((host, int(port)), _PATIENCE)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if tls is not None:
        connected = tls.wrap_socket(connected, server_hostname=host)
    connected.setblocking(False)  # noqa: FBT003 - the standard library's own
    return connected
