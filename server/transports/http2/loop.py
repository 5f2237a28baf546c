"""The thread that all connections belong to: waits for sockets, does what other threads ask for, keeps the times."""

import contextlib
import errno
import logging
import os
import select
import selectors
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable

from server import log
from server.transports.base import Gather, Ledger, TransportOptions
from server.transports.http2.backlog import Backlog
from server.transports.http2.caller import READ, Caller
from server.transports.http2.messages import Held
from server.transports.http2.readers import Readers
from server.transports.http2.router import Router
from server.transports.http2.secure import Secure

_TICK, _QUIET_TICK = 0.02, 0.25
"""Seconds between two looks at what is due, while there are calls and while there are none."""
_SHARE = 20
"""A look may take one part in so many of the time."""
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.0005, 0.006
"""Seconds from which it is worth it to let calls gather, and for which at most: at twice the load MNIST answers 3 %
more in time with 6 ms than with 2, since each time that the thread wakes up on a busy core costs 100 us."""
_SHARED_PAUSE, _LATELY = 0.002, 0.1
"""The same where within so many seconds something could begin: there are other models, whose callers need not wait."""
_AT_ONCE = 64
"""Connections accepted before the others are looked at again."""
_HELD = 512 << 20
"""Bytes of unfinished messages, of all callers together."""


class Loop:
    """One thread, one selector."""

    def __init__(
        self,
        limits: TransportOptions,
        router: Router,
        backlog: Backlog,
        gather: Gather | None,
        ledger: Ledger | None,
        tls: ssl.SSLContext | None,
    ) -> None:
        self._limits, self._router, self._backlog, self._tls = limits, router, backlog, tls
        self._gather, self._ledger = gather, ledger
        self._selector = selectors.DefaultSelector()
        self._callers: set[Caller] = set()
        self._speaking: list[Caller] = []
        self._held = Held(max(_HELD, 4 * limits.max_receive_bytes))
        self._posted: deque[tuple[Callable[..., None], tuple[object, ...]]] = deque()
        self._woken = False
        self._here, self._there = socket.socketpair()
        for end in (self._here, self._there):
            end.setblocking(False)  # noqa: FBT003  the standard library's own
        self._selector.register(self._here, READ, self._wake)
        self._thread = 0
        self._readers = Readers(self._selector, self.perform)
        self._listener: socket.socket | None = None
        self._deaf = False
        """Whether nobody is accepted until the next tick."""
        self._running = True
        self._draining = False
        self._stopped: Callable[[], None] | None = None
        self._next_tick = 0.0
        self._pause = 0.0
        """Seconds for which nothing that callers send could begin."""
        self._began = 0.0
        """When something could last."""

    def start(self, listener: socket.socket) -> None:
        """Serve who connects."""
        self._listener = listener
        listener.setblocking(False)  # noqa: FBT003
        self._selector.register(listener, READ, self._accept)
        threading.Thread(target=self._run, name="http2-transport", daemon=True).start()

    def perform(self, act: Callable[..., None], *arguments: object) -> None:
        """Call a function on this thread: now if it is the calling one, soon otherwise."""
        if threading.get_ident() == self._thread:
            act(*arguments)
            return
        self._posted.append((act, arguments))
        if not self._woken:
            self._woken = True
            with contextlib.suppress(OSError):  # full, so it will wake; or closed, so nobody is there
                self._there.send(b"\0")

    def drain(self, stopped: Callable[[], None]) -> None:
        """Take no more connections, send the present ones away; `stopped` is the thread's last act."""
        self.perform(self._drain, stopped)

    def stop(self) -> None:
        """End everything; only after drain()."""
        self.perform(self._stop)

    def _run(self) -> None:
        self._thread = threading.get_ident()
        if self._gather is not None:
            self._gather.begin(self._readers.add)
        if self._ledger is not None:
            self._ledger.begin()
        while self._running:
            try:
                self._turn()
            except Exception as error:  # noqa: BLE001  one connection's trouble must not end the thread of all
                log.event("transport_failed", logging.ERROR, cause=error)
        self._end()
        if self._stopped is not None:
            self._stopped()

    def _end(self) -> None:
        self._readers.refuse()
        self._perform_posted()
        self._readers.end()
        if self._ledger is not None:
            self._ledger.settle()
        self._selector.close()
        self._here.close()
        self._there.close()

    def _turn(self) -> None:
        if self._pause > _SHORTEST_PAUSE:
            self._gather_more()
        for key, events in self._readers.before_callers(self._selector.select(self._patience())):
            key.data(events)
        self._perform_posted()
        self._backlog.serve()
        if self._gather is not None:
            self._flush(self._gather)
        if self._ledger is not None:
            self._ledger.settle()
        speaking, self._speaking = self._speaking, []
        for caller in speaking:
            caller.flush()
        now = time.monotonic()
        if now >= self._next_tick:
            self._tick(now)
        elif self._next_tick - now > _TICK:
            self._next_tick = now + _TICK  # something has happened, so there may be calls

    def _perform_posted(self) -> None:
        posted = self._posted
        while posted:
            act, arguments = posted.popleft()
            act(*arguments)

    def _flush(self, gather: Gather) -> None:
        if gather.waiting():
            gather.flush()
            self._began = time.monotonic()
        self._pause = gather.pause()

    def _gather_more(self) -> None:
        """Leave callers alone until another thread has something, for a moment in which nothing of theirs could begin.

        Each time that this thread wakes up costs as much as reading several calls: many are better read at once.
        """
        if not (self._posted or self._speaking or self._backlog):
            longest = _SHARED_PAUSE if time.monotonic() - self._began < _LATELY else _LONGEST_PAUSE
            with contextlib.suppress(ValueError):  # select() knows no files from 1024 on; then nobody waits
                select.select((self._here, *self._readers.sockets), (), (), min(self._pause, longest))

    def _patience(self) -> float | None:
        if self._posted or self._speaking or self._backlog:
            return 0.0
        if not (self._callers or self._draining or self._deaf):
            return None
        return max(self._next_tick - time.monotonic(), 0.0)

    def _tick(self, now: float) -> None:
        busy = False
        for caller in tuple(self._callers):
            busy |= caller.tick(now)
        if self._deaf and self._listener is not None:
            self._selector.register(self._listener, READ, self._accept)
        self._deaf = False
        took = time.monotonic() - now
        self._next_tick = now + max(_TICK if busy or self._draining else _QUIET_TICK, _SHARE * took)
        if self._draining and not self._callers:
            self._running = False

    def _wake(self, _: int) -> None:
        # In this order: a byte that comes between the two would be read, and the flag would say that it is still there.
        with contextlib.suppress(BlockingIOError):
            self._here.recv(4096)
        self._woken = False

    def _accept(self, _: int) -> None:
        for _turn in range(_AT_ONCE):
            listener = self._listener
            if listener is None:
                return
            try:
                accepted, where = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # too many files are open: until the next tick, or it would be tried all the time
                log.event("accept_failed", logging.ERROR, reason=errno.errorcode.get(error.errno or 0, str(error)))
                self._selector.unregister(listener)
                self._deaf = True
                return
            if len(self._callers) >= self._limits.max_connections:
                accepted.close()
            else:
                self._welcome(accepted, where)

    def _welcome(self, accepted: socket.socket, where: object) -> None:
        accepted.setblocking(False)  # noqa: FBT003
        with contextlib.suppress(OSError):
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        caller = Caller(
            accepted,
            _peer(accepted.family, where),
            self._limits,
            self._router,
            self._held,
            self.perform,
            watch=self._watch,
            speaks=self._speak,
            secure=None if self._tls is None else Secure(self._tls),
        )
        self._callers.add(caller)
        self._next_tick = min(self._next_tick, time.monotonic() + _TICK)

    def _speak(self, caller: Caller) -> None:
        if not caller.speaking:
            caller.speaking = True
            self._speaking.append(caller)

    def _watch(self, caller: Caller, events: int) -> None:
        registered = caller.socket in self._selector.get_map()
        if not events:
            self._callers.discard(caller)
            if registered:
                self._selector.unregister(caller.socket)
        elif registered:
            self._selector.modify(caller.socket, events, caller.ready)
        else:
            self._selector.register(caller.socket, events, caller.ready)

    def _drain(self, stopped: Callable[[], None]) -> None:
        self._draining, self._stopped = True, stopped
        self._close_listener()
        now = time.monotonic()
        for caller in tuple(self._callers):
            caller.drain(now)
        self._next_tick = now + _TICK

    def _stop(self) -> None:
        for caller in tuple(self._callers):
            caller.stop()
        self._next_tick = 0.0

    def _close_listener(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            if not self._deaf:
                self._selector.unregister(listener)
            listener.close()


def _peer(family: int, where: object) -> str:
    if isinstance(where, tuple):
        host, port = where[:2]
        return f"ipv6:[{host}]:{port}" if family == socket.AF_INET6 else f"ipv4:{host}:{port}"
    return f"unix:{os.fsdecode(str(where))}"
