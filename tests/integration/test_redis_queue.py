"""Online requests through Redis where the contract tests of queues do not reach: deaths, outages, many processes."""

import asyncio
import time
from contextlib import asynccontextmanager

import pytest

from server.errors import Cancelled, InferenceFailed, ModelNotReady, QueueUnavailable
from server.messages import InferResponse
from server.queues.gate import Gate
from server.queues.redis_bells import RedisBells
from server.queues.redis_claims import RedisMember
from server.queues.redis_online_claims import MAX_ATTEMPTS, RedisOnlineClaims
from server.queues.redis_queue import OnlineBounds, RedisQueue
from server.queues.redis_registry import RedisRegistry
from server.worker import Worker
from tests.redis_rig import MODEL, PROMPT, FakeScheduler, double, eventually, number_of, number_request, open_link
from tests.redis_server import redis_server

pytestmark = pytest.mark.redis
PREFIX = f"tq:{{{MODEL}}}:"


@pytest.fixture
def redis():
    with redis_server() as server:
        yield server


@asynccontextmanager
async def frontend(url, name="frontend", served=True, patience=2.0):
    async with open_link(url, name, patience) as link:
        bells = RedisBells(link)
        registry = RedisRegistry(link, bells)
        if served:
            await registry.announce(MODEL, "1", "test", ttl=60.0)
        queue = RedisQueue(link, registry, OnlineBounds(1000, 1000, 1 << 20))
        await queue.open(name)
        try:
            yield queue
        finally:
            await queue.close()
            await bells.close()


@asynccontextmanager
async def online_worker(url, scheduler, name, capacity=16):
    async with open_link(url, name) as link:
        bells = RedisBells(link)
        member = RedisMember(link, name, heartbeat=0.1)
        await member.beat()
        claims = RedisOnlineClaims(link, bells, member, MODEL, ("1", ""), lease=30.0)
        worker = Worker([claims], scheduler.submit, beat=member.beat, heartbeat=0.1, capacity=capacity, gate=Gate())
        task = asyncio.create_task(worker.run())
        try:
            yield worker, task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await bells.close()


class Asked:
    """One request: what it was answered, how often and when."""

    def __init__(self, queue, number, **fields):
        self.number = number
        self.outcomes = []
        self.at = 0.0
        self.ticket = queue.submit(number_request(number, **fields), self._hear)

    def _hear(self, outcome):
        self.at = time.monotonic()
        self.outcomes.append(outcome)

    @property
    def right(self):
        (outcome,) = self.outcomes
        return isinstance(outcome, InferResponse) and number_of(outcome) == 2 * self.number


def all_answered(asked):
    return all(one.outcomes for one in asked)


async def test_a_worker_that_dies_under_load_costs_its_callers_time_and_nothing_else(redis):
    stuck, alive = FakeScheduler(hold=True), FakeScheduler(delay=0.001)
    async with frontend(redis.url) as queue:
        async with online_worker(redis.url, stuck, "doomed") as (_, task):
            asked = [Asked(queue, number) for number in range(40)]
            await eventually(lambda: len(stuck.waiting) == 16, "the worker holds what it can")
            task.cancel()
        async with online_worker(redis.url, alive, "heir"):
            asked += [Asked(queue, number) for number in range(40, 60)]
            await eventually(lambda: all_answered(asked), "everybody has an answer")

        assert all(one.right for one in asked)
        assert queue.orphans == 0


async def test_two_frontends_and_two_workers_share_one_queue(redis):
    schedulers = FakeScheduler(delay=0.002), FakeScheduler(delay=0.002)
    async with (
        frontend(redis.url, "f1") as first,
        frontend(redis.url, "f2") as second,
        online_worker(redis.url, schedulers[0], "w1", capacity=4),
        online_worker(redis.url, schedulers[1], "w2", capacity=4),
    ):
        asked = [Asked(queue, number) for number in range(200) for queue in (first, second)]
        await eventually(lambda: all_answered(asked), "everybody has an answer")

    assert all(one.right for one in asked)
    assert min(len(scheduler.seen) for scheduler in schedulers) > 20


async def test_a_request_that_kills_every_worker_is_answered_and_its_neighbour_lives(redis):
    class NeverDoneWithOne(FakeScheduler):
        """Still at request 1 when its worker ends."""

        def submit(self, request, reply):
            self.hold = number_of(request) == 1
            return super().submit(request, reply)

    async with frontend(redis.url) as queue:
        both = FakeScheduler(hold=True)
        async with online_worker(redis.url, both, "victim-1"):
            poison, innocent = Asked(queue, 1), Asked(queue, 2)
            await eventually(lambda: len(both.waiting) == 2, "they run together")
        for attempt in range(2, MAX_ATTEMPTS + 1):
            scheduler = NeverDoneWithOne()
            async with online_worker(redis.url, scheduler, f"victim-{attempt}"):
                await eventually(lambda s=scheduler: s.hold, "it was taken")
            assert scheduler.most_at_once == 1
        async with online_worker(redis.url, FakeScheduler(), "survivor"):
            await eventually(lambda: all_answered([poison, innocent]), "both are answered")

        assert isinstance(poison.outcomes[0], InferenceFailed)
        assert innocent.right


async def test_redis_away_answers_everybody_at_once_and_resumes_by_itself(redis):
    scheduler = FakeScheduler(hold=True)
    async with frontend(redis.url, patience=PROMPT) as queue, online_worker(redis.url, scheduler, "worker"):
        asked = [Asked(queue, number) for number in range(10)]
        await eventually(lambda: len(scheduler.waiting) == 10, "they run")
        killed_at = time.monotonic()
        redis.kill()
        await eventually(lambda: all_answered(asked), "everybody has an answer")

        assert all(isinstance(one.outcomes[0], QueueUnavailable) for one in asked)
        assert max(one.at for one in asked) - killed_at < 0.25
        with pytest.raises(QueueUnavailable):
            Asked(queue, 1)

        await asyncio.to_thread(redis.start)
        scheduler.release()
        await eventually(lambda: _answers_right(queue), "it resumes by itself")
        assert [len(one.outcomes) for one in asked] == [1] * 10


async def _answers_right(queue):
    try:
        asked = Asked(queue, 7)
    except QueueUnavailable:
        return False
    await eventually(lambda: asked.outcomes, "an answer")
    return isinstance(asked.outcomes[0], InferResponse)


async def test_a_version_nobody_serves_is_not_ready_until_a_worker_announces_it(redis):
    async with frontend(redis.url, served=False) as queue, open_link(redis.url, "worker") as link:
        with pytest.raises(ModelNotReady):
            Asked(queue, 1)
        bells = RedisBells(link)
        await RedisRegistry(link, bells).announce(MODEL, "1", "worker", ttl=60.0, about=b"what it is")
        await eventually(lambda: (MODEL, "1") in queue._registry.served(), "the frontend hears of it", 0.5)

        assert queue._registry.served()[MODEL, "1"] == b"what it is"


async def test_a_cancellation_reaches_the_worker_that_runs_it(redis):
    scheduler = FakeScheduler(hold=True)
    async with frontend(redis.url) as queue, online_worker(redis.url, scheduler, "worker"):
        kept, left = Asked(queue, 1), Asked(queue, 2)
        await eventually(lambda: len(scheduler.waiting) == 2, "both run")
        left.ticket.cancel()
        await eventually(lambda: len(scheduler.waiting) == 1, "the worker gave it up")
        scheduler.release()
        await eventually(lambda: kept.outcomes, "the other is answered")

        assert isinstance(left.outcomes[0], Cancelled)
        assert kept.right


async def test_answers_to_a_frontend_that_is_gone_are_counted_and_leave_nothing(redis):
    scheduler = FakeScheduler(hold=True)
    async with online_worker(redis.url, scheduler, "worker") as (worker, _), open_link(redis.url) as link:
        async with frontend(redis.url, "short-lived") as queue:
            Asked(queue, 1)
            await eventually(lambda: scheduler.waiting, "it runs")
        await link.execute("DEL", f"{PREFIX}a:short-lived")
        scheduler.release()
        await eventually(lambda: worker.settled == 1, "it is settled")

        assert await link.execute("HGET", f"{PREFIX}n", "online_orphans") == b"1"
        assert (await link.execute("XLEN", f"{PREFIX}s:1:olo"), await link.execute("GET", f"{PREFIX}b")) == (0, b"0")


async def test_an_answer_repeated_after_a_lost_reply_arrives_once_and_gives_its_bytes_back_once(redis):
    async with frontend(redis.url) as queue, open_link(redis.url, "worker") as link:
        member = RedisMember(link, "worker", heartbeat=1.0)
        claims = RedisOnlineClaims(link, RedisBells(link), member, MODEL, ("1",), lease=30.0)
        asked = [Asked(queue, 1), Asked(queue, 2)]
        await eventually(lambda: _length(link, 2), "both wait")
        taken = await claims.claim(2)
        outcomes = [(claim, double(claim.request)) for claim in taken]

        assert await claims.settle(outcomes[:1]) == 0
        assert await claims.settle(outcomes[:1]) == 1
        assert await claims.settle(outcomes[1:]) == 0
        await eventually(lambda: all_answered(asked), "both are answered")
        await eventually(lambda: _length(link, 0), "nothing is left")
        assert all(one.right for one in asked)
        assert queue.orphans == 0
        assert await link.execute("GET", f"{PREFIX}b") == b"0"


async def _length(link, expected):
    return await link.execute("XLEN", f"{PREFIX}s:1:olo") == expected


async def test_the_worker_sees_what_is_left_of_the_deadline_on_its_own_clock(redis):
    scheduler = FakeScheduler()
    async with frontend(redis.url) as queue, online_worker(redis.url, scheduler, "worker"):
        asked = Asked(queue, 1, deadline=time.monotonic() + 20)
        await eventually(lambda: asked.outcomes, "an answer")

        assert 15 < scheduler.seen[0].deadline - time.monotonic() < 20


async def test_a_claim_says_whether_it_left_something(redis):
    async with frontend(redis.url) as queue, open_link(redis.url, "worker") as link:
        bells = RedisBells(link)
        claims = RedisOnlineClaims(link, bells, RedisMember(link, "w", heartbeat=1.0), MODEL, ("1",), lease=30.0)
        asked = [Asked(queue, number) for number in range(5)]
        await eventually(lambda: all(one.ticket.entry for one in asked), "all were sent")
        said = [(len(await claims.claim(want)), claims.drained) for want in (2, 4)]
        await bells.close()

    assert said == [(2, False), (3, True)]
