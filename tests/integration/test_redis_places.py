"""Every kind of place a Redis can be, each a real one: TLS, a socket, a cluster of three, a master that fails over."""

import asyncio
import subprocess
from contextlib import ExitStack, contextmanager
from queue import Queue

import pytest

from server.answers import content_key
from server.errors import QueueUnavailable
from server.jobs import JobOptions, JobState
from server.queues.redis_address import parse_address
from server.queues.redis_cache import RedisCache
from tests.redis_rig import FakeScheduler, eventually, number_of, number_request, open_jobs, open_worker
from tests.redis_server import DURABLE, RedisServer, free_port, require_redis, until
from tests.unit.simulation import spec

pytestmark = pytest.mark.redis


@contextmanager
def running(directory, *flags):
    require_redis()
    directory.mkdir(exist_ok=True)
    server = RedisServer(directory, *flags)
    try:
        yield server.start()
    finally:
        server.kill()


async def does_jobs(url, count=20):
    """Run jobs through `url`, workers, doorbells and all, and check every result."""
    async with open_jobs(url) as jobs, open_worker(url, FakeScheduler()):
        made = [await jobs.submit(number_request(n), JobOptions()) for n in range(count)]
        results = [await result(jobs, job.id) for job in made]

    assert [2 * n for n in range(count)] == results
    await asyncio.to_thread(shares_answers, url)


def shares_answers(url):
    """Tell the shared cache something there and hear it again."""
    cache, outputs = RedisCache(parse_address(url), ttl=60, patience=20), number_request(7).inputs
    cache.start()
    try:
        until(lambda: cache.statistics().available, 20, "the cache reaches Redis")
        shelf, heard = cache.shelf(spec(), "digest"), Queue()
        shelf.put(content_key(number_request(1)), outputs)
        until(lambda: cache.statistics().counts.get(("put", "stored")) == 1, 20, "the answer is there")
        assert shelf.fetch(content_key(number_request(1)), heard.put)
        assert heard.get(timeout=20) == outputs
    finally:
        cache.close()


async def result(jobs, job_id):
    async with asyncio.timeout(20):
        async for job in jobs.wait(job_id):
            if job.state is JobState.DONE:
                return number_of(job.result)
    raise AssertionError("it did not end well")


async def test_a_unix_socket(tmp_path):
    with running(tmp_path, *DURABLE, "--unixsocket", str(tmp_path / "redis.sock")):
        await does_jobs(f"unix://{tmp_path}/redis.sock?db=1")


async def test_a_password_and_another_database(tmp_path):
    with running(tmp_path, *DURABLE, "--requirepass", "sesame") as server:
        await does_jobs(f"redis://:sesame@127.0.0.1:{server.port}/3")


def make_certificate(directory):
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run([*command, *names, *files], cwd=directory, check=True, capture_output=True)


async def test_tls_works_and_a_certificate_of_somebody_else_is_not_trusted(tmp_path):
    require_redis()
    make_certificate(tmp_path)
    (tmp_path / "other").mkdir()
    make_certificate(tmp_path / "other")
    port = str(free_port())
    files = ("--tls-cert-file", f"{tmp_path}/cert.pem", "--tls-key-file", f"{tmp_path}/key.pem")
    with running(tmp_path, *DURABLE, "--tls-port", port, *files, "--tls-auth-clients", "no"):
        await does_jobs(f"rediss://localhost:{port}/0?ca={tmp_path}/cert.pem")
        async with open_jobs(f"rediss://localhost:{port}/0?ca={tmp_path}/other/cert.pem") as jobs:
            with pytest.raises(QueueUnavailable):
                await jobs.submit(number_request(1), JobOptions())


async def test_a_cluster_of_three(tmp_path):
    shares = (("0", "5460"), ("5461", "10922"), ("10923", "16383"))
    with ExitStack() as stack:
        nodes = [
            stack.enter_context(
                running(tmp_path / str(n), *DURABLE, "--cluster-enabled", "yes", "--cluster-port", str(free_port()))
            )
            for n in range(3)
        ]
        for node, share in zip(nodes, shares, strict=True):
            assert node.ask("CLUSTER", "ADDSLOTSRANGE", *share) == b"+OK"
        for node in nodes[1:]:
            bus = node.flags[node.flags.index("--cluster-port") + 1]
            assert nodes[0].ask("CLUSTER", "MEET", "127.0.0.1", str(node.port), bus) == b"+OK"
        await eventually(lambda: all(b"cluster_state:ok" in formed(node) for node in nodes), "it is formed", 30)
        await does_jobs("redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes))


def formed(node):
    answer = subprocess.run(["redis-cli", "-p", str(node.port), "CLUSTER", "INFO"], capture_output=True, check=True)
    return answer.stdout if b"cluster_known_nodes:3" in answer.stdout else b""


async def test_a_master_found_by_a_sentinel_and_replaced_when_it_dies(tmp_path):
    with ExitStack() as stack:
        master = stack.enter_context(running(tmp_path / "master", *DURABLE))
        replica = stack.enter_context(
            running(tmp_path / "replica", *DURABLE, "--replicaof", f"127.0.0.1 {master.port}")
        )
        await eventually(lambda: synchronised(replica), "the replica has everything", 30)
        (tmp_path / "sentinel.conf").write_text(
            f"sentinel monitor main 127.0.0.1 {master.port} 1\n"
            "sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 5000\n"
        )
        sentinel = stack.enter_context(sentinel_at(tmp_path / "sentinel.conf"))
        url = f"redis+sentinel://127.0.0.1:{sentinel.port}/main/0"
        async with open_jobs(url) as jobs, open_worker(url, FakeScheduler()):
            before = await jobs.submit(number_request(1), JobOptions())
            assert await result(jobs, before.id) == 2
            await eventually(lambda: knows(sentinel), "it knows both", 30)
            master.kill()
            after = await submitted_again(jobs)

            assert await result(jobs, after.id) == 4
        assert b"role:master" in asked(replica, "INFO", "replication")


async def submitted_again(jobs):
    async with asyncio.timeout(60):
        while True:
            try:
                return await jobs.submit(number_request(2), JobOptions("again"))
            except QueueUnavailable:
                await asyncio.sleep(0.05)


@contextmanager
def sentinel_at(config):
    server = RedisServer(config.parent, str(config))
    server.process = subprocess.Popen(
        ["redis-server", str(config), "--sentinel", "--port", str(server.port), "--bind", "127.0.0.1"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield server
    finally:
        server.kill()


def asked(server, *command):
    answer = subprocess.run(["redis-cli", "-p", str(server.port), *command], capture_output=True)
    return answer.stdout


def knows(sentinel):
    return b"slaves=1" in asked(sentinel, "INFO", "sentinel")


def synchronised(replica):
    return b"master_link_status:up" in asked(replica, "INFO", "replication")
