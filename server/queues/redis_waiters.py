"""Everybody who waits for a job, on one subscription.

A ring wakes the waiters of the jobs it names. Because rings can get lost, once a second one script compares what every
waiter saw last with what is true, and after a reconnect at once.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from server.errors import QueueUnavailable
from server.queues import redis_keys as keys
from server.queues.redis_bells import RedisBells
from server.queues.redis_link import RedisLink
from server.queues.redis_tasks import cancel_all, spawn

CHECK_INTERVAL = 1.0
_CHUNK = 500
"""Jobs per look at the truth, so that 10,000 waiters do not hold Redis up."""

Changed = Callable[[str], Awaitable[None]]
"""Given "state:attempts" as seen last, returns when it may be different."""


class _Waiter:
    __slots__ = ("event", "seen")

    def __init__(self) -> None:
        self.event = asyncio.Event()
        self.seen = ""


class RedisWaiters:
    """Who waits for what, by model and job."""

    def __init__(self, link: RedisLink, bells: RedisBells) -> None:
        self._link = link
        self._bells = bells
        self._waiting: dict[str, dict[str, set[_Waiter]]] = {}
        self._check_now = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @contextmanager
    def watch(self, model: str, job_id: str) -> Iterator[Changed]:
        """Register a waiter; leaving the block removes it, however it is left."""
        self._start(model)
        waiter = _Waiter()
        jobs = self._waiting[model]
        jobs.setdefault(job_id, set()).add(waiter)

        async def changed(seen: str) -> None:
            waiter.seen = seen
            await waiter.event.wait()
            waiter.event.clear()

        try:
            yield changed
        finally:
            jobs[job_id].discard(waiter)
            if not jobs[job_id]:
                del jobs[job_id]

    async def close(self) -> None:
        """Stop looking. Idempotent."""
        await cancel_all(self._task)
        self._task = None

    def _start(self, model: str) -> None:
        if self._task is None:
            self._task = spawn(self._check_loop())
            self._link.on_change(lambda _: self._wake_all())
        if model not in self._waiting:
            self._waiting[model] = {}
            self._bells.listen(keys.done_channel(model), lambda ids: self._rung(model, ids))

    def _rung(self, model: str, ids: list[str]) -> None:
        if not ids:
            self._check_now.set()
        waiting = self._waiting[model]
        for job_id in ids:
            for waiter in waiting.get(job_id, ()):
                waiter.event.set()

    def _wake_all(self) -> None:
        """Redis went away or came back: let every waiter find out for itself."""
        for jobs in self._waiting.values():
            for waiters in jobs.values():
                for waiter in waiters:
                    waiter.event.set()

    async def _check_loop(self) -> None:
        while True:
            try:
                async with asyncio.timeout(CHECK_INTERVAL):
                    await self._check_now.wait()
            except TimeoutError:
                pass
            self._check_now.clear()
            for model in list(self._waiting):
                await self._check(model)

    async def _check(self, model: str) -> None:
        jobs = list(self._waiting[model])
        for start in range(0, len(jobs), _CHUNK):
            chunk = jobs[start : start + _CHUNK]
            try:
                truths = await self._link.run("states", [keys.any_key(model)], [keys.prefix(model), *chunk])
            except QueueUnavailable:
                return
            for job_id, truth in zip(chunk, truths, strict=True):
                for waiter in self._waiting[model].get(job_id, ()):
                    if waiter.seen != truth.decode():
                        waiter.event.set()
