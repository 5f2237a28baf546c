"""The race that ends every unary call: an answer, a failure or the caller's leaving, whichever comes first."""

import logging
import threading
from collections.abc import Callable

from server import log


class Once:
    """Lets one of many threads end a call, and tells the callbacks when it was the caller who ended it.

    There is no lock to hold: the first to take `_turn` wins, and `list.pop` hands each callback to one thread only.
    """

    __slots__ = ("_answered", "_callbacks", "_gone", "_turn")

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._answered = self._gone = False
        self._callbacks: list[Callable[[], None]] = []

    def on_cancel(self, callback: Callable[[], None]) -> None:
        """Call `callback` once if the caller goes away before the answer; at once if it already has."""
        self._callbacks.append(callback)
        if self._gone:
            self._tell()
        elif self._answered:
            self._callbacks.clear()

    def take(self) -> bool:
        """Win the right to end the call; True for one thread only."""
        if self._turn.acquire(blocking=False):
            self._answered = True
            # They hold the request, which holds this call: a cycle for the garbage collector, in every single call.
            self._callbacks.clear()
            return True
        return False

    def leave(self) -> None:
        """The caller has gone: from now on nobody may answer. Does nothing after the answer."""
        if self._turn.acquire(blocking=False):
            self._gone = True
            self._tell()

    def _tell(self) -> None:
        while self._callbacks:
            try:
                callback = self._callbacks.pop()
            except IndexError:  # another thread took the last one
                return
            try:
                callback()
            except Exception as error:  # noqa: BLE001  one bad callback must not stop the others, nor the transport
                log.event("cancel_callback_failed", logging.ERROR, cause=error)
