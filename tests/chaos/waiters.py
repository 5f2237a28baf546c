"""Thousands of waiters on one frontend: how many connections they cost, and that each hears its own result.

    python -m tests.chaos.waiters --waiters 2000

Half-way through, Redis drops the subscription; nobody may miss a result for that. Ends with one line and exit code.
"""

import argparse
import asyncio
import sys
import time

from server.jobs import JobOptions, JobState
from tests.redis_rig import FakeScheduler, eventually, number_of, number_request, open_jobs, open_link, open_worker
from tests.redis_server import redis_server

MOST_CONNECTIONS = 4


async def connections(url: str, name: str) -> int:
    async with open_link(url, "counter") as link:
        lines = (await link.execute("CLIENT", "LIST")).decode().splitlines()
    return sum(f" name={name}" in line for line in lines)


async def run(waiters: int) -> tuple[bool, str]:
    with redis_server() as server:
        async with open_jobs(server.url) as jobs:
            made = await asyncio.gather(*(jobs.submit(number_request(n), JobOptions()) for n in range(waiters)))
            heard: dict[str, int] = {}

            async def wait(job_id: str) -> None:
                async for job in jobs.wait(job_id):
                    if job.state is JobState.DONE:
                        heard[job_id] = number_of(job.result)

            waiting = [asyncio.create_task(wait(job.id)) for job in made]
            start = time.monotonic()
            async with open_worker(server.url, FakeScheduler(), capacity=64) as running:
                await eventually(lambda: running.worker.settled >= waiters / 2, "half of them are done", 60)
                most = await connections(server.url, "frontend")
                async with open_link(server.url) as link:
                    await link.execute("CLIENT", "KILL", "TYPE", "pubsub")
                async with asyncio.timeout(60):
                    await asyncio.gather(*waiting)
                most = max(most, await connections(server.url, "frontend"))
            seconds = time.monotonic() - start
    wrong = sum(heard.get(job.id) != 2 * number for number, job in enumerate(made))
    good = wrong == 0 and most <= MOST_CONNECTIONS
    text = f"waiters={waiters} wrong={wrong} connections={most} seconds={seconds:.1f}"
    return good, f"{'PASS' if good else 'FAIL'} {text} results_per_second={waiters / seconds:.0f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--waiters", type=int, default=2000)
    good, line = asyncio.run(run(parser.parse_args().waiters))
    print(line)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
