import asyncio
from dataclasses import replace

import pytest

from server.errors import (
    AlreadyExists,
    Cancelled,
    DeadlineExceeded,
    FailedPrecondition,
    InferenceFailed,
    InvalidRequest,
    InvalidValues,
    JobNotFound,
    QueueFull,
)
from server.jobs import JobOptions, JobQuery, JobState
from tests.redis_rig import (
    BROKEN,
    LIMITS,
    MODEL,
    WRONG,
    FakeScheduler,
    eventually,
    number_of,
    number_request,
    open_jobs,
    open_link,
    open_worker,
)
from tests.redis_server import redis_server

pytestmark = pytest.mark.redis


@pytest.fixture(scope="module")
def shared():
    with redis_server() as server:
        yield server


@pytest.fixture
def redis(shared):
    assert shared.ask("FLUSHALL") == b"+OK"
    return shared


async def final(jobs, job_id):
    async with asyncio.timeout(20):
        async for job in jobs.wait(job_id):
            if job.state.final:
                return job
    raise AssertionError("wait ended without a final state")


async def leftovers(url):
    """Entries, pending and payloads still there: all of them must be gone when nothing is unfinished."""
    async with open_link(url) as link:
        lanes, _, dead, held = await link.run("look", [f"tq:{{{MODEL}}}:lanes"], [f"tq:{{{MODEL}}}:"])
        payloads = [key async for key in link._commands.scan_iter(f"tq:{{{MODEL}}}:p:*")]
        return [lane[1:3] for lane in lanes if lane[1] or lane[2]], held, len(payloads) - dead


async def clock_reaches(url, instant_ms):
    async with open_link(url) as link:

        async def reached():
            seconds, micros = await link.execute("TIME")
            return int(seconds) * 1000 + int(micros) // 1000 >= instant_ms

        await eventually(reached, "Redis's clock gets there")


async def test_a_job_is_accepted_run_and_read_back(redis):
    async with open_jobs(redis.url) as jobs, open_worker(redis.url, FakeScheduler()):
        accepted = await jobs.submit(number_request(21), JobOptions())
        done = await final(jobs, accepted.id)

        assert accepted.state == JobState.QUEUED
        assert (done.state, number_of(done.result), done.model_version, done.attempts) == (JobState.DONE, 42, "1", 1)
        assert done.submitted_at_ms <= done.started_at_ms <= done.finished_at_ms
        assert done == await jobs.get(accepted.id)
    assert await leftovers(redis.url) == ([], 0, 0)


async def test_the_same_key_is_the_same_job_and_another_request_under_it_is_refused(redis):
    async with open_jobs(redis.url) as jobs:
        options = JobOptions(idempotency_key="order-7")
        first = await jobs.submit(number_request(1), options)

        assert first.id == (await jobs.submit(number_request(1), options)).id
        assert first.id != (await jobs.submit(number_request(1), replace(options, tenant="other"))).id
        with pytest.raises(AlreadyExists, match="expected a new key"):
            await jobs.submit(number_request(2), options)
        with pytest.raises(InvalidRequest, match="128 characters, got 129"):
            await jobs.submit(number_request(2), JobOptions(idempotency_key="k" * 129))


async def test_wait_tells_every_state_and_ends_with_the_final_one(redis):
    scheduler = FakeScheduler(hold=True)
    async with open_jobs(redis.url) as jobs, open_worker(redis.url, scheduler) as running:
        job = await jobs.submit(number_request(3), JobOptions())
        states = []
        async with asyncio.timeout(10):
            async for seen in jobs.wait(job.id):
                if not states or states[-1] != seen.state:
                    states.append(seen.state)
                if seen.state is JobState.RUNNING:
                    await eventually(lambda: scheduler.waiting, "the scheduler has it")
                    scheduler.release()

        assert states[-2:] == [JobState.RUNNING, JobState.DONE]
        assert running.worker.claimed == 1


async def test_another_tenant_finds_no_job(redis):
    async with open_jobs(redis.url) as jobs:
        job = await jobs.submit(number_request(3), JobOptions(tenant="a"))

        for call in (jobs.get, jobs.cancel, jobs.retry_dead, jobs.drop_dead):
            with pytest.raises(JobNotFound):
                await call(job.id, "b")
        with pytest.raises(JobNotFound):
            await jobs.get("no job id")
        assert (await jobs.get(job.id, "a")).state == JobState.QUEUED
        assert (await jobs.list_jobs(JobQuery(tenant="b"))).jobs == ()


async def test_a_waiting_job_is_cancelled_at_once_and_never_runs(redis):
    scheduler = FakeScheduler()
    async with open_jobs(redis.url) as jobs:
        unwanted = await jobs.submit(number_request(4), JobOptions())
        cancelled = await jobs.cancel(unwanted.id)
        async with open_worker(redis.url, scheduler):
            wanted = await jobs.submit(number_request(5), JobOptions())
            await final(jobs, wanted.id)

        assert cancelled.state == JobState.CANCELLED
        assert isinstance(cancelled.error, Cancelled)
        assert [number_of(request) for request in scheduler.seen] == [5]
    assert await leftovers(redis.url) == ([], 0, 0)


async def test_a_running_job_is_cancelled_at_its_worker(redis):
    scheduler = FakeScheduler(hold=True)
    async with open_jobs(redis.url) as jobs, open_worker(redis.url, scheduler):
        job = await jobs.submit(number_request(4), JobOptions())
        await eventually(lambda: scheduler.waiting, "the job runs")
        asked = await jobs.cancel(job.id)

        assert asked.state == JobState.RUNNING
        assert (await final(jobs, job.id)).state == JobState.CANCELLED
        assert scheduler.waiting == {}


async def test_a_job_whose_deadline_passed_expires_without_running(redis):
    scheduler = FakeScheduler()
    async with open_jobs(redis.url) as jobs:
        job = await jobs.submit(number_request(4), JobOptions(deadline=0.02))
        await clock_reaches(redis.url, job.deadline_ms + 1)
        async with open_worker(redis.url, scheduler):
            expired = await final(jobs, job.id)

        assert expired.state == JobState.EXPIRED
        assert isinstance(expired.error, DeadlineExceeded)
        assert scheduler.seen == []
        with pytest.raises(DeadlineExceeded):
            await jobs.submit(number_request(4), JobOptions(deadline=0.0))


async def test_the_deadline_reaches_the_scheduler_as_what_is_left_of_it(redis):
    scheduler = FakeScheduler()
    async with open_jobs(redis.url) as jobs, open_worker(redis.url, scheduler):
        loop = asyncio.get_running_loop()
        job = await jobs.submit(number_request(4), JobOptions(deadline=30.0))
        await final(jobs, job.id)

        left = scheduler.seen[0].deadline - loop.time()
        assert 25 < left <= 30


async def test_urgent_jobs_go_first(redis):
    scheduler = FakeScheduler()
    async with open_jobs(redis.url) as jobs:
        patient = [await jobs.submit(number_request(n), JobOptions()) for n in range(3)]
        urgent = [await jobs.submit(number_request(10 + n, priority=1), JobOptions()) for n in range(3)]
        async with open_worker(redis.url, scheduler, capacity=2):
            for job in (*patient, *urgent):
                await final(jobs, job.id)

        assert [number_of(request) for request in scheduler.seen] == [10, 11, 12, 0, 1, 2]


async def test_a_wrong_request_fails_at_once_and_is_not_among_the_dead(redis):
    async with open_jobs(redis.url) as jobs, open_worker(redis.url, FakeScheduler()):
        job = await final(jobs, (await jobs.submit(number_request(WRONG), JobOptions())).id)

        assert (job.state, job.attempts, job.dead) == (JobState.FAILED, 1, False)
        assert isinstance(job.error, InvalidValues)
        assert str(job.error) == "number: expected one that can be doubled"


async def test_a_run_that_breaks_is_tried_again_then_dead_then_retried_or_dropped(redis):
    scheduler = FakeScheduler()
    async with open_jobs(redis.url) as jobs, open_worker(redis.url, scheduler):
        job = await final(jobs, (await jobs.submit(number_request(BROKEN), JobOptions())).id)
        (dead,) = (await jobs.list_dead(JobQuery(MODEL))).jobs

        assert (job.state, job.attempts, job.dead) == (JobState.FAILED, 3, True)
        assert isinstance(job.error, InferenceFailed)
        assert job.id == dead.id
        assert len(scheduler.seen) == 3

        again = await jobs.retry_dead(job.id)
        assert (again.state, again.attempts, again.dead) == (JobState.QUEUED, 0, False)
        assert ((twice := await final(jobs, job.id)).state, twice.attempts, twice.dead) == (JobState.FAILED, 3, True)
        assert len(scheduler.seen) == 6

        await jobs.drop_dead(job.id)
        assert (await jobs.list_dead(JobQuery())).jobs == ()
        with pytest.raises(JobNotFound):
            await jobs.get(job.id)
        fine = await jobs.submit(number_request(1), JobOptions())
        with pytest.raises(FailedPrecondition, match="dead letters"):
            await jobs.retry_dead((await final(jobs, fine.id)).id)
    assert await leftovers(redis.url) == ([], 0, 0)


@pytest.mark.parametrize(
    ("limits", "what"),
    [
        (replace(LIMITS, max_depth=2), "2 of at most 2 unfinished jobs"),
        (replace(LIMITS, max_bytes=300), "of at most 300 bytes"),
        (replace(LIMITS, max_age=0.001), "longer than 0 s"),
    ],
    ids=["depth", "bytes", "age"],
)
async def test_every_bound_refuses_with_a_hint(redis, limits, what):
    async with open_jobs(redis.url, limits) as jobs:
        first = await jobs.submit(number_request(1), JobOptions())
        await clock_reaches(redis.url, first.submitted_at_ms + 5)
        with pytest.raises(QueueFull, match=what) as refused:
            await asyncio.gather(*(jobs.submit(number_request(number), JobOptions()) for number in range(5)))

        assert refused.value.retry_after > 0


async def test_lists_page_through_everything_newest_first(redis):
    async with open_jobs(redis.url) as jobs:
        made = await asyncio.gather(*(jobs.submit(number_request(n), JobOptions()) for n in range(25)))
        await jobs.cancel(made[3].id)
        seen, token = [], ""
        while True:
            page = await jobs.list_jobs(JobQuery(page_size=10, page_token=token))
            seen += page.jobs
            if not (token := page.next_page_token):
                break

        assert {job.id for job in made} == {job.id for job in seen}
        assert len(seen) == 25
        assert [job.submitted_at_ms for job in seen] == sorted((j.submitted_at_ms for j in seen), reverse=True)
        assert [made[3].id] == [j.id for j in (await jobs.list_jobs(JobQuery(state=JobState.CANCELLED))).jobs]
        with pytest.raises(InvalidRequest, match="page_token"):
            await jobs.list_jobs(JobQuery(page_token="nonsense"))  # noqa: S106 - not a password


async def test_records_expire_after_their_time_and_leave_the_lists(redis):
    async with open_jobs(redis.url) as jobs, open_worker(redis.url, FakeScheduler()) as running:
        job = await final(jobs, (await jobs.submit(number_request(1), JobOptions(result_ttl=0.05))).id)

        async def gone():
            try:
                await jobs.get(job.id)
            except JobNotFound:
                return True
            return False

        await eventually(gone, "the record expired")
        assert (await jobs.list_jobs(JobQuery())).jobs == ()
        await running.link.execute("DEL", f"tq:{{{MODEL}}}:swept")
        assert await running.link.run("sweep", [f"tq:{{{MODEL}}}:lanes"], [f"tq:{{{MODEL}}}:", 1]) == 0
        assert await running.link.execute("ZCARD", f"tq:{{{MODEL}}}:idx") == 0


async def test_statistics_count_what_happened(redis):
    async with open_jobs(redis.url) as jobs:
        for number in (1, 2, 3):
            await jobs.submit(number_request(number), JobOptions())
        await eventually(lambda: jobs.statistics().lanes and jobs.statistics().lanes[0].depth == 3, "three are seen")
        statistics = jobs.statistics()

        assert statistics.available
        assert statistics.totals[MODEL, "submitted"] == 3
        assert statistics.bytes[MODEL] > 0
        assert statistics.lanes[0].lane == "1:jlo"
