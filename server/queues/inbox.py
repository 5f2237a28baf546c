"""From any thread onto an event loop, with one wake-up for all that come before it is served."""

import asyncio
from collections import deque
from contextlib import suppress
from typing import Generic, TypeVar

T = TypeVar("T")


class Inbox(Generic[T]):
    """Many put, one takes. Belongs to the loop it was made on; unbounded, since its users count what they are owed."""

    def __init__(self) -> None:
        self._items: deque[T] = deque()
        self._ready = asyncio.Event()
        self._waking = False
        self._loop = asyncio.get_running_loop()

    def put(self, item: T) -> None:
        """Add an item; any thread. After the loop has ended nobody takes it, and that is no error."""
        self._items.append(item)
        if not self._waking:
            self._waking = True
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._wake)

    async def take_all(self) -> list[T]:
        """Wait until there is something and return all of it, in order."""
        while not self._items:
            self._ready.clear()
            await self._ready.wait()
        return self.take_nowait()

    def take_nowait(self) -> list[T]:
        """Return what is there, in order."""
        return [self._items.popleft() for _ in range(len(self._items))]

    def _wake(self) -> None:
        self._waking = False
        self._ready.set()
