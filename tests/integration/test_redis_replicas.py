"""Jobs that replicas must have before they are accepted: a real primary, a real replica, and the primary killed."""

import asyncio
import random
import shutil
import subprocess
import sys
import time
from contextlib import asynccontextmanager

import pytest

from server.assembly import redis_options
from server.errors import QueueUnavailable
from server.jobs import JobOptions, JobQuery, JobState
from server.queues.redis_address import parse_address
from server.queues.redis_bells import RedisBells
from server.queues.redis_checks import RedisUnfit, check_redis
from server.queues.redis_jobs import RedisJobs
from server.queues.redis_link import RedisLink
from server.queues.redis_replicas import WITHIN, RedisReplicas
from server.settings import InvalidSettings, parse
from tests import oip as wire
from tests.chaos.harness.proxy import TcpProxy
from tests.redis_rig import (
    LIMITS,
    MODEL,
    FakeScheduler,
    eventually,
    number_of,
    number_request,
    open_jobs,
    open_link,
    open_worker,
)
from tests.redis_server import DURABLE, redis_server
from tests.server_process import ROOT, serve

pytestmark = pytest.mark.redis


@pytest.fixture
def primary():
    with redis_server() as server:
        yield server


@asynccontextmanager
async def replica_of(port):
    """A replica that has caught up."""
    with redis_server(*DURABLE, "--replicaof", f"127.0.0.1 {port}", "--repl-diskless-sync-delay", "0") as server:
        async with open_link(server.url) as link:
            client = link.client("commands")

            async def caught_up():
                return (await client.info("replication"))["master_link_status"] == "up"

            await eventually(caught_up, "the replica is in step", 20)
        yield server


@asynccontextmanager
async def replicated_jobs(url, patience=2.0):
    async with open_link(url, "frontend", patience) as link:
        bells = RedisBells(link)
        jobs = RedisJobs(link, bells, LIMITS, replicas=1)
        try:
            yield jobs
        finally:
            await jobs.close()
            await bells.close()


@pytest.mark.parametrize("replicas", [1, 0], ids=["waits", "does not wait"])
async def test_an_accepted_job_survives_the_loss_of_the_primary_only_where_the_replica_was_waited_for(
    primary, replicas
):
    """The replica falls silent before the end, so what is not waited for is lost: or this would prove nothing."""
    proxy = TcpProxy(primary.port, random.Random(7))
    accepted = {}
    async with replica_of(await proxy.start()) as replica, open_link(primary.url, "frontend", 0.5) as link:
        bells = RedisBells(link)
        jobs = RedisJobs(link, bells, LIMITS, replicas=replicas)

        async def produce(first):
            for number in range(first, 10_000, 8):
                try:
                    job = await jobs.submit(number_request(number), JobOptions(idempotency_key=str(number)))
                except QueueUnavailable:
                    return
                accepted[job.id] = number

        producing = asyncio.gather(*(produce(first) for first in range(8)))
        await eventually(lambda: len(accepted) >= 100, "some were accepted", 30)
        proxy.mode = "black_hole"
        await eventually(lambda: producing.done() or len(accepted) >= 200, "more came than the replica has", 30)
        primary.kill()
        await producing
        await jobs.close()
        await bells.close()
        await proxy.close()
        assert replica.ask("REPLICAOF", "NO", "ONE") == b"+OK"
        there = [bool(int(replica.ask("EXISTS", f"tq:{{{MODEL}}}:j:{job}")[1:])) for job in accepted]

        if not replicas:
            assert not all(there)
            return
        assert all(there), f"{there.count(False)} of {len(there)} accepted jobs were lost"
        await all_run(replica.url, accepted)


async def all_run(url, accepted):
    async with open_jobs(url) as jobs, open_worker(url, FakeScheduler()) as running:
        await eventually(lambda: running.worker.settled >= len(accepted), "all of them ran", 60)
        done = {job_id: await jobs.get(job_id) for job_id in accepted}

    assert {job.state for job in done.values()} == {JobState.DONE}
    assert {job_id: number_of(job.result) for job_id, job in done.items()} == {k: 2 * n for k, n in accepted.items()}


async def test_too_few_replicas_refuse_within_the_bound_and_a_retry_finds_the_same_job(primary):
    options = JobOptions(idempotency_key="once")
    async with replica_of(primary.port) as replica, replicated_jobs(primary.url) as jobs:
        replica.pause()
        start = time.monotonic()
        with pytest.raises(QueueUnavailable, match=r"expected 1 replicas .* 0 did; it may have been accepted"):
            await jobs.submit(number_request(1), options)
        seconds = time.monotonic() - start
        with pytest.raises(QueueUnavailable):  # the job is there already, and still nowhere else
            await jobs.submit(number_request(1), options)
        replica.resume()
        job = await jobs.submit(number_request(1), options)
        page = await jobs.list_jobs(JobQuery(MODEL))

    assert WITHIN <= seconds < WITHIN + 1.0
    assert [listed.id for listed in page.jobs] == [job.id]


async def test_redis_away_ends_the_wait_for_replicas_at_once(primary):
    async with replica_of(primary.port) as replica, replicated_jobs(primary.url, patience=0.12) as jobs:
        replica.pause()
        submitting = asyncio.create_task(jobs.submit(number_request(1), JobOptions()))
        await eventually(lambda: jobs._replicas._asked, "it waits for the replica")
        primary.pause()
        start = time.monotonic()
        with pytest.raises(QueueUnavailable, match="cannot be reached"):
            await submitting
        seconds = time.monotonic() - start
        primary.resume()

    assert seconds < 0.5


async def test_nobody_vouches_for_a_job_that_a_failover_lost(primary):
    """As when the connection was made again, to a promoted replica that lacked the tail."""
    async with replica_of(primary.port), open_link(primary.url) as link:
        replicas = RedisReplicas(link, 1)
        await link.execute("SET", "tq:here", 1)
        await replicas.keep("tq:here")
        with pytest.raises(QueueUnavailable):
            await replicas.keep("tq:nowhere")
        await replicas.close()


async def test_an_acl_without_wait_is_refused_only_where_wait_is_used(primary):
    assert primary.ask("ACL", "SETUSER", "worker", "on", ">sesame", "~tq:*", "&tq:*", "+@all", "-wait") == b"+OK"
    address = parse_address(f"redis://worker@127.0.0.1:{primary.port}/0").with_password("sesame")
    link = RedisLink(address, "test")
    await link.open()
    with pytest.raises(RedisUnfit, match=r"got no wait$"):
        await check_redis(link, allow_volatile=False, waits=True)
    assert (await check_redis(link, allow_volatile=False)).durable
    await link.close()


def test_a_cluster_is_refused():
    settings = parse({"queue": "redis+cluster://a:1,b:2", "job_replicas": "1"}, {})

    with pytest.raises(InvalidSettings, match=r"--job-replicas: expected a primary with replicas .* got a cluster"):
        redis_options(settings)


def test_a_server_that_was_told_to_wait_says_what_is_missing(primary, tmp_path):
    shutil.copytree(ROOT / "model_store" / "churn", tmp_path / "store" / "churn")
    body = tmp_path / "body"
    body.write_bytes(wire.churn([wire.CUSTOMER]).SerializeToString())
    with serve("--queue", primary.url, "--job-replicas", "1", store=tmp_path / "store") as server:
        command = ["jobs", "submit", "churn", "--body", str(body), "--server", server.grpc]
        done = subprocess.run([sys.executable, "-m", "server", *command], cwd=ROOT, capture_output=True, text=True)

    assert done.returncode == 1
    assert "expected 1 replicas to have the job within 1 s, 0 did" in done.stderr
