"""Whether this server lives, serves and goes, and a bell for those who wait to hear of it.

The application sets the flags and rings after a model came or went; health watchers wait. Any thread may ring.
"""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Lifecycle:
    """Three flags. `live` from the first moment on, `ready` once everything serves, `draining` from SIGTERM on."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()
        self._live = True
        self._ready = False
        self._draining = False

    @property
    def live(self) -> bool:
        """Whether the process is worth keeping."""
        return self._live

    @property
    def ready(self) -> bool:
        """Whether requests are welcome."""
        return self._live and self._ready and not self._draining

    @property
    def draining(self) -> bool:
        """Whether the server is going."""
        return self._draining

    def set(self, *, live: bool | None = None, ready: bool | None = None, draining: bool | None = None) -> None:
        """Change flags and ring."""
        self._live = self._live if live is None else live
        self._ready = self._ready if ready is None else ready
        self._draining = self._draining if draining is None else draining
        self.ring()

    def ring(self) -> None:
        """Wake whoever waits: a flag, or the state of some model, may have changed."""
        with self._lock:
            waiting, self._waiting = self._waiting, set()
        for loop, event in waiting:
            if not loop.is_closed():
                loop.call_soon_threadsafe(event.set)

    @contextmanager
    def bell(self) -> Iterator[asyncio.Event]:
        """Give an event of the running loop that the next `ring` sets. Take it before looking at the state."""
        event = asyncio.Event()
        entry = asyncio.get_running_loop(), event
        with self._lock:
            self._waiting.add(entry)
        try:
            yield event
        finally:
            with self._lock:
                self._waiting.discard(entry)


async def rung(bell: asyncio.Event, seconds: float) -> None:
    """Return when a bell has rung, or after so many seconds."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await bell.wait()
