"""A thread that reads sockets for others, as a transport's does (server/bundle.py, `AddReader`)."""

import contextlib
import selectors
import socket
import threading
from collections import deque

from server.transports.http2.readers import Readers


class Reactor:
    """Use as a context manager; at its end everybody is told that they are heard no more."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._posted: deque = deque()
        self._here, self._there = socket.socketpair()
        self._selector.register(self._here, selectors.EVENT_READ, lambda _: self._here.recv(1024))
        self._readers = Readers(self._selector, self._post)
        self.add_reader = self._readers.add
        self._running = True
        self.thread = threading.Thread(target=self._run, name="reactor")

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self._post(self._stop)
        self.thread.join(10)
        for each in (self._here, self._there, self._selector):
            each.close()

    def _post(self, act, *arguments):
        self._posted.append((act, arguments))
        with contextlib.suppress(OSError):
            self._there.send(b"\0")

    def _stop(self):
        self._running = False

    def _run(self):
        while self._running:
            for key, events in self._readers.before_callers(self._selector.select()):
                key.data(events)
            self._perform()
        self._readers.refuse()
        self._perform()
        self._readers.end()

    def _perform(self):
        while self._posted:
            act, arguments = self._posted.popleft()
            act(*arguments)
