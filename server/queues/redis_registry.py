"""Which versions some worker serves: announced by workers, followed by frontends.

A worker:    registry = RedisRegistry(link, bells)
             await registry.announce("churn", "2", consumer, ttl=10.0, about=b"...")
             every few seconds, and once with ttl=0 when the version leaves service
A frontend:  await registry.follow();  registry.served() -> {("churn", "2"): b"..."}    any thread

What `about` holds is the caller's business, a description of the model that frontends need to validate requests.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress

from server.errors import QueueUnavailable
from server.queues.redis_bells import RedisBells
from server.queues.redis_link import Argument, RedisLink
from server.queues.redis_tasks import cancel_all, spawn

SERVED, SPECS = "tq:served", "tq:specs"
INTERVAL = 1.0


class RedisRegistry:
    """The announcements as of the last look."""

    def __init__(self, link: RedisLink, bells: RedisBells) -> None:
        self._link = link
        self._bells = bells
        self._served: dict[tuple[str, str], bytes] = {}
        self._look_now = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def served(self) -> Mapping[tuple[str, str], bytes]:
        """Return what is served by (model, version); any thread."""
        return self._served

    async def announce(self, model: str, version: str, consumer: str, *, ttl: float, about: bytes = b"") -> None:
        """Say that `consumer` serves this version for `ttl` seconds more. Raises QueueUnavailable."""
        name = f"{model}|{version}"
        args: list[Argument] = ["", f"{name}|{consumer}", name, int(ttl * 1000), about]
        await self._link.run("announce", [SERVED, SPECS], args)

    async def follow(self) -> None:
        """Keep `served` up to date from now on; returns after the first look."""
        self._bells.listen(SERVED, lambda _: self._look_now.set())
        with suppress(QueueUnavailable):
            await self._look()
        self._task = spawn(self._loop())

    async def close(self) -> None:
        """Stop following. Idempotent."""
        await cancel_all(self._task)
        self._task = None

    async def _loop(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(INTERVAL):
                    await self._look_now.wait()
            self._look_now.clear()
            with suppress(QueueUnavailable):  # what was served before the outage goes on counting as served
                await self._look()

    async def _look(self) -> None:
        found = await self._link.run("served", [SERVED, SPECS], [""])
        served: dict[tuple[str, str], bytes] = {}
        for name, about in found:
            model, _, version = name.decode().partition("|")
            served[model, version] = about
        self._served = served
