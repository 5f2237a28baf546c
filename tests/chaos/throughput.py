"""What the Redis path costs: requests per second and latency, beside bare Redis.

    python -m tests.chaos.throughput --seconds 5 --in-flight 256

One frontend (this process), one worker process whose model answers at once, one redis-server with AOF. Closed loop:
the stated number is always under way. The figures are of the queue alone; no transport and no session take part.
"""

import argparse
import asyncio
import statistics
import subprocess
import sys
import threading
import time
from contextlib import asynccontextmanager

from server.messages import InferRequest, Reply
from server.queues.gate import Gate
from server.queues.redis_address import parse_address
from server.queues.redis_bells import RedisBells
from server.queues.redis_claims import RedisMember
from server.queues.redis_link import RedisLink
from server.queues.redis_online_claims import RedisOnlineClaims
from server.queues.redis_queue import OnlineBounds, RedisQueue
from server.queues.redis_registry import RedisRegistry
from server.worker import Worker
from tests.chaos.harness.fleet import ROOT
from tests.redis_rig import MODEL, FakeTicket, double, eventually, number_request
from tests.redis_server import redis_server


def answer_at_once(request: InferRequest, reply: Reply) -> FakeTicket:
    """The in-process path with nothing in it."""
    reply(double(request))
    return FakeTicket(lambda: None)


async def work(url: str, capacity: int) -> None:
    """The worker process's whole life."""
    link = RedisLink(parse_address(url), "worker")
    await link.open()
    bells = RedisBells(link)
    member = RedisMember(link, "worker", heartbeat=1.0)
    await member.beat()
    claims = RedisOnlineClaims(link, bells, member, MODEL, ("1", ""), lease=30.0)
    await RedisRegistry(link, bells).announce(MODEL, "1", "worker", ttl=3600.0)
    worker = Worker([claims], answer_at_once, beat=member.beat, heartbeat=1.0, capacity=capacity, gate=Gate())
    await worker.run()


class ClosedLoop:
    """Keeps a number of requests under way from the threads that answer, as a transport does."""

    def __init__(self, submit, in_flight: int) -> None:
        self.times: list[float] = []
        self.failed = 0
        self._submit = submit
        self._in_flight = in_flight
        self._stop = False
        self._left = in_flight
        self._over = threading.Event()

    def run(self, seconds: float) -> float:
        """Return requests per second."""
        start = time.monotonic()
        for number in range(self._in_flight):
            self._next(number)
        time.sleep(seconds)
        self._stop = True
        self._over.wait(10)
        return len(self.times) / (time.monotonic() - start)

    def _next(self, number: int) -> None:
        sent = time.monotonic()

        def heard(outcome) -> None:
            self.times.append(time.monotonic() - sent)
            self.failed += isinstance(outcome, Exception)
            if self._stop:
                self._left -= 1
                if not self._left:
                    self._over.set()
            else:
                self._next(number)

        self._submit(number_request(number), heard)

    def percentile(self, part: float) -> float:
        return 1000 * statistics.quantiles(self.times, n=1000)[int(part * 1000) - 1]


@asynccontextmanager
async def frontend(url: str):
    link = RedisLink(parse_address(url), "frontend")
    await link.open()
    bells = RedisBells(link)
    queue = RedisQueue(link, RedisRegistry(link, bells), OnlineBounds(10_000, 10_000, 1 << 30))
    await queue.open("frontend")
    await eventually(lambda: (MODEL, "1") in queue._registry.served(), "the worker announced itself", 30)
    try:
        yield queue
    finally:
        await queue.close()
        await bells.close()
        await link.close()


async def bare(url: str, seconds: float, batch: int) -> float:
    """Return XADD + XREADGROUP + XACK + XDEL per second, pipelined in batches by one client."""
    link = RedisLink(parse_address(url), "bare")
    client = link.client("commands")
    await client.xgroup_create("bare", "g", "0", mkstream=True)
    done, start = 0, time.monotonic()
    while time.monotonic() - start < seconds:
        pipe = client.pipeline(transaction=False)
        for _ in range(batch):
            pipe.xadd("bare", {"b": b"x" * 200})
        pipe.xreadgroup("g", "c", {"bare": ">"}, count=batch)
        ids = (await pipe.execute())[:batch]
        pipe = client.pipeline(transaction=False)
        pipe.xack("bare", "g", *ids)
        pipe.xdel("bare", *ids)
        await pipe.execute()
        done += batch
    await link.close()
    return done / (time.monotonic() - start)


async def measure(seconds: float, in_flight: int) -> None:
    with redis_server() as server:
        command = [
            sys.executable,
            "-m",
            "tests.chaos.throughput",
            "--worker",
            server.url,
            "--in-flight",
            str(in_flight),
        ]
        worker = await asyncio.to_thread(subprocess.Popen, command, cwd=ROOT)
        try:
            print(f"bare Redis, batches of 64: {await bare(server.url, seconds / 2, 64):,.0f}/s")
            async with frontend(server.url) as queue:
                for number in (1, 8, in_flight):
                    loop = ClosedLoop(queue.submit, number)
                    rate = await asyncio.to_thread(loop.run, seconds)
                    print(f"through Redis, {number:4} in flight: {rate:8,.0f}/s  p50 {loop.percentile(0.5):.2f} ms  "
                          f"p99 {loop.percentile(0.99):.2f} ms  failed {loop.failed}", flush=True)  # fmt: skip
        finally:
            worker.kill()
            worker.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--in-flight", type=int, default=256)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        asyncio.run(work(args.worker, 2 * args.in_flight))
    else:
        asyncio.run(measure(args.seconds, args.in_flight))
    return 0


if __name__ == "__main__":
    sys.exit(main())
