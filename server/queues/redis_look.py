"""What metrics read about the queue: refreshed once a second, served from memory to any thread."""

import asyncio
from contextlib import suppress
from dataclasses import replace

from server.errors import QueueUnavailable
from server.jobs import JobStatistics, LaneStatistics
from server.queues import redis_keys as keys
from server.queues.redis_link import BrokerRefused, RedisLink
from server.queues.redis_tasks import cancel_all, spawn

INTERVAL = 1.0


class RedisLook:
    """The last look at the models it was told of."""

    def __init__(self, link: RedisLink, *, durable: bool) -> None:
        self._link = link
        self._last = JobStatistics(available=False, durable=durable)
        self._models: set[str] = set()
        self._task: asyncio.Task[None] | None = None

    async def refresh(self) -> None:
        """Look now. Raises QueueUnavailable."""
        self._last = await self._look()

    def include(self, model: str) -> None:
        """Look at this model as well from now on."""
        self._models.add(model)
        if self._task is None:
            self._task = spawn(self._loop())

    async def close(self) -> None:
        """Stop looking. Idempotent."""
        await cancel_all(self._task)
        self._task = None

    def statistics(self) -> JobStatistics:
        """Return the last look; any thread."""
        return replace(self._last, available=self._link.available, data_losses=self._link.data_losses)

    async def _loop(self) -> None:
        while True:
            with suppress(QueueUnavailable, BrokerRefused):  # `available` says so; the numbers stay what they were
                await self.refresh()
            await asyncio.sleep(INTERVAL)

    async def _look(self) -> JobStatistics:
        lanes: list[LaneStatistics] = []
        totals: dict[tuple[str, str], int] = {}
        dead: dict[str, int] = {}
        size: dict[str, int] = {}
        for model in sorted(self._models):
            found, counts, buried, held = await self._link.run("look", [keys.any_key(model)], [keys.prefix(model)])
            start = len(keys.prefix(model)) + len("s:")
            lanes += [
                LaneStatistics(model, name.decode()[start:], length, running, age / 1000, rows)
                for name, length, running, age, rows in found
            ]
            for name, number in zip(counts[::2], counts[1::2], strict=True):
                totals[model, name.decode()] = int(number)
            dead[model], size[model] = buried, held
        return JobStatistics(
            available=True, durable=self._last.durable, lanes=tuple(lanes), totals=totals, dead=dead, bytes=size
        )
