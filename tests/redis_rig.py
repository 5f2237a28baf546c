"""What tests of the Redis queues share: a frontend's and a worker's end on one event loop, and a model made of numbers.

The fake model doubles a number. The number also says how the run goes, so that any process can tell what must come out.
"""

import asyncio
import os
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from server.errors import Cancelled, InferenceFailed, InvalidValues
from server.jobs import JobLimits
from server.messages import InferRequest, InferResponse, Reply, Tensor
from server.queues.gate import Gate
from server.queues.redis_address import parse_address
from server.queues.redis_bells import RedisBells
from server.queues.redis_claims import RedisMember
from server.queues.redis_job_claims import RedisJobClaims
from server.queues.redis_jobs import RedisJobs
from server.queues.redis_link import RedisLink
from server.worker import Worker

MODEL = "double"
PROMPT = 0.12
"""What servers use."""
LIMITS = JobLimits(max_depth=100_000, max_bytes=1 << 30, max_age=0.0)
BROKEN, WRONG, POISON = -1, -2, -3
"""Numbers whose run breaks, is refused by the model, or kills the process."""


def number_request(number: int, *, version: str = "1", **fields: object) -> InferRequest:
    tensor = Tensor("number", "INT64", (1, 1), struct.pack("<q", number))
    return InferRequest(MODEL, version, fields.pop("id", str(number)), (tensor,), 1, **fields)


def number_of(message: InferRequest | InferResponse) -> int:
    tensors = message.inputs if isinstance(message, InferRequest) else message.outputs
    return struct.unpack("<q", tensors[0].data)[0]


def double(request: InferRequest) -> InferResponse | Exception:
    """What the fake model makes of a request."""
    number = number_of(request)
    if number == BROKEN:
        return InferenceFailed("the run broke")
    if number == WRONG:
        return InvalidValues("number: expected one that can be doubled")
    if number == POISON:
        os._exit(77)
    tensor = Tensor("number", "INT64", (1, 1), struct.pack("<q", 2 * number))
    return InferResponse(request.model_name, "1", request.id, (tensor,))


class FakeTicket:
    def __init__(self, cancel: Callable[[], None]) -> None:
        self.cancel = cancel


@dataclass
class FakeScheduler:
    """Answers after `delay` seconds on the event loop, or when `release` is called if `hold` is set."""

    delay: float = 0.0
    hold: bool = False
    seen: list[InferRequest] = field(default_factory=list)
    waiting: dict[int, tuple[InferRequest, Reply]] = field(default_factory=dict)
    most_at_once: int = 0

    def submit(self, request: InferRequest, reply: Reply) -> FakeTicket:
        key = len(self.seen)
        self.seen.append(request)
        self.waiting[key] = (request, reply)
        self.most_at_once = max(self.most_at_once, len(self.waiting))
        if not self.hold:
            asyncio.get_running_loop().call_later(self.delay, self._answer, key)
        return FakeTicket(lambda: self._end(key, Cancelled("test: cancelled")))

    def release(self) -> None:
        self.hold = False
        for key in list(self.waiting):
            self._answer(key)

    def _answer(self, key: int) -> None:
        if key in self.waiting:
            self._end(key, double(self.waiting[key][0]))

    def _end(self, key: int, outcome: InferResponse | Exception) -> None:
        found = self.waiting.pop(key, None)
        if found is not None:
            found[1](outcome)


@asynccontextmanager
async def open_link(url: str, name: str = "test", patience: float = 2.0) -> AsyncIterator[RedisLink]:
    """A link that forgives a busy machine; tests of promptness ask for `PROMPT` instead."""
    link = RedisLink(parse_address(url), name, patience=patience)
    await link.open()
    try:
        yield link
    finally:
        await link.close()


@asynccontextmanager
async def open_jobs(url: str, limits: JobLimits = LIMITS, patience: float = 2.0) -> AsyncIterator[RedisJobs]:
    """A frontend's end."""
    async with open_link(url, "frontend", patience) as link:
        bells = RedisBells(link)
        jobs = RedisJobs(link, bells, limits)
        try:
            yield jobs
        finally:
            await jobs.close()
            await bells.close()


@dataclass
class RunningWorker:
    worker: Worker
    claims: RedisJobClaims
    task: "asyncio.Task[None]"
    link: RedisLink

    async def drain(self, grace: float = 5.0) -> None:
        self.worker.drain(grace)
        async with asyncio.timeout(grace + 10):
            await self.task

    async def die(self) -> None:
        """End as a SIGKILL would: nothing is settled, released or signed off."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


@asynccontextmanager
async def open_worker(
    url: str,
    scheduler: FakeScheduler,
    *,
    name: str = "worker-1",
    limits: JobLimits = LIMITS,
    heartbeat: float = 0.1,
    lease: float = 30.0,
    capacity: int = 16,
    routes: tuple[str, ...] = ("1", ""),
) -> AsyncIterator[RunningWorker]:
    """A worker's end with a fake model, on this event loop."""
    async with open_link(url, name) as link:
        bells = RedisBells(link)
        member = RedisMember(link, name, heartbeat=heartbeat)
        await member.beat()
        claims = RedisJobClaims(link, bells, member, MODEL, routes, limits, lease=lease)
        worker = Worker(
            [claims], scheduler.submit, beat=member.beat, heartbeat=heartbeat, capacity=capacity, gate=Gate()
        )
        running = RunningWorker(worker, claims, asyncio.create_task(worker.run()), link)
        try:
            yield running
        finally:
            await running.die()
            await bells.close()


async def eventually(condition: Callable[[], object], what: str, patience: float = 10.0) -> None:
    """Wait for a condition that no event announces; `condition` may be a coroutine function."""
    give_up = asyncio.get_running_loop().time() + patience
    while True:
        value = condition()
        if asyncio.iscoroutine(value):
            value = await value
        if value:
            return
        if asyncio.get_running_loop().time() > give_up:
            raise AssertionError(f"expected within {patience} s: {what}")
        await asyncio.sleep(0.01)
