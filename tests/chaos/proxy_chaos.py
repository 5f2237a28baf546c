"""Durable jobs while a TCP proxy in front of Redis cuts, delays, slices, swallows replies and plays dead.

    python -m tests.chaos.proxy_chaos --seed 7 --seconds 60 --workers 3

Ends with one line: PASS or FAIL, what was acknowledged, lost, wrong, left over. Exit code 0 or 1.
"""

import argparse
import asyncio
import random
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from server.jobs import JobOptions
from tests.chaos.harness.fleet import Fleet
from tests.chaos.harness.history import Verdict, judge
from tests.chaos.harness.plan import LIMITS
from tests.chaos.harness.proxy import TcpProxy
from tests.chaos.jobs_chaos import submit_until_acknowledged, until_all_ended
from tests.redis_rig import number_request, open_jobs
from tests.redis_server import redis_server

FAULTS = {"ok": 1.0, "drop_replies": 1.5, "delay": 1.5, "slices": 1.0, "black_hole": 0.7, "cut": 0.3}
"""How long each lasts at most."""
PRODUCERS = 8
PER_SECOND = 200.0


async def disturb(proxy: TcpProxy, rng: random.Random, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        mode = rng.choice(sorted(FAULTS))
        proxy.mode = "ok" if mode == "cut" else mode
        if mode == "cut":
            proxy.cut()
        await asyncio.sleep(rng.uniform(0.1, FAULTS[mode]))
        if mode == "black_hole":
            proxy.cut()  # what was swallowed never arrives, so the connection cannot go on
    proxy.mode = "ok"
    proxy.cut()


async def run(seed: int, seconds: float, workers: int) -> Verdict:
    rng = random.Random(seed)
    with redis_server() as server, TemporaryDirectory() as directory:
        proxy = TcpProxy(server.port, rng)
        url = f"redis://127.0.0.1:{await proxy.start()}/0"
        acknowledged: dict[str, int] = {}
        async with open_jobs(url, LIMITS) as jobs, open_jobs(server.url, LIMITS) as direct:
            fleet = Fleet(url, workers, Path(directory))
            try:
                disturbing = asyncio.create_task(disturb(proxy, rng, seconds))

                async def producer(first: int) -> None:
                    number = first
                    while not disturbing.done():
                        request = number_request(number, id=f"{number}.0")
                        options = JobOptions(idempotency_key=f"job-{number}")
                        acknowledged[await submit_until_acknowledged(jobs, request, options, rng)] = number
                        number += PRODUCERS
                        await asyncio.sleep(PRODUCERS / PER_SECOND)

                await asyncio.gather(disturbing, *(producer(first) for first in range(PRODUCERS)))
                await until_all_ended(direct, acknowledged, 120.0)
                verdict = await judge(direct, acknowledged, fleet, server.url)
            finally:
                await asyncio.to_thread(fleet.stop)
        await proxy.close()
        if verdict.tracebacks:
            print(fleet.complaints()[:4000])
    verdict.notes["faults"] = proxy.faults
    return verdict


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 16))
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--workers", type=int, default=3)
    args = parser.parse_args()
    print(f"seed {args.seed}", flush=True)
    verdict = asyncio.run(run(args.seed, args.seconds, args.workers))
    print(verdict.line())
    return 0 if verdict.good else 1


if __name__ == "__main__":
    sys.exit(main())
