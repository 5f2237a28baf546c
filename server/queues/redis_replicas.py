"""Whether an accepted job has reached replicas: WAIT, once for all submissions that come together.

Redis replicates asynchronously: a primary that dies takes with it what no replica has. One round says three things on
one connection, and so about one and the same server: that each job exists here; a write of our own, whose place in the
replication stream is behind theirs; WAIT, until so many replicas have reached that place. WAIT alone would not do: it
is documented for the writes of its own connection only (7.0 waits for all that came before), and after a failover it
would vouch for a server that never had the job.
"""

import asyncio
from collections.abc import Sequence

from redis import exceptions as failures

from server.errors import QueueUnavailable
from server.queues.redis_link import AWAY, BrokerRefused, RedisLink
from server.queues.redis_tasks import cancel_all, spawn

WITHIN = 1.0
"""Seconds replicas have; less than the time a connection waits for a reply."""

_Waiting = tuple[str, "asyncio.Future[None]"]


class RedisReplicas:
    """Waits for `wanted` replicas, on a connection of its own: WAIT holds up everything behind it."""

    def __init__(self, link: RedisLink, wanted: int) -> None:
        self._link = link
        self._wanted = wanted
        self._client = link.client("commands")
        self._waiting: list[_Waiting] = []
        self._asked: list[_Waiting] = []
        self._task: asyncio.Task[None] | None = None
        link.on_change(self._fail_when_away)

    async def keep(self, key: str) -> None:
        """Return when the replicas have what `key` held when this was called.

        Raises:
            QueueUnavailable: too few of them said so in time, or Redis went away; the key may exist all the same.
            BrokerRefused: the ACL forbids WAIT.
        """
        if not self._link.available:
            raise self._link.away()
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((key, future))
        if self._task is None or self._task.done():
            self._task = spawn(self._work())
        await future

    async def close(self) -> None:
        """End every wait with QueueUnavailable. Idempotent."""
        await cancel_all(self._task)
        self._fail_when_away(available=False)

    async def _work(self) -> None:
        """Round after round; what comes during one waits for the next."""
        while self._waiting:
            self._asked, self._waiting = self._waiting, []
            for (_, future), error in zip(self._asked, await self._round([key for key, _ in self._asked]), strict=True):
                if not future.done():
                    future.set_exception(error) if error is not None else future.set_result(None)

    async def _round(self, keys: Sequence[str]) -> list[Exception | None]:
        """Return for each key why it is not kept, None for what is."""
        try:
            async with self._client.pipeline(transaction=False) as pipe:
                for key in keys:
                    pipe.exists(key)
                pipe.set(f"tq:wait:{self._link.name}", 1, px=60_000)
                pipe.execute_command("WAIT", self._wanted, int(WITHIN * 1000))
                *exist, _, reached = await pipe.execute()
        except AWAY:
            return [self._link.away() for _ in keys]
        except failures.RedisError as error:
            return [BrokerRefused(f"WAIT: {type(error).__name__}") for _ in keys]
        return [self._missing(reached) if reached < self._wanted or not found else None for found in exist]

    def _missing(self, reached: int) -> QueueUnavailable:
        return QueueUnavailable(
            f"jobs: expected {self._wanted} replicas to have the job within {WITHIN:g} s, {reached} did; it may have "
            "been accepted: repeat the call with its idempotency key",
            retry_after=1.0,
        )

    def _fail_when_away(self, available: bool) -> None:  # noqa: FBT001 - RedisLink calls it so
        if not available:
            for _, future in (*self._asked, *self._waiting):
                if not future.done():
                    future.set_exception(self._link.away())
