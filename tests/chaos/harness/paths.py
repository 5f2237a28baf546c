"""The ways a request can take, ready to be measured side by side."""

import asyncio
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
from redis import Redis

from bench.bodies import body
from server.load.generator import OK, Generator
from server.queues.envelope import encode_request
from server.queues.redis_address import parse_address
from server.queues.redis_bells import RedisBells
from server.queues.redis_link import RedisLink
from server.queues.redis_queue import OnlineBounds, RedisQueue
from server.queues.redis_registry import RedisRegistry
from tests.chaos.harness.closed_loop import ClosedLoop, Loop
from tests.chaos.harness.echo import memory_queue
from tests.chaos.harness.fleet import ROOT
from tests.redis_rig import MODEL, eventually, number_request
from tests.redis_server import redis_server
from tests.server_process import serve

INFER = "/inference.GRPCInferenceService/ModelInfer"
PIPELINE = 64

Run = Callable[[int], Loop]
"""Measures with so many requests in flight."""


@dataclass
class Paths:
    runs: dict[str, Run]
    loads: tuple[int, ...]

    def side_by_side(self, rounds: int) -> dict[int, dict[str, list[Loop]]]:
        """Measure each path at each load in turn, round after round; by load and path."""
        loops: dict[int, dict[str, list[Loop]]] = {load: {name: [] for name in self.runs} for load in self.loads}
        for _ in range(rounds):
            for load in self.loads:
                for name, run in self.runs.items():
                    loops[load][name].append(run(load))
        return loops


class Cpu:
    """CPU time of processes, this one included if asked for."""

    def __init__(self, *pids: int) -> None:
        roots = [psutil.Process(pid) for pid in pids]
        self._all = [process for root in roots for process in (root, *root.children(recursive=True))]

    def seconds(self) -> float:
        return sum(sum(process.cpu_times()[:2]) for process in self._all)

    def charge(self, run: Callable[[], Loop]) -> Loop:
        """Run, and divide what was used by what was done."""
        before = self.seconds()
        loop = run()
        return Loop(loop.rate, loop.times, loop.failed, 1e6 * (self.seconds() - before) / max(len(loop.times), 1))


@asynccontextmanager
async def queue_alone(seconds: float, in_flight: int) -> AsyncIterator[Paths]:
    """This process is the frontend; the worker is one of its own, and so is Redis."""
    async with AsyncExitStack() as stack:
        server = stack.enter_context(redis_server())
        command = [sys.executable, "-m", "tests.chaos.harness.echo", server.url, str(2 * in_flight)]
        worker = await asyncio.to_thread(subprocess.Popen, command, cwd=ROOT)
        stack.callback(worker.wait)
        stack.callback(worker.kill)
        queue = await stack.enter_async_context(_frontend(server.url))
        memory = memory_queue()
        mine, all_three = Cpu(psutil.Process().pid), Cpu(psutil.Process().pid, worker.pid, server.process.pid)
        redis = stack.enter_context(Redis(port=server.port))
        runs: dict[str, Run] = {
            "queue alone, in memory": lambda load: mine.charge(lambda: ClosedLoop(memory, load).run(seconds)),
            "queue alone, Redis": lambda load: all_three.charge(lambda: ClosedLoop(queue, load).run(seconds)),
            "bare Redis": lambda load: all_three.charge(lambda: bare(redis, min(load, PIPELINE), seconds)),
        }
        yield Paths(runs, (1, in_flight))


@asynccontextmanager
async def _frontend(url: str) -> AsyncIterator[RedisQueue]:
    link = RedisLink(parse_address(url), "frontend")
    await link.open()
    bells = RedisBells(link)
    registry = RedisRegistry(link, bells)
    queue = RedisQueue(link, registry, OnlineBounds(10_000, 10_000, 1 << 30))
    await queue.open("frontend")
    await eventually(lambda: (MODEL, "1") in registry.served(), "the worker announced itself", 30)
    try:
        yield queue
    finally:
        await queue.close()
        await bells.close()
        await link.close()


def bare(redis: Redis, batch: int, seconds: float) -> Loop:
    """Carry the same bytes with nothing around them: pipelines of `batch` XADD, then XREADGROUP, then XACK and XDEL."""
    payload = encode_request(number_request(1))
    if not redis.exists("bare"):
        redis.xgroup_create("bare", "g", "0", mkstream=True)
    times: list[float] = []
    start = time.monotonic()
    while (began := time.monotonic()) < start + seconds:
        adding = redis.pipeline(transaction=False)
        for _ in range(batch):
            adding.xadd("bare", {"b": payload})
        adding.execute()
        ((_, entries),) = redis.xreadgroup("g", "c", {"bare": ">"}, count=batch)
        ids = [entry for entry, _ in entries]
        ending = redis.pipeline(transaction=False)
        ending.xack("bare", "g", *ids).xdel("bare", *ids)
        ending.execute()
        times += [time.monotonic() - began] * batch
    return Loop(len(times) / (time.monotonic() - start), times, 0)


@asynccontextmanager
async def end_to_end(seconds: float, in_flight: int) -> AsyncIterator[Paths]:
    """Real servers: one that is everything, and a frontend and a worker with Redis between them."""
    with ExitStack() as stack:
        store = Path(stack.enter_context(TemporaryDirectory()))
        await asyncio.to_thread(shutil.copytree, ROOT / "model_store" / "churn", store / "churn")
        redis = stack.enter_context(redis_server())
        start = lambda *flags: asyncio.to_thread(stack.enter_context, serve(*flags, store=store))  # noqa: E731
        whole = await start()
        worker = await start("--role", "worker", "--queue", redis.url)
        front = await start("--role", "frontend", "--queue", redis.url)
        one = Cpu(whole.process.pid)
        three = Cpu(front.process.pid, worker.process.pid, redis.process.pid)
        runs: dict[str, Run] = {
            "end to end, in memory": lambda load: one.charge(partial(generate, whole.grpc, load, seconds)),
            "end to end, Redis": lambda load: three.charge(partial(generate, front.grpc, load, seconds)),
        }
        for run in runs.values():
            await asyncio.to_thread(run, in_flight)  # the first second of a server is not its usual one
        yield Paths(runs, (1, in_flight))


def generate(address: str, load: int, seconds: float) -> Loop:
    """Return what a client saw with so many calls in flight."""
    generator = Generator(address, INFER, body("churn"), connections=min(load, 4))
    try:
        outcome = generator.closed_loop(load, seconds)
    finally:
        generator.close()
    failed = sum(count for code, count in outcome.codes.items() if code != OK)
    return Loop(len(outcome.latencies) / outcome.seconds, outcome.latencies, failed)
