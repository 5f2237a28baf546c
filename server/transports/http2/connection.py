"""One connection: frames come in (RFC 9113), what they mean to calls is `Incoming`'s, answers leave through `Outgoing`.

The two frames of nearly every request, headers and one piece of data, are read in one loop without another call; all
else goes to `control`. Knows no socket; belongs to the transport's thread.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from server.transports.base import TransportOptions
from server.transports.http2 import control
from server.transports.http2.frames import (
    CONTINUATION,
    DATA,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    FRAME_LIMIT,
    HEAD_SIZE,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    MAX_CONCURRENT_STREAMS,
    MAX_HEADER_LIST_SIZE,
    PREFACE,
    PREFIX_SIZE,
    SETTINGS,
    ConnectionFault,
    ErrorCode,
    read_head,
    read_uint32,
    settings,
    unpadded,
    window_update,
)
from server.transports.http2.incoming import Incoming
from server.transports.http2.messages import Held
from server.transports.http2.streams import WINDOW, Perform

if TYPE_CHECKING:
    from server.transports.http2.router import Router

CONNECTION_WINDOW = 8 << 20
"""Bytes a caller may send on all of its streams together ahead of us."""
_LARGEST_BLOCK = 64 << 10
"""Bytes of compressed headers."""
_MOST_PIECES = 64
"""Frames that one block of headers may come in."""


class Connection(Incoming):
    """The protocol's state between one caller and us."""

    def __init__(
        self,
        peer: str,
        limits: TransportOptions,
        router: "Router",
        held: Held,
        perform: Perform,
        speaks: Callable[[], None],
    ) -> None:
        """Begin with our SETTINGS.

        Args:
            peer: address of the caller, as gRPC writes it.
            limits: what callers may do.
            router: opens the calls.
            held: bytes of unfinished messages in the whole transport.
            perform: runs a function with its arguments on the transport's thread, now or soon.
            speaks: told when there is something to send where there was nothing.
        """
        super().__init__(peer, limits, router, held, perform, speaks)
        self.greeted = False
        """Whether the caller's preface and first SETTINGS have come."""
        self.pings = control.Pings(limits.min_ping_interval)
        self._rest = b""
        self._prefaced = False
        self._block: list[bytes] = []
        """Pieces of a header block that is not complete."""
        self._block_of, self._block_ends = 0, False
        self.outgoing.write(
            settings(
                (
                    (MAX_CONCURRENT_STREAMS, limits.max_concurrent_streams),
                    (INITIAL_WINDOW_SIZE, WINDOW),
                    (MAX_HEADER_LIST_SIZE, limits.max_metadata_bytes),
                )
            )
            + window_update(0, CONNECTION_WINDOW - DEFAULT_WINDOW)
        )

    def feed(self, data: bytes) -> None:  # noqa: C901, PLR0912, PLR0915  one loop: each call in it costs every request
        """Act on what has come.

        Raises:
            ConnectionFault: the connection cannot go on.
        """
        if self._rest:
            data = self._rest + data
        at = 0
        if not self._prefaced:
            at = self._preface(data)
            if not at:
                self._rest = data
                return
        end, streams, largest = len(data), self.streams, self._largest
        while end - at >= HEAD_SIZE:
            word, flags, number = read_head(data, at)
            length, kind = word >> 8, word & 0xFF
            if length > FRAME_LIMIT:
                raise ConnectionFault(
                    ErrorCode.FRAME_SIZE_ERROR, f"expected frames of at most {FRAME_LIMIT} bytes, got {length}"
                )
            body = at + HEAD_SIZE
            at = body + length
            if at > end:
                at = body - HEAD_SIZE
                break
            if self._block or number > 0x7FFFFFFF or not self.greeted:
                self._rare(kind, flags, number & 0x7FFFFFFF, data[body:at])
            elif kind == DATA:
                call = streams.get(number)
                if (
                    flags == END_STREAM
                    and call is not None
                    and call.pristine
                    and length >= PREFIX_SIZE
                    and data[body] == 0
                    and read_uint32(data, body + 1)[0] == length - PREFIX_SIZE
                    and length - PREFIX_SIZE <= largest
                ):
                    self._taken += length
                    call.half_closed, call.pristine = True, False
                    call.deliver(data[body + PREFIX_SIZE : at])
                else:
                    self._data(flags, number, call, data[body:at])
            elif kind == HEADERS and flags == END_HEADERS:
                at = self._begin(number, data[body:at], data, at)
            else:
                self._rare(kind, flags, number, data[body:at])
            if self.closed:
                return
        self._rest = data[at:]
        if self._taken > CONNECTION_WINDOW // 2:
            self.outgoing.write(window_update(0, self._taken))
            self._taken = 0

    def _rare(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if self._block and (kind != CONTINUATION or number != self._block_of):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "expected the rest of a header block")
        if not self.greeted and kind != SETTINGS:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "expected SETTINGS first")
        if kind == DATA:
            self._data(flags, number, self.streams.get(number), payload)
        elif kind == HEADERS:
            self._headers(flags, number, payload)
        elif kind == CONTINUATION:
            self._continue(flags, payload)
        else:
            control.act(self, kind, flags, number, payload)

    def _headers(self, flags: int, number: int, payload: bytes) -> None:
        if not number:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "expected headers on a stream, got stream 0")
        block, ended = unpadded(flags, payload), bool(flags & END_STREAM)
        if flags & END_HEADERS:
            self._begin(number, block, b"", 0, ended=ended)
        else:
            self._block, self._block_of, self._block_ends = [block], number, ended

    def _continue(self, flags: int, payload: bytes) -> None:
        if not self._block:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "expected no continuation, no header block is open")
        self._block.append(payload)
        if len(self._block) > _MOST_PIECES or sum(map(len, self._block)) > _LARGEST_BLOCK:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, f"expected at most {_LARGEST_BLOCK} bytes of headers")
        if flags & END_HEADERS:
            block, self._block = b"".join(self._block), []
            self._begin(self._block_of, block, b"", 0, ended=self._block_ends)

    def _preface(self, data: bytes) -> int:
        """Return where the frames begin; 0 while the preface is not complete."""
        if not data.startswith(PREFACE[: len(data)]):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "expected the preface of HTTP/2")
        if len(data) < len(PREFACE):
            return 0
        self._prefaced = True
        return len(PREFACE)
