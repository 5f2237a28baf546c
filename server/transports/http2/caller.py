"""A connection with its socket: reads, writes, and the times after which it is asked or closed."""

import contextlib
import logging
import selectors
import socket
import time
from collections.abc import Callable

from server import log
from server.transports.base import TransportOptions
from server.transports.http2 import control
from server.transports.http2.call import STOPPED
from server.transports.http2.connection import Connection
from server.transports.http2.frames import MOST, PING, ConnectionFault, ErrorCode, frame, goaway
from server.transports.http2.messages import Held
from server.transports.http2.outgoing import FULL
from server.transports.http2.router import Router
from server.transports.http2.secure import Secure, TlsFault

_READ = 1 << 16
_READ_MUCH = 1 << 18
"""Bytes read at once, while a caller sends that much."""
_PATIENCE = 1.0
"""Seconds that a caller has to answer the ping of a drain, and at the end to hear our last words: a socket closed with
unread bytes takes back what was sent."""
READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE

Watch = Callable[["Caller", int], None]
"""Says which events a caller waits for; 0 to forget it."""


class Caller:
    """One accepted socket. Belongs to the transport's thread."""

    def __init__(  # noqa: PLR0913  what one socket needs of the whole
        self,
        accepted: socket.socket,
        peer: str,
        limits: TransportOptions,
        router: Router,
        held: Held,
        perform: Callable[..., None],
        *,
        watch: Watch,
        speaks: Callable[["Caller"], None],
        secure: Secure | None,
    ) -> None:
        self.socket = accepted
        self._limits = limits
        self._watch = watch
        self._wanted = READ
        self._secure = secure
        self._unsent: bytes | memoryview = b""
        self._size = _READ
        self._began = self._heard = self._active = time.monotonic()
        self._asked: float | None = None
        self._drained_by: float | None = None
        self._closes_at: float | None = None
        self.open = True
        self.speaking = False
        """Whether somebody has said that `flush` should be called."""
        self.connection = Connection(peer, limits, router, held, perform, lambda: speaks(self))
        watch(self, READ)

    def ready(self, events: int) -> None:
        """Act on what the socket can do."""
        try:
            if events & READ:
                self._read()
            if events & WRITE and self.open:
                self._flush()
        except Exception as error:  # noqa: BLE001  one connection's trouble must not become the others'
            self._fail(error)

    def flush(self) -> None:
        """Send what there is to say, as far as the socket takes it."""
        try:
            self._flush()
        except Exception as error:  # noqa: BLE001  ditto
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        log.event("connection_failed", logging.ERROR, cause=error, peer=self.connection.peer)
        self.lose()

    def _flush(self) -> None:
        outgoing = self.connection.outgoing
        self.speaking = False
        while self.open:
            if not self._unsent:
                outgoing.pump()
                data = b"".join(outgoing.parts)
                outgoing.parts.clear()
                self._unsent = data if self._secure is None else self._secure.sealed(data)
                if not self._unsent:
                    break
            try:
                sent = self.socket.send(self._unsent)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                self.lose()
                return
            self._unsent = b"" if sent == len(self._unsent) else memoryview(self._unsent)[sent:]
            outgoing.size = len(self._unsent)
        self._want()
        if not self._unsent and self.connection.refusing and not self.connection.streams:
            self._linger()

    def tick(self, now: float) -> bool:
        """Do what is due; True while there are calls."""
        try:
            return self._tick(now)
        except Exception as error:  # noqa: BLE001  ditto
            self._fail(error)
            return False

    def _tick(self, now: float) -> bool:
        connection = self.connection
        if connection.streams:
            self._active = now
            connection.expire(now)
        if self._closes_at is not None:
            if now >= self._closes_at:
                self.lose()
        elif not connection.greeted:
            if now - self._began >= self._limits.handshake_timeout:
                self.lose()
        else:
            self._keep_alive(now)
            self._retire(now)
        return bool(connection.streams)

    def drain(self, now: float) -> None:
        """Tell the caller to go elsewhere with its next calls; those under way end as they will."""
        if self._drained_by is not None or self._closes_at is not None:
            return
        self._drained_by = now + _PATIENCE
        if not self.connection.greeted:
            self.lose()
            return
        # First a number that no call has, so that those on their way to us are served; the caller's answer to
        # the ping tells that there are no more of them (RFC 9113, section 6.8).
        self.connection.outgoing.write(goaway(MOST, ErrorCode.NO_ERROR) + frame(PING, 0, 0, control.DRAIN))

    def stop(self) -> None:
        """End every call and the connection."""
        if self._closes_at is None:
            self.connection.lost(STOPPED)
            self.connection.outgoing.write(goaway(self.connection.last, ErrorCode.NO_ERROR))
            self.flush()
        self.lose()

    def lose(self) -> None:
        """The socket is of no use any more."""
        if self.open:
            self.open = False
            self.connection.lost()
            self._watch(self, 0)
            self.socket.close()

    def _read(self) -> None:
        try:
            data = self.socket.recv(self._size)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if data:
            self._take(data)
        else:
            self.lose()

    def _take(self, data: bytes) -> None:
        self._size = _READ_MUCH if len(data) >= _READ else _READ
        self._heard, self._asked = time.monotonic(), None
        try:
            if self._secure is not None:
                data = self._secure.opened(data)
                self.connection.outgoing.begun()  # it may have something to say of its own
            if self._closes_at is None:
                self.connection.feed(data)
            if self._unsent:
                self._want()
        except TlsFault:
            self.flush()
            self.lose()
        except ConnectionFault as fault:
            self._end(fault)

    def _end(self, fault: ConnectionFault) -> None:
        connection = self.connection
        connection.lost()
        connection.outgoing.write(goaway(connection.last, fault.code, str(fault)))
        connection.refusing = True
        self.flush()

    def _linger(self) -> None:
        """Close our side; the caller's words so far may still be on the way."""
        if self._closes_at is None:
            self._closes_at = time.monotonic() + _PATIENCE
            self.connection.closed = True
            with contextlib.suppress(OSError):
                self.socket.shutdown(socket.SHUT_WR)

    def _want(self) -> None:
        wanted = WRITE if self._unsent else 0
        # Who asks without listening to the answers is not heard either.
        if self.connection.outgoing.size < 4 * FULL:
            wanted |= READ
        if wanted != self._wanted and self.open:
            self._wanted = wanted
            self._watch(self, wanted)

    def _keep_alive(self, now: float) -> None:
        if self._asked is not None:
            if now - self._asked >= self._limits.keepalive_timeout:
                self.lose()
        elif now - self._heard >= self._limits.keepalive_time:
            self._asked = now
            self.connection.outgoing.write(frame(PING, 0, 0, control.KEEPALIVE))

    def _retire(self, now: float) -> None:
        limits, age = self._limits, now - self._began
        if self._drained_by is not None:
            if now >= self._drained_by and not self.connection.refusing:
                self.connection.drained()  # it does not answer pings
        elif now - self._active >= limits.max_connection_idle or (
            limits.max_connection_age and age >= limits.max_connection_age
        ):
            self.drain(now)
        if limits.max_connection_age and age >= limits.max_connection_age + limits.max_connection_age_grace:
            self.stop()
