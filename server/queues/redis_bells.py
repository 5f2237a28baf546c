"""Doorbells: one subscription connection per process, however many wait.

A message is only a hint. Pub/sub drops messages when a connection breaks or a buffer fills, so whoever listens here
must look at the truth itself once in a while, and is told when the subscription had to be made again.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from redis.exceptions import RedisError

from server.queues.redis_link import RedisLink
from server.queues.redis_tasks import cancel_all, spawn

Heard = Callable[[list[str]], None]
"""Called on the loop with the ids of one message; with none after the subscription was made again."""


class RedisBells:
    """Listens to channels for the whole process."""

    def __init__(self, link: RedisLink) -> None:
        self._link = link
        self._pubsub: Any = None
        self._heard: dict[str, list[Heard]] = {}
        self._task: asyncio.Task[None] | None = None
        self._change = asyncio.Event()
        self._closing = False

    def listen(self, channel: str, heard: Heard) -> Callable[[], None]:
        """Call `heard` for every message of `channel` from now on, until what is returned is called."""
        listeners = self._heard.setdefault(channel, [])
        listeners.append(heard)
        self._change.set()
        if self._task is None:
            self._pubsub = self._link.client("subscription").pubsub(ignore_subscribe_messages=True)
            self._task = spawn(self._listen())

        return lambda: listeners.remove(heard)

    async def close(self) -> None:
        """Stop listening. Idempotent."""
        if self._task is not None:
            self._closing = True
            await cancel_all(self._task)
            self._task = None
            await self._pubsub.aclose()

    async def _listen(self) -> None:
        while not self._closing:  # redis-py may swallow a cancellation
            await self._link.wait_available()
            try:
                await self._subscribe_and_read()
            except (RedisError, OSError):
                await self._pubsub.aclose()
                await asyncio.sleep(0.05)  # the breaker needs a moment to notice as well

    async def _subscribe_and_read(self) -> None:
        subscribed: set[str] = set()
        while not self._closing:
            self._change.clear()
            missing = set(self._heard) - subscribed
            if missing:
                await self._pubsub.subscribe(*missing)
                subscribed |= missing
                for channel in missing:
                    self._tell(channel, [])
            message = await self._pubsub.get_message(timeout=0.25)
            if message is not None:
                self._tell(message["channel"].decode(), message["data"].decode().split(" "))

    def _tell(self, channel: str, ids: list[str]) -> None:
        for heard in tuple(self._heard[channel]):
            heard(ids)
