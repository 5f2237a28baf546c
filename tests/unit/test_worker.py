"""The worker's loop with sources of the tests' own: what it asks them for, and when."""

import asyncio
from contextlib import asynccontextmanager

from server.queues.claims import Claim, Renewal
from server.queues.gate import Gate
from server.worker import Worker
from tests.redis_rig import FakeScheduler, eventually, number_request


class FakeClaims:
    """A broker in a list; `asked` counts the claims, `settled` keeps what came out."""

    def __init__(self):
        self.asked = 0
        self.settled = []
        self.drained = False
        self._waiting = []
        self._news = asyncio.Event()

    def put(self, *numbers):
        self._waiting += numbers
        self._news.set()

    async def claim(self, want):
        self.asked += 1
        self._news.clear()
        numbers, self._waiting = self._waiting[:want], self._waiting[want:]
        self.drained = len(numbers) < want
        return [Claim(str(n), number_request(n), 1, 1, str(n)) for n in numbers]

    async def wait(self):
        await self._news.wait()

    async def settle(self, outcomes):
        self.settled += [int(claim.key) for claim, _ in outcomes]
        return 0

    async def suspects(self):
        return False

    async def renew(self, claims):
        return Renewal()

    def on_cancel(self, callback):
        pass

    async def tidy(self):
        pass

    async def leave(self):
        pass


async def no_beat():
    pass


@asynccontextmanager
async def running(*sources, capacity=4):
    worker = Worker(sources, FakeScheduler().submit, beat=no_beat, heartbeat=1.0, capacity=capacity, gate=Gate())
    task = asyncio.create_task(worker.run())
    yield worker
    for source in sources:
        source.put()
    worker.drain(5.0)
    async with asyncio.timeout(10):
        await task


async def test_a_source_that_was_empty_is_not_asked_again_before_its_alarm_rings():
    online, jobs = FakeClaims(), FakeClaims()
    async with running(online, jobs):
        await eventually(lambda: jobs.asked == 1, "both were asked once")
        for number in range(20):
            online.put(number)
            await eventually(lambda n=number: n in online.settled, "it was answered")

        assert jobs.asked == 1
        jobs.put(100)
        await eventually(lambda: jobs.settled == [100], "the alarm rang")


async def test_what_did_not_fit_is_claimed_when_there_is_room_though_no_alarm_rings():
    online, jobs = FakeClaims(), FakeClaims()
    async with running(online, jobs, capacity=4):
        online.put(*range(10))
        jobs.put(*range(100, 110))
        await eventually(lambda: len(online.settled) + len(jobs.settled) == 20, "everything was answered")

    assert online.settled == list(range(10))
    assert jobs.settled == list(range(100, 110))


async def test_a_drain_before_anything_was_asked_ends_the_loop():
    online = FakeClaims()
    worker = Worker([online], FakeScheduler().submit, beat=no_beat, heartbeat=1.0, capacity=1, gate=Gate())
    worker.drain(1.0)
    async with asyncio.timeout(10):
        await worker.run()

    assert online.asked == 0
