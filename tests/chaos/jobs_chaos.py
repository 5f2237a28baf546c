"""Durable jobs while workers are killed at random, some jobs kill their worker, and Redis itself is killed.

    python -m tests.chaos.jobs_chaos --seed 7 --jobs 20000 --workers 3

Ends with one line: PASS or FAIL, what was acknowledged, lost, wrong, left over. Exit code 0 or 1.
"""

import argparse
import asyncio
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from server.errors import QueueUnavailable, ServingError
from server.jobs import JobOptions
from server.messages import InferRequest
from server.queues.redis_jobs import RedisJobs
from tests.chaos.harness.fleet import Fleet
from tests.chaos.harness.history import Verdict, judge
from tests.chaos.harness.plan import LIMITS
from tests.redis_rig import POISON, number_request, open_jobs
from tests.redis_server import RedisServer, redis_server

PRODUCERS = 32


@dataclass(frozen=True)
class Plan:
    seed: int
    jobs: int
    workers: int
    poison: int = 5
    redis_kills: int = 2
    kill_every: float = 0.5
    patience: float = 600.0
    """Seconds after which what has not ended counts as lost."""


async def produce(jobs: RedisJobs, plan: Plan, acknowledged: dict[str, int]) -> None:
    """Submit everything, each with its key, again and again until it is acknowledged."""
    rng = random.Random(plan.seed)
    numbers = list(range(plan.jobs)) + [POISON] * plan.poison
    rng.shuffle(numbers)
    work = iter(list(enumerate(numbers)))

    async def producer() -> None:
        for place, number in work:
            request = number_request(number, id=f"{number}.{place}", priority=int(place % 10 == 0))
            options = JobOptions(idempotency_key=f"job-{place}")
            acknowledged[await submit_until_acknowledged(jobs, request, options, rng)] = number

    await asyncio.gather(*(producer() for _ in range(PRODUCERS)))


async def submit_until_acknowledged(
    jobs: RedisJobs, request: InferRequest, options: JobOptions, rng: random.Random
) -> str:
    """Do what a client should: repeat with the same key while Redis is away. Return the job's id."""
    while True:
        try:
            return (await jobs.submit(request, options)).id
        except QueueUnavailable as error:
            await asyncio.sleep((error.retry_after or 0.1) * rng.uniform(0.1, 0.3))


async def disturb(fleet: Fleet, server: RedisServer, plan: Plan, acknowledged: dict[str, int]) -> None:
    """Kill workers by the clock, and Redis when a third and two thirds of the jobs were acknowledged."""
    rng = random.Random(plan.seed + 1)
    marks = [plan.jobs * (i + 1) // (plan.redis_kills + 1) for i in range(plan.redis_kills)]
    while True:
        await asyncio.sleep(plan.kill_every)
        fleet.kill_one(rng)
        fleet.replace_dead()
        if marks and len(acknowledged) >= marks[0]:
            marks.pop(0)
            await asyncio.to_thread(lambda: (server.kill(), server.start()))
            server.kills += 1


async def until_all_ended(jobs: RedisJobs, acknowledged: dict[str, int], patience: float) -> float:
    """Wait for every job; return the seconds it took."""
    start, left = time.monotonic(), set(acknowledged)
    while left and time.monotonic() - start < patience:
        for job_id in list(left):
            try:
                if (await jobs.get(job_id)).state.final:
                    left.discard(job_id)
                elif len(left) > 100:
                    await asyncio.sleep(0.2)
                    break
            except ServingError:
                await asyncio.sleep(0.2)
    return time.monotonic() - start


async def run(plan: Plan) -> Verdict:
    with redis_server() as server, TemporaryDirectory() as directory:
        async with open_jobs(server.url, LIMITS) as jobs:
            fleet = Fleet(server.url, plan.workers, Path(directory))
            acknowledged: dict[str, int] = {}
            disturbing = asyncio.create_task(disturb(fleet, server, plan, acknowledged))
            start = time.monotonic()
            try:
                await produce(jobs, plan, acknowledged)
                await until_all_ended(jobs, acknowledged, plan.patience)
                seconds = time.monotonic() - start
                disturbing.cancel()
                await asyncio.gather(disturbing, return_exceptions=True)
                verdict = await judge(jobs, acknowledged, fleet, server.url)
            finally:
                disturbing.cancel()
                await asyncio.gather(disturbing, return_exceptions=True)
                await asyncio.to_thread(fleet.stop)
            if verdict.tracebacks:
                print(fleet.complaints()[:4000])
    verdict.notes |= {
        "redis_kills": server.kills,
        "seconds": round(seconds, 1),
        "jobs_per_second": round(len(acknowledged) / seconds),
    }
    return verdict


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 16))
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--poison", type=int, default=5)
    args = parser.parse_args()
    print(f"seed {args.seed}", flush=True)
    verdict = asyncio.run(run(Plan(args.seed, args.jobs, args.workers, args.poison)))
    print(verdict.line())
    return 0 if verdict.good else 1


if __name__ == "__main__":
    sys.exit(main())
