"""A worker process's end of the Redis queue: one claim loop per version in service, and the announcements of them.

    on every change of what serves, and at each heartbeat:
        a version that is new          gets a Worker with two sources, online requests first, durable jobs behind
        a version that has gone        is drained: what it holds is finished or handed back
        each version in service        is announced for some seconds more, with its spec for the frontends

Jobs that name no version go to the newest one, so a Worker is replaced when that changes.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from server import log
from server.errors import QueueUnavailable
from server.fleet.catalog import announcement
from server.fleet.entrance import Entrance
from server.jobs import JobLimits
from server.queues.gate import Gate
from server.queues.redis_bells import RedisBells
from server.queues.redis_claims import RedisMember
from server.queues.redis_job_claims import RedisJobClaims
from server.queues.redis_link import RedisLink
from server.queues.redis_online_claims import RedisOnlineClaims
from server.queues.redis_registry import RedisRegistry
from server.spec import ModelSpec
from server.work import Observe, Submit
from server.worker import Worker

HEARTBEAT = 0.5
"""Seconds between signs of life; a worker that misses three is taken for dead and its work taken over."""

ANNOUNCED = 10.0
"""Seconds an announcement lasts: longer than a stall of Redis, as frontends refuse what nobody serves."""


@dataclass(frozen=True, slots=True)
class Target:
    """A version in service on this worker."""

    spec: ModelSpec
    provider: str
    submit: Submit
    capacity: int
    """Requests that may be claimed and unanswered: two batches keep an instance busy."""
    newest: bool

    @property
    def key(self) -> tuple[str, str, bool]:
        """What makes a Worker another one."""
        return self.spec.name, self.spec.version, self.newest


class WorkerFleet:
    """The workers of one process; on the slow lane's event loop."""

    def __init__(  # noqa: PLR0913 - the broker's four parts, and what to do with them
        self,
        link: RedisLink,
        bells: RedisBells,
        registry: RedisRegistry,
        targets: Callable[[], Iterable[Target]],
        limits: JobLimits,
        *,
        consumer: str,
        lease: float,
        observe: Observe | None = None,
    ) -> None:
        self._link = link
        self._bells = bells
        self._registry = registry
        self._targets = targets
        self._limits = limits
        self._lease = lease
        self._observe = observe
        self._member = RedisMember(link, consumer, heartbeat=HEARTBEAT)
        self._gate = Gate()
        self._running: dict[tuple[str, str, bool], tuple[Target, Worker, asyncio.Task[None]]] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None
        self._draining = False

    async def open(self) -> None:
        """Start claiming for what serves now, and follow its changes. Raises QueueUnavailable."""
        await self._member.beat()
        await self._reconcile()
        self._loop = asyncio.create_task(self._follow())

    def changed(self) -> None:
        """Say that a version came or went; from the event loop."""
        self._changed.set()

    async def drain(self, grace: float) -> None:
        """Claim no more, finish what is held within `grace` seconds, hand back the rest, and sign off."""
        self._draining = True
        self._changed.set()
        if self._loop is not None:
            await self._loop
        for key in list(self._running):
            self._retire(key, grace)
        await asyncio.gather(*self._leaving)

    async def close(self) -> None:
        """Stop at once. Idempotent."""
        tasks = [task for _, _, task in self._running.values()] + list(self._leaving)
        for task in [*tasks, *([self._loop] if self._loop else [])]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._running.clear()

    async def _follow(self) -> None:
        while not self._draining:
            self._changed.clear()
            await self._reconcile()
            try:
                async with asyncio.timeout(HEARTBEAT):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def _reconcile(self) -> None:
        targets = {target.key: target for target in self._targets()}
        for key in self._running.keys() - targets.keys():
            self._retire(key, self._lease)
        for key, target in targets.items():
            running = self._running.get(key)
            if running is not None and running[0].submit != target.submit:
                # The same version was loaded again: other sessions, perhaps another spec.
                self._retire(key, self._lease)
            if key not in self._running:
                self._start(target)
        try:
            await asyncio.gather(*(self._announce(target, ANNOUNCED) for target in targets.values()))
        except QueueUnavailable as error:
            log.event("announcement_missed", logging.WARNING, reason=str(error))

    def _start(self, target: Target) -> None:
        name, version = target.spec.name, target.spec.version
        routes = (version, "") if target.newest else (version,)
        online = RedisOnlineClaims(self._link, self._bells, self._member, name, (version,), lease=self._lease)
        jobs = RedisJobClaims(self._link, self._bells, self._member, name, routes, self._limits, lease=self._lease)
        worker = Worker(
            [online, jobs],
            Entrance(target.spec, target.submit),
            beat=self._member.beat,
            heartbeat=HEARTBEAT,
            capacity=target.capacity,
            gate=self._gate,
            observe=self._observe,
        )
        task = asyncio.create_task(self._run(worker, name, version))
        self._running[target.key] = (target, worker, task)

    async def _run(self, worker: Worker, name: str, version: str) -> None:
        try:
            await worker.run()
        except Exception as error:  # noqa: BLE001 - a named isolation point: one version's loop must not end the others
            log.event("worker_failed", logging.ERROR, cause=error, model=name, version=version)

    def _retire(self, key: tuple[str, str, bool], grace: float) -> None:
        target, worker, task = self._running.pop(key)
        worker.drain(grace)
        leaving = asyncio.create_task(self._leave(target, task))
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)

    async def _leave(self, target: Target, task: "asyncio.Task[None]") -> None:
        await task
        if not any(key[:2] == target.key[:2] for key in self._running):
            try:
                await self._announce(target, 0.0)
            except QueueUnavailable:
                return  # the announcement ends by itself

    async def _announce(self, target: Target, ttl: float) -> None:
        about = announcement(target.spec, target.provider)
        await self._registry.announce(
            target.spec.name, target.spec.version, self._member.consumer, ttl=ttl, about=about
        )
