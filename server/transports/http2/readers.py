"""Sockets of others that the transport's thread reads, as of sessions that answer: see `server.bundle.AddReader`.

A thread of their own would have to be given the interpreter for each answer and then hand what it made of it over to
the transport's: on two cores that took churn from 32,700 requests a second to 23,000. Knows no connection.
"""

import selectors
import socket
import threading
from collections.abc import Callable

Perform = Callable[..., None]
Ready = list[tuple[selectors.SelectorKey, int]]


class Readers:
    """`add` may be called by any thread, the rest is the transport's."""

    def __init__(self, selector: selectors.BaseSelector, perform: Perform) -> None:
        """`perform` runs a function with its arguments on the transport's thread, soon."""
        self._selector = selector
        self._perform = perform
        self._over: dict[socket.socket, Callable[[], None]] = {}
        """Who is told when a socket is read no more."""
        self._lock = threading.Lock()
        self._ended = False

    def add(self, source: socket.socket, ready: Callable[[], bool], over: Callable[[], None]) -> bool:
        """Have `ready` called whenever a socket can be read, until it returns False; then `over`, or at the end.

        False when the end has come.
        """
        with self._lock:
            if self._ended:
                return False
            self._perform(self._register, source, ready, over)
        return True

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """What is read now."""
        return tuple(self._over)

    def before_callers(self, ready: Ready) -> Ready:
        """Put what others have answered before what callers ask: it keeps the sessions busy."""
        if len(ready) > 1:
            ready.sort(key=lambda pair: pair[0].fileobj not in self._over)
        return ready

    def refuse(self) -> None:
        """Take nobody new; what `add` has asked for until now is still to be performed."""
        with self._lock:
            self._ended = True

    def end(self) -> None:
        """Read for nobody any more."""
        for source in self.sockets:
            self._remove(source)

    def _register(self, source: socket.socket, ready: Callable[[], bool], over: Callable[[], None]) -> None:
        def act(_: int) -> None:
            if not ready():
                self._remove(source)

        self._over[source] = over
        self._selector.register(source, selectors.EVENT_READ, act)

    def _remove(self, source: socket.socket) -> None:
        self._selector.unregister(source)
        self._over.pop(source)()
