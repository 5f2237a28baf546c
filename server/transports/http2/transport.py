"""The fast transport: HTTP/2 and gRPC's framing in plain Python, on one thread that owns every connection.

Fast handlers run on that thread, everything else on the event loop that starts the transport, the slow lane.
docs/adr/0008-own-http2.md says why this exists.
"""

import asyncio
import errno
import socket
import ssl

from typing_extensions import override

from server.transports.base import Gather, Ledger, Methods, Transport, TransportOptions
from server.transports.http2.backlog import Backlog
from server.transports.http2.loop import Loop
from server.transports.http2.router import Router
from server.transports.http2.secure import server_context
from server.transports.lane import SlowLane
from server.transports.options import address


class Http2Transport(Transport):
    """A gRPC server on a thread of its own, with the running event loop as its slow lane."""

    def __init__(
        self,
        methods: Methods,
        options: TransportOptions,
        gather: Gather | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        self.name = "lean"
        self._methods = methods
        self._options = options
        self._gather = gather
        self._ledger = ledger
        self._loop: Loop | None = None
        self._stopped = asyncio.Event()
        self._stopping = False

    @override
    async def start(self, host: str, port: int) -> int:
        options = self._options
        where = address(host, port)
        try:
            tls = server_context(options.tls) if options.tls is not None else None
        except (ssl.SSLError, ValueError) as error:
            words = "OpenSSL refused the TLS certificate, key or client CA"
            raise OSError(errno.EINVAL, f"cannot listen on {where}: {words}") from error
        try:
            listener = _listen(host, port, shared=options.reuse_port)
        except OSError as error:
            raise OSError(error.errno, f"cannot listen on {where}: {error.strerror}") from error
        self._lane = SlowLane(asyncio.get_running_loop())
        backlog = Backlog()
        router = Router(self._methods, self._lane, backlog)
        self._loop = Loop(options, router, backlog, self._gather, self._ledger, tls)
        self._loop.start(listener)
        bound: int = listener.getsockname()[1]
        return bound

    @override
    async def drain(self, grace: float) -> None:
        if self._loop is None:
            return
        self._shut_down(self._loop)
        try:
            async with asyncio.timeout(grace):
                await self._stopped.wait()
        except TimeoutError:
            await self.close()
        await self._lane.finished()

    @override
    async def close(self) -> None:
        if self._loop is None:
            return
        self._shut_down(self._loop)
        self._loop.stop()
        await self._stopped.wait()
        await self._lane.finished()

    def _shut_down(self, loop: Loop) -> None:
        if not self._stopping:
            self._stopping = True
            loop.drain(lambda: self._lane.soon(self._stopped.set))


def _listen(host: str, port: int, *, shared: bool) -> socket.socket:
    family, kind, protocol, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[
        0
    ]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(host not in {"::", ""}))
        listener.bind(where)
        listener.listen(socket.SOMAXCONN)
    except OSError:
        listener.close()
        raise
    return listener
