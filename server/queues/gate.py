"""Together or alone: how the workers of one process keep a suspect away from everything else."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager


class Gate:
    """Requests of a process run together, or one runs alone. On one event loop."""

    def __init__(self) -> None:
        self._running = 0
        self._alone = False
        self._changed = asyncio.Event()

    def enter(self) -> None:
        """Count one more as running (or as about to)."""
        self._running += 1

    def leave(self) -> None:
        """Count one less."""
        self._running -= 1
        self._changed.set()

    async def wait_open(self) -> None:
        """Return when nobody runs alone or is waiting to."""
        await self._until(lambda: not self._alone)

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Let nobody start and wait until everybody else has ended."""
        await self.wait_open()
        self._alone = True
        try:
            await self._until(lambda: self._running == 0)
            yield
        finally:
            self._alone = False
            self._changed.set()

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            # Everybody who waits wakes on any change, so the event is renewed rather than cleared.
            if self._changed.is_set():
                self._changed = asyncio.Event()
            await self._changed.wait()
