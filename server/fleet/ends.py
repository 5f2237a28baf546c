"""This process's ends of the Redis queue, opened and closed in the right order.

    1  the link, and a look at whether this Redis keeps what we would promise
    2  the workers' end, where this process has sessions: claims, and announcements of what it serves
    3  the frontend's end, where it takes calls: the queue of online requests and the store of jobs

Closing is the reverse. This is the only module that builds the parts in queues/redis_*.
"""

import logging
import os
import secrets
import socket
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass

from server import log
from server.errors import QueueUnavailable, ServingError
from server.fleet.workers import Target, WorkerFleet
from server.jobs import JobLimits
from server.queues.redis_address import RedisAddress
from server.queues.redis_bells import RedisBells
from server.queues.redis_checks import RedisUnfit, check_redis
from server.queues.redis_jobs import RedisJobs
from server.queues.redis_link import RedisLink
from server.queues.redis_queue import OnlineBounds, RedisQueue
from server.queues.redis_registry import RedisRegistry
from server.work import Observe


class BrokerUnusable(Exception):
    """Redis cannot be reached at the start, or will not keep what we would promise; the text says what to change."""


@dataclass(frozen=True, slots=True)
class RedisOptions:
    """How this process uses Redis. Durations are seconds."""

    address: RedisAddress
    allow_volatile: bool
    online: OnlineBounds
    jobs: JobLimits
    lease: float
    """A claimed request whose worker is silent for this long is given to another."""
    job_replicas: int = 0
    """Replicas that must have a job before its submission is acknowledged."""


class RedisEnds:
    """One process's link and what hangs on it."""

    def __init__(self, options: RedisOptions) -> None:
        self._options = options
        self.name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._link = RedisLink(options.address, self.name)
        self._bells = RedisBells(self._link)
        self._registry = RedisRegistry(self._link, self._bells)
        self._durable = True
        self.fleet: WorkerFleet | None = None
        self.queue: RedisQueue | None = None
        self.jobs: RedisJobs | None = None

    async def open(self) -> None:
        """Connect and look. Raises BrokerUnusable."""
        await self._link.open()
        try:
            options = self._options
            fitness = await check_redis(
                self._link, allow_volatile=options.allow_volatile, waits=options.job_replicas > 0
            )
        except (RedisUnfit, QueueUnavailable) as error:
            raise BrokerUnusable(f"{self._options.address}: {error}") from error
        self._durable = fitness.durable
        if not fitness.durable:
            log.event("redis_volatile", logging.WARNING, why="; ".join(fitness.volatile))

    async def open_workers(self, targets: Callable[[], Iterable[Target]], observe: Observe | None = None) -> None:
        """Start claiming for what this process serves. Raises BrokerUnusable."""
        options = self._options
        self.fleet = WorkerFleet(
            self._link, self._bells, self._registry, targets, options.jobs,
            consumer=self.name, lease=options.lease, observe=observe,
        )  # fmt: skip
        await self._guarded(self.fleet.open())

    async def open_frontend(self) -> None:
        """Start the queue and the job store. Raises BrokerUnusable."""
        self.queue = RedisQueue(self._link, self._registry, self._options.online)
        options = self._options
        self.jobs = RedisJobs(
            self._link, self._bells, options.jobs, durable=self._durable, replicas=options.job_replicas
        )
        await self._guarded(self.queue.open(self.name))

    def served(self) -> Mapping[tuple[str, str], bytes]:
        """Return what some worker announces, by (model, version); any thread."""
        return self._registry.served()

    async def drain(self, grace: float) -> None:
        """Finish or hand back what this process claimed; its callers were answered before."""
        if self.fleet is not None:
            await self.fleet.drain(grace)

    async def close(self) -> None:
        """Give everything back. Idempotent."""
        if self.jobs is not None:
            await self.jobs.close()
        if self.queue is not None:
            await self.queue.close()
        if self.fleet is not None:
            await self.fleet.close()
        await self._registry.close()
        await self._bells.close()
        await self._link.close()

    async def _guarded(self, opening: Coroutine[None, None, None]) -> None:
        try:
            await opening
        except ServingError as error:
            raise BrokerUnusable(f"{self._options.address}: {error}") from error
