"""An HTTP/2 client that says what a test tells it to, frame by frame.

Nothing here helps a caller to behave, but what the server sends is held to RFC 9113 all the time: valid frames, no
larger than allowed, within the windows.
"""

import contextlib
import itertools
import socket
import struct
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Self

import hpack
from h2.errors import ErrorCodes
from hyperframe import frame as frames

from tests.http2.answer import Answer
from tests.http2.frames import (
    ACK,
    DATA,
    ECHO,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    INITIAL_WINDOW,
    MAX_FRAME,
    NONE,
    OK,
    PING,
    PREFACE,
    SETTINGS,
    WINDOW,
    data,
    raw,
    request,
    setting,
    update,
)
from tests.transports import WAIT, frame


class Peer:
    """One connection; blocking."""

    def __init__(
        self,
        port: int,
        *settings: tuple[int, int],
        wrap: Callable[[socket.socket], socket.socket] | None = None,
        silent: bool = False,
    ) -> None:
        plain = socket.create_connection(("127.0.0.1", port), timeout=WAIT)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = wrap(plain) if wrap else plain
        self.encoder = hpack.Encoder()
        self.decoder = hpack.Decoder()
        self.answers: dict[int, Answer] = defaultdict(Answer)
        self.frames: list[frames.Frame] = []
        self.gone: frames.GoAwayFrame | None = None
        self.theirs = {INITIAL_WINDOW: WINDOW, MAX_FRAME: 16384}
        """The server's settings."""
        self.sendable: dict[int, int] = defaultdict(lambda: self.theirs[INITIAL_WINDOW])
        """By stream, 0 for the connection, what may still be sent."""
        self.sendable[0] = WINDOW
        self._ours = {INITIAL_WINDOW: WINDOW, MAX_FRAME: 16384}
        self._promised: list[Sequence[tuple[int, int]]] = []
        self._granted: dict[int, int] = defaultdict(int)
        self._receivable = WINDOW
        self._block, self._last = b"", False
        self._streams = itertools.count(1, 2)
        self._received = b""
        self._polite = not silent
        """Whether this client does and knows what it must; a silent one says nothing but what it is told to."""
        if not silent:
            self.send(PREFACE)
            self.settings(*settings)

    # -- what this client says

    def send(self, *parts: bytes) -> None:
        """Put bytes on the wire, in one segment where they fit."""
        self.socket.sendall(b"".join(parts))

    def settings(self, *pairs: tuple[int, int]) -> None:
        """Send SETTINGS; what they allow holds at once, what they forbid once they are acknowledged."""
        self._promised.append(pairs)
        self._ours |= {key: max(value, self._ours.get(key, 0)) for key, value in pairs}
        self.send(setting(*pairs))

    def grant(self, stream: int, increment: int) -> bytes:
        """Make a WINDOW_UPDATE and allow the server what it says."""
        if stream:
            self._granted[stream] += increment
        else:
            self._receivable += increment
        return update(stream, increment)

    def stream(self) -> int:
        return next(self._streams)

    def headers(self, stream: int, fields: Iterable[tuple[str, str]], flags: int = END_HEADERS) -> bytes:
        """Make a HEADERS frame; blocks must be sent in the order in which they were made."""
        return raw(HEADERS, flags, stream, self.encoder.encode(list(fields)))

    def call(self, path: str, message: bytes = b"", *extra: tuple[str, str]) -> int:
        """Send a small call whole and return its stream."""
        stream = self.stream()
        self.send(self.headers(stream, request(path, *extra)), data(stream, frame(message)))
        return stream

    def upload(self, stream: int, body: bytes, flags: int = END_STREAM) -> None:
        """Send a body as the server's windows allow."""
        while body:
            while min(self.sendable[0], self.sendable[stream]) <= 0:
                assert self.read() is not None, "closed while it owed a WINDOW_UPDATE"
            size = min(len(body), self.theirs[MAX_FRAME], self.sendable[0], self.sendable[stream])
            part, body = body[:size], body[size:]
            self.sendable[0] -= size
            self.sendable[stream] -= size
            self.send(raw(DATA, NONE if body else flags, stream, part))

    def end(self) -> None:
        """Say that nothing more will be sent."""
        self.socket.shutdown(socket.SHUT_WR)

    # -- what the server says

    def read(self) -> frames.Frame | None:
        """Receive one frame and keep the books; None at the connection's end."""
        head = self._exactly(9)
        if head is None:
            return None
        found, length = frames.Frame.parse_frame_header(memoryview(head))
        assert length <= self._ours[MAX_FRAME] or not self._polite, "a frame larger than SETTINGS_MAX_FRAME_SIZE"
        body = self._exactly(length)
        if body is None:
            return None
        found.parse_body(memoryview(body))
        self.frames.append(found)
        self._keep(found)
        return found

    def until(self, enough: Callable[[], object]) -> bool:
        """Read until a condition holds; False when the connection ended first."""
        while not enough():
            if self.read() is None:
                return bool(enough())
        return True

    def answer(self, stream: int) -> Answer:
        """Wait for the end of a stream, or of the connection."""
        self.until(lambda: self.answers[stream].over)
        return self.answers[stream]

    def ask(self, path: str, message: bytes = b"", *extra: tuple[str, str]) -> Answer:
        return self.answer(self.call(path, message, *extra))

    def alive(self) -> bool:
        """Tell whether a call on this connection is served; whatever was sent before has been acted upon then."""
        return self.ask(ECHO, b"same connection").status == OK

    def pong(self) -> bool:
        """Tell whether PINGs are answered; whatever was sent before has been acted upon then.

        Twice, for the first may overtake handlers of calls that came just before it.
        """
        return all(self._pong(struct.pack(">Q", len(self.frames))) for _ in range(2))

    def _pong(self, token: bytes) -> bool:
        self.send(raw(PING, NONE, 0, token))
        return self.until(lambda: any(self._is_pong(one, token) for one in self.frames[-1:]))

    def verdict(self, stream: int) -> ErrorCodes | None:
        """Wait for a stream's RST_STREAM or the connection's GOAWAY and end; None when it ended without a word.

        RFC 9113, 5.4.1 lets a server treat any error of a stream as one of the connection.
        """
        self.until(lambda: self.answers[stream].reset is not None or self.gone)
        return self.answers[stream].reset if self.answers[stream].reset is not None else self.goaway()

    def goaway(self) -> ErrorCodes | None:
        """Wait for the connection's end and return the error code of its GOAWAY; None when there was none."""
        self.until(lambda: False)
        return None if self.gone is None else ErrorCodes(self.gone.error_code)

    def close(self) -> None:
        self.socket.close()

    def abort(self) -> None:
        """Close with a TCP reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _exactly(self, size: int) -> bytes | None:
        while len(self._received) < size:
            try:
                part = self.socket.recv(1 << 16)
            except ConnectionError:
                part = b""
            if not part:
                return None
            self._received += part
        found, self._received = self._received[:size], self._received[size:]
        return found

    def _keep(self, one: frames.Frame) -> None:
        if isinstance(one, frames.SettingsFrame):
            self._on_settings(one)
        elif isinstance(one, frames.PingFrame) and "ACK" not in one.flags:
            self._answer_quietly(raw(PING, ACK, 0, one.opaque_data))
        elif isinstance(one, frames.WindowUpdateFrame):
            self.sendable[one.stream_id] += one.window_increment
        elif isinstance(one, frames.GoAwayFrame):
            self.gone = one
        elif isinstance(one, frames.RstStreamFrame):
            self.answers[one.stream_id].reset = ErrorCodes(one.error_code)
        elif isinstance(one, frames.DataFrame):
            self._on_data(one)
        elif isinstance(one, frames.HeadersFrame | frames.ContinuationFrame):
            self._on_headers(one)

    def _on_settings(self, one: frames.SettingsFrame) -> None:
        if "ACK" in one.flags:
            for key, value in self._promised.pop(0) if self._promised else ():
                self._ours[key] = value
            return
        grown = one.settings.get(INITIAL_WINDOW, self.theirs[INITIAL_WINDOW]) - self.theirs[INITIAL_WINDOW]
        for stream in self.sendable.keys() - {0}:
            self.sendable[stream] += grown
        self.theirs |= one.settings
        if self._polite:
            self._answer_quietly(raw(SETTINGS, ACK, 0))

    def _on_data(self, one: frames.DataFrame) -> None:
        answer = self.answers[one.stream_id]
        assert answer.headers, "DATA before HEADERS"
        assert not answer.over, "DATA after the stream's end"
        answer.body += one.data
        answer.chunks.append(len(one.data))
        answer.ended = "END_STREAM" in one.flags
        self._receivable -= one.flow_controlled_length
        self._granted[one.stream_id] -= one.flow_controlled_length
        if one.flow_controlled_length and self._polite:
            assert self._receivable >= 0, "more than the connection's window"
            assert self._granted[one.stream_id] + self._ours[INITIAL_WINDOW] >= 0, "more than the stream's window"

    def _on_headers(self, one: frames.HeadersFrame | frames.ContinuationFrame) -> None:
        answer = self.answers[one.stream_id]
        assert not answer.over, "HEADERS after the stream's end"
        if isinstance(one, frames.HeadersFrame):
            self._block, self._last = b"", "END_STREAM" in one.flags
        self._block += one.data
        if "END_HEADERS" in one.flags:
            answer.ended = self._last
            fields = dict(self.decoder.decode(self._block))
            assert "grpc-encoding" not in fields or fields["grpc-encoding"] == "identity"
            (answer.trailers if answer.headers else answer.headers).update(fields)

    def _answer_quietly(self, data: bytes) -> None:
        with contextlib.suppress(OSError):  # a server that hangs up does not hear it
            self.send(data)

    @staticmethod
    def _is_pong(one: frames.Frame, token: bytes) -> bool:
        return isinstance(one, frames.PingFrame) and "ACK" in one.flags and one.opaque_data == token
