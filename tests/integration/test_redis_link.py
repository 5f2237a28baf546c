import asyncio
import random
import time

import pytest

from server.errors import QueueFull, QueueUnavailable
from server.jobs import JobOptions, JobState
from server.queues.redis_address import parse_address
from server.queues.redis_checks import RedisUnfit, check_redis
from server.queues.redis_link import RedisLink
from tests.chaos.harness.proxy import TcpProxy
from tests.redis_rig import (
    MODEL,
    PROMPT,
    FakeScheduler,
    eventually,
    number_request,
    open_jobs,
    open_link,
    open_worker,
)
from tests.redis_server import DURABLE, redis_server

pytestmark = pytest.mark.redis
PREFIX = f"tq:{{{MODEL}}}:"
SOON = 0.2
"""How soon a caller must hear that Redis is away."""


@pytest.fixture
def redis():
    with redis_server() as server:
        yield server


async def refusal_seconds(jobs):
    """Submit until refused; return the seconds that the refused call took."""
    while True:
        start = time.monotonic()
        try:
            await jobs.submit(number_request(1), JobOptions())
        except QueueUnavailable as error:
            assert error.retry_after > 0
            return time.monotonic() - start


async def test_a_killed_redis_refuses_at_once_and_is_used_again_when_it_is_back(redis):
    async with open_jobs(redis.url, patience=PROMPT) as jobs, open_worker(redis.url, FakeScheduler()):
        kept = await jobs.submit(number_request(4), JobOptions())
        await asyncio.to_thread(redis.kill)

        assert await refusal_seconds(jobs) < SOON
        await asyncio.to_thread(redis.start)
        await eventually(lambda: jobs.statistics().available, "it resumes by itself")
        await eventually(lambda: _done(jobs, kept.id), "what was acknowledged is done")
        fresh = await jobs.submit(number_request(5), JobOptions())
        await eventually(lambda: _done(jobs, fresh.id), "and so is what came after")
        assert jobs.statistics().data_losses == 0


async def _done(jobs, job_id):
    try:
        return (await jobs.get(job_id)).state is JobState.DONE
    except QueueUnavailable:
        return False


async def test_a_redis_that_hangs_refuses_at_once_too_and_calls_under_way_end(redis):
    async with open_jobs(redis.url, patience=PROMPT) as jobs:
        await jobs.submit(number_request(1), JobOptions())
        redis.pause()

        assert await refusal_seconds(jobs) < SOON
        assert await refusal_seconds(jobs) < 0.01
        redis.resume()
        await eventually(lambda: jobs.statistics().available, "it resumes by itself")
        await jobs.submit(number_request(2), JobOptions())


async def test_a_waiter_hears_that_redis_is_away(redis):
    async with open_jobs(redis.url, patience=PROMPT) as jobs:
        job = await jobs.submit(number_request(1), JobOptions())
        waiting = jobs.wait(job.id)
        await anext(waiting)
        await asyncio.to_thread(redis.kill)
        with pytest.raises(QueueUnavailable):
            await asyncio.wait_for(anext(waiting), 5)  # noqa: TID251 - the test's own bound


async def test_lost_data_is_noticed_and_work_goes_on(redis):
    async with open_jobs(redis.url) as jobs, open_worker(redis.url, FakeScheduler()):
        await jobs.submit(number_request(1), JobOptions())
        assert redis.ask("FLUSHALL") == b"+OK"
        await eventually(lambda: jobs.statistics().data_losses == 1, "the loss is noticed")
        job = await jobs.submit(number_request(2), JobOptions())
        await eventually(lambda: _done(jobs, job.id), "new work is done")


async def test_dropped_replies_make_no_job_twice(redis):
    rng = random.Random(7)
    proxy = TcpProxy(redis.port, rng)
    port = await proxy.start()
    async with open_jobs(f"redis://127.0.0.1:{port}/0", patience=PROMPT) as jobs:
        proxy.mode = "drop_replies"
        ids = set()
        for number in range(200):
            while True:
                try:
                    ids.add((await jobs.submit(number_request(number), JobOptions(f"key-{number}"))).id)
                    break
                except QueueUnavailable:
                    await asyncio.sleep(0.02)
        proxy.mode = "ok"
        await eventually(lambda: jobs.statistics().available, "the link is back")
        async with open_link(redis.url) as link:
            length = await link.execute("XLEN", f"{PREFIX}s:1:jlo")
    await proxy.close()

    assert proxy.faults > 0
    assert (len(ids), length) == (200, 200)


async def test_redis_is_asked_never_to_throw_us_out_and_may_refuse(redis):
    async with open_jobs(redis.url) as jobs, open_worker(redis.url, FakeScheduler()):
        await jobs.submit(number_request(1), JobOptions())
        clients = await jobs._link.client("commands").client_list()
        ours = [client for client in clients if client["name"]]
        assert len(ours) >= 6
        assert all("e" in client["flags"] for client in ours)

    assert redis.ask("ACL", "SETUSER", "meek", "on", "nopass", "~*", "&*", "+@all", "-client|no-evict") == b"+OK"
    async with open_jobs(f"redis://meek@127.0.0.1:{redis.port}/0") as jobs:
        await jobs.submit(number_request(2), JobOptions())


async def test_callers_that_leave_never_shift_replies_to_others(redis):
    rng = random.Random(11)
    async with open_jobs(redis.url) as jobs:
        made = await asyncio.gather(*(jobs.submit(number_request(n), JobOptions()) for n in range(50)))
        for _ in range(20):
            calls = {job.id: asyncio.create_task(jobs.get(job.id)) for job in made}
            await asyncio.sleep(0)
            for job_id in rng.sample(sorted(calls), 20):
                calls.pop(job_id).cancel()
            found = await asyncio.gather(*calls.values())

            assert list(calls) == [job.id for job in found]


async def test_at_maxmemory_new_jobs_are_refused_and_old_ones_finish(redis):
    async with open_jobs(redis.url) as jobs:
        made = [await jobs.submit(number_request(n), JobOptions()) for n in range(3)]
        assert redis.ask("CONFIG", "SET", "maxmemory", "1mb") == b"+OK"
        with pytest.raises(QueueFull, match="memory limit") as refused:
            await jobs.submit(number_request(9), JobOptions())
        async with open_worker(redis.url, FakeScheduler()):
            for job in made:
                await eventually(lambda job=job: _done(jobs, job.id), "a job accepted before is done")

        assert refused.value.retry_after > 0
        assert redis.ask("CONFIG", "SET", "maxmemory", "0") == b"+OK"
        await jobs.submit(number_request(9), JobOptions())


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        (("--appendonly", "no", "--maxmemory-policy", "noeviction"), "expected appendonly yes"),
        (("--appendonly", "yes", "--maxmemory-policy", "allkeys-lru"), "expected maxmemory-policy noeviction"),
    ],
    ids=["no AOF", "evicts"],
)
async def test_a_redis_that_may_lose_jobs_is_refused_unless_allowed(flags, what):
    with redis_server(*flags) as server:
        async with open_link(server.url) as link:
            with pytest.raises(RedisUnfit, match=f"{what}.*--allow-volatile"):
                await check_redis(link, allow_volatile=False)
            fitness = await check_redis(link, allow_volatile=True)

            assert not fitness.durable


async def test_a_durable_redis_passes_every_check(redis):
    async with open_link(redis.url) as link:
        fitness = await check_redis(link, allow_volatile=False)

        assert fitness.durable
        assert fitness.broken == ()


async def test_a_replica_is_refused(redis):
    with redis_server(*DURABLE, "--replicaof", f"127.0.0.1 {redis.port}") as replica:
        async with open_link(replica.url) as link:
            with pytest.raises(RedisUnfit, match="expected a master, got a replica"):
                await check_redis(link, allow_volatile=True)


async def test_a_forbidding_acl_is_refused_by_name_and_a_wrong_password_shows_no_secret(redis):
    acl = ["ACL", "SETUSER", "worker", "on", ">sesame", "~tq:*", "&tq:*", "+@all", "-xclaim"]
    assert redis.ask(*acl) == b"+OK"
    right = parse_address(f"redis://worker@127.0.0.1:{redis.port}/0")
    link = RedisLink(right.with_password("sesame"), "test")
    await link.open()
    with pytest.raises(RedisUnfit, match=r"got no xclaim$"):
        await check_redis(link, allow_volatile=False)
    await link.close()

    wrong = RedisLink(right.with_password("open-barley"), "test")
    await wrong.open()
    with pytest.raises(RedisUnfit, match="expected a user and password it knows") as refused:
        await check_redis(wrong, allow_volatile=False)
    await wrong.close()
    assert "barley" not in str(refused.value)
    assert "barley" not in repr(wrong.address)
