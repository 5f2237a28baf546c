import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from server.errors import QueueUnavailable
from server.jobs import JobOptions, JobQuery, JobState
from server.messages import InferResponse
from server.queues import redis_keys as keys
from server.queues.redis_bells import RedisBells
from server.queues.redis_claims import RedisMember
from server.queues.redis_job_claims import RedisJobClaims
from tests.redis_rig import (
    LIMITS,
    MODEL,
    FakeScheduler,
    double,
    eventually,
    number_of,
    number_request,
    open_jobs,
    open_link,
    open_worker,
)
from tests.redis_server import redis_server

pytestmark = pytest.mark.redis
PREFIX = f"tq:{{{MODEL}}}:"
LANE = f"{PREFIX}s:1:jlo"


@pytest.fixture(scope="module")
def shared():
    with redis_server() as server:
        yield server


@pytest.fixture
def redis(shared):
    assert shared.ask("FLUSHALL") == b"+OK"
    return shared


@asynccontextmanager
async def open_claims(url, name, limits=LIMITS):
    """A worker's claims without its loop, so that a test decides what is repeated, late or forgotten."""
    async with open_link(url, name) as link:
        bells = RedisBells(link)
        member = RedisMember(link, name, heartbeat=0.1)
        member._back_at = 0.0
        await member.beat()
        yield RedisJobClaims(link, bells, member, MODEL, ("1", ""), limits, lease=30.0)
        await bells.close()


async def submit(jobs, count):
    return [(await jobs.submit(number_request(number), JobOptions())).id for number in range(count)]


async def totals(claims):
    _, counts, *_ = await claims._link.run("look", [LANE], [PREFIX])
    return {counts[i].decode(): int(counts[i + 1]) for i in range(0, len(counts), 2)}


def answers(claims):
    return [(claim, double(claim.request)) for claim in claims]


async def test_what_a_dead_worker_held_runs_again_one_by_one_and_alone(redis):
    first, second = FakeScheduler(hold=True), FakeScheduler(delay=0.01)
    async with open_jobs(redis.url) as jobs:
        async with open_worker(redis.url, first, name="a") as doomed:
            ids = await submit(jobs, 5)
            await eventually(lambda: len(first.waiting) == 5, "the first worker holds all five")
            await doomed.die()
        async with open_worker(redis.url, second, name="b") as heir:
            await eventually(lambda: heir.worker.settled == 5, "the second worker ran them")
            done = [await jobs.get(job_id) for job_id in ids]

        assert [(job.state, job.attempts) for job in done] == [(JobState.DONE, 2)] * 5
        assert [number_of(job.result) for job in done] == [0, 2, 4, 6, 8]
        assert second.most_at_once == 1
        await eventually(lambda: _consumers_are(redis, {b"b:j"}), "the dead one's name is forgotten")


async def test_while_a_suspect_runs_nothing_else_does(redis):
    class Watching(FakeScheduler):
        """Knows who ran beside a suspect."""

        beside_a_suspect = 0

        def submit(self, request, reply):
            running = [number_of(other) for other, _ in self.waiting.values()]
            if running and (number_of(request) < 3 or min(running) < 3):
                self.beside_a_suspect += 1
            return super().submit(request, reply)

    first, second = FakeScheduler(hold=True), Watching(delay=0.02)
    async with open_jobs(redis.url) as jobs, open_worker(redis.url, second, name="b", capacity=4) as heir:
        async with open_worker(redis.url, first, name="a", routes=("other",)) as doomed:
            for number in range(3):
                await jobs.submit(number_request(number, version="other"), JobOptions())
            await eventually(lambda: len(first.waiting) == 3, "the first worker holds the suspects")
            await doomed.die()
        for number in range(10, 90):
            await jobs.submit(number_request(number), JobOptions())
        heir.claims._lanes += keys.lanes(MODEL, ("other",), "j")
        heir.claims._tops += ["0-0"] * 2
        await eventually(lambda: heir.worker.settled == 83, "everything ran", 20)

    assert second.beside_a_suspect == 0
    assert second.most_at_once == 4


async def _consumers_are(redis, expected):
    async with open_link(redis.url) as link:
        return set(await link.run("gone", [LANE], [PREFIX])) <= expected


async def test_a_claim_repeated_after_a_lost_reply_hands_out_the_same_and_counts_once(redis, monkeypatch):
    async with open_jobs(redis.url) as jobs, open_claims(redis.url, "a") as claims:
        await submit(jobs, 3)
        run = claims._link.run

        async def lose_the_reply(*call):
            await run(*call)
            raise QueueUnavailable("test: the reply was lost")

        monkeypatch.setattr(claims._link, "run", lose_the_reply)
        with pytest.raises(QueueUnavailable):
            await claims.claim(2)
        monkeypatch.setattr(claims._link, "run", run)
        again = await claims.claim(2)
        rest = await claims.claim(2)

        assert [(number_of(claim.request), claim.attempt) for claim in again] == [(0, 1), (1, 1)]
        assert [number_of(claim.request) for claim in rest] == [2]


async def test_a_lost_reply_is_made_good_though_another_claimer_of_the_process_came_between(redis, monkeypatch):
    async with open_jobs(redis.url) as jobs, open_claims(redis.url, "a") as claims:
        other = RedisJobClaims(claims._link, claims._bells, claims._member, MODEL, ("2",), LIMITS, lease=30.0)
        await submit(jobs, 1)
        await jobs.submit(number_request(7, version="2"), JobOptions())
        run = claims._link.run

        async def lose_the_reply(*call):
            await run(*call)
            raise QueueUnavailable("test: the reply was lost")

        monkeypatch.setattr(claims._link, "run", lose_the_reply)
        with pytest.raises(QueueUnavailable):
            await claims.claim(1)
        monkeypatch.setattr(claims._link, "run", run)

        assert [number_of(claim.request) for claim in await other.claim(1)] == [7]
        assert await claims.recover() is None
        assert [number_of(claim.request) for claim in await claims.claim(1)] == [0]


async def test_what_a_retired_worker_left_is_found_by_its_successor_of_the_same_process(redis):
    async with open_jobs(redis.url) as jobs, open_claims(redis.url, "a") as claims:
        (job_id,) = await submit(jobs, 1)
        await claims.claim(1)
        heir = RedisJobClaims(claims._link, claims._bells, claims._member, MODEL, ("1",), LIMITS, lease=0.05)
        await eventually(heir.suspects, "the lease is over")
        taken = await heir.recover()

        assert (taken.key, taken.attempt) == (job_id, 2)


async def test_a_worker_that_left_keeps_no_connection_and_no_listener(redis):
    async with open_link(redis.url, "churning") as link:
        bells = RedisBells(link)
        member = RedisMember(link, "churning", heartbeat=1.0)
        for _ in range(5):
            claims = RedisJobClaims(link, bells, member, MODEL, ("1",), LIMITS, lease=30.0)
            claims.on_cancel(lambda _: None)
            await claims.claim(1)
            await claims.leave()

        assert [listener for listeners in bells._heard.values() for listener in listeners] == []
        assert len(link._clients) == 3
        await bells.close()


async def test_settling_twice_stores_once(redis):
    async with open_jobs(redis.url) as jobs, open_claims(redis.url, "a") as claims:
        ids = await submit(jobs, 2)
        outcomes = answers(await claims.claim(2))

        assert await claims.settle(outcomes) == 0
        assert await claims.settle(outcomes) == 0
        assert (await totals(claims))["done"] == 2
        assert {JobState.DONE} == {(await jobs.get(job_id)).state for job_id in ids}


async def test_a_worker_that_lost_its_claim_cannot_overwrite_the_result(redis):
    async with open_jobs(redis.url) as jobs, open_claims(redis.url, "zombie") as zombie:
        (job_id,) = await submit(jobs, 1)
        (claim,) = await zombie.claim(1)
        await zombie._member.leave()
        async with open_claims(redis.url, "heir") as heir:
            assert await heir.suspects()
            taken = await heir.recover()
            wrong = InferResponse(MODEL, "1", "", ())

            assert taken.attempt == 2
            assert (await zombie.renew([claim])).lost == (job_id,)
            assert await zombie.settle([(claim, wrong)]) == 1
            assert await heir.settle(answers([taken])) == 0
            assert await zombie.settle([(claim, wrong)]) == 1
            assert number_of((await jobs.get(job_id)).result) == 0


async def test_a_job_that_outlives_its_attempts_is_dead_and_its_neighbours_are_not(redis):
    limits = replace(LIMITS, max_attempts=2)
    async with open_jobs(redis.url, limits) as jobs:
        poison, innocent = await submit(jobs, 2)
        async with open_claims(redis.url, "a", limits) as claims:
            assert len(await claims.claim(2)) == 2
            await claims._member.leave()
        async with open_claims(redis.url, "b", limits) as claims:
            assert (await claims.recover()).key == poison
            await claims._member.leave()
        async with open_claims(redis.url, "c", limits) as claims:
            taken = await claims.recover()
            assert taken.key == innocent
            await claims.settle(answers([taken]))
            assert await claims.recover() is None
        (dead,) = (await jobs.list_dead(JobQuery(MODEL))).jobs

        assert (poison, JobState.FAILED, 2, True) == (dead.id, dead.state, dead.attempts, dead.dead)
        assert "its worker died in each of 2 attempts" in str(dead.error)
        assert (await jobs.get(innocent)).state == JobState.DONE


async def test_draining_ends_what_runs_and_hands_back_what_does_not(redis):
    stuck, other = FakeScheduler(hold=True), FakeScheduler()
    async with open_jobs(redis.url) as jobs, open_worker(redis.url, stuck, name="a", capacity=2) as leaving:
        ids = await submit(jobs, 4)
        await eventually(lambda: len(stuck.waiting) == 2, "two are held")
        await leaving.drain(grace=0.05)
        async with open_worker(redis.url, other, name="b") as staying:
            await eventually(lambda: staying.worker.settled == 4, "the other worker does all four")
            done = [await jobs.get(job_id) for job_id in ids]

        assert leaving.worker.held == 0
        assert len(stuck.seen) == 2
        assert [(job.state, job.attempts) for job in done] == [(JobState.DONE, 1)] * 4


async def test_what_a_scheduler_refuses_goes_back_and_costs_no_attempt(redis):
    class Refusing(FakeScheduler):
        def submit(self, request, reply):
            if not self.seen:
                self.seen.append(request)
                raise QueueUnavailable("test: not now")
            return super().submit(request, reply)

    scheduler = Refusing()
    async with open_jobs(redis.url) as jobs, open_worker(redis.url, scheduler):
        (job_id,) = await submit(jobs, 1)
        await eventually(lambda: len(scheduler.seen) == 2, "it came again")
        await eventually(lambda: _is(jobs, job_id, JobState.DONE), "it is done")

        assert (await jobs.get(job_id)).attempts == 1


async def _is(jobs, job_id, state):
    return (await jobs.get(job_id)).state is state


async def test_an_orphan_left_by_a_deleted_consumer_is_found_and_runs(redis):
    async with open_jobs(redis.url) as jobs, open_claims(redis.url, "a") as claims:
        (job_id,) = await submit(jobs, 1)
        await claims.claim(1)
        await claims._link.execute("XGROUP", "DELCONSUMER", LANE, "w", "a:j")

        assert await claims.claim(1) == []
        assert await claims._link.run("sweep", [LANE], [PREFIX, 1]) == 1
        (again,) = await claims.claim(1)
        assert (again.key, again.attempt) == (job_id, 2)
        assert await claims.settle(answers([again])) == 0


async def test_a_job_whose_record_is_lost_is_dropped_and_counted(redis):
    async with open_jobs(redis.url) as jobs, open_claims(redis.url, "a") as claims:
        gone, kept = await submit(jobs, 2)
        await claims._link.execute("DEL", f"{PREFIX}j:{gone}")
        (claim,) = await claims.claim(2)

        assert claim.key == kept
        assert (await totals(claims))["lost_record"] == 1
        await claims.settle(answers([claim]))
        assert await claims._link.execute("GET", f"{PREFIX}b") == b"0"


async def test_a_damaged_request_never_reaches_the_model(redis):
    scheduler = FakeScheduler()
    async with open_jobs(redis.url) as jobs:
        (job_id,) = await submit(jobs, 1)
        async with open_link(redis.url) as link:
            await link.execute("SETRANGE", f"{PREFIX}p:{job_id}", "60", "X")
        async with open_worker(redis.url, scheduler) as running:
            await eventually(lambda: _is(jobs, job_id, JobState.FAILED), "it failed")

        assert scheduler.seen == []
        assert running.claims.damaged == LIMITS.max_attempts
        assert "damaged" in str((await jobs.get(job_id)).error)


async def test_a_lane_is_never_starved_by_urgent_jobs(redis):
    scheduler = FakeScheduler()
    async with open_jobs(redis.url) as jobs:
        (patient,) = await submit(jobs, 1)
        await asyncio.gather(*(jobs.submit(number_request(50 + n, priority=1), JobOptions()) for n in range(40)))
        async with open_worker(redis.url, scheduler, capacity=1):
            await eventually(lambda: _is(jobs, patient, JobState.DONE), "the patient one is done")

        order = [number_of(request) for request in scheduler.seen]
        assert order.index(0) < 10


async def test_a_claim_says_whether_it_left_something(redis):
    async with open_jobs(redis.url) as jobs, open_claims(redis.url, "a") as claims:
        await submit(jobs, 5)
        said = [(len(await claims.claim(want)), claims.drained) for want in (2, 3, 1)]

    assert said == [(2, False), (3, False), (0, True)]


async def test_a_claim_that_took_all_there_was_says_so(redis):
    async with open_jobs(redis.url) as jobs, open_claims(redis.url, "a") as claims:
        await submit(jobs, 5)

        assert len(await claims.claim(6)) == 5
        assert claims.drained
