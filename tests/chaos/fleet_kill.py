"""Two frontends and two workers, each killed in turn under load while it holds work, and started again.

    python -m tests.chaos.fleet_kill --seed 7 --seconds 60

Real `sluice serve` processes, a real Redis, callers with the retry policy of docs/operations.md. Every answer is
compared with what ONNX Runtime itself says. Ends with one line: PASS or FAIL, what callers saw. Exit code 0 or 1.
"""

import argparse
import asyncio
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import grpc
import numpy as np
from redis import Redis

from tests import oip as wire
from tests.chaos.harness.callers import Callers, Heard, questions
from tests.chaos.harness.roles import Role, closing
from tests.redis_server import free_port, redis_server, until
from tests.server_process import ROOT

PER_BURST = 24
CALL_TIMEOUT = 10.0
SLOWEST = 6.0
"""Seconds a call may take at most: what a dead worker held is found after 1.7, and a machine may be busy."""
AFTERMATH = 2.5
"""Seconds of load after the last restart, so that what the last kill does is seen."""
PATIENCE = 30.0
PREFIX = "tq:{churn}:"


class Kill(NamedTuple):
    name: str
    at: float
    held: int
    """Requests that it had claimed, or was owed."""

    @property
    def kind(self) -> str:
        return self.name.rstrip("12")


@dataclass
class Verdict:
    kills: list[Kill]
    heard: list[Heard]
    recovered: int
    bursts: int
    complaints: list[str] = field(default_factory=list)

    @property
    def affected(self) -> list[Heard]:
        """Calls that were open at the instant of a kill."""
        return [call for call in self.heard if any(call.sent <= kill.at < call.ended for kill in self.kills)]

    @property
    def kinds(self) -> Counter[str]:
        return Counter(kill.kind for kill in self.kills)

    @property
    def failed(self) -> Counter[str]:
        return Counter(call.code.name for call in self.heard if call.code is not grpc.StatusCode.OK)

    @property
    def wrong(self) -> int:
        return sum(call.code is grpc.StatusCode.OK and not call.right for call in self.heard)

    @property
    def slowest(self) -> float:
        return max(call.seconds for call in self.heard)

    @property
    def good(self) -> bool:
        unharmed = not self.failed and not self.wrong and not self.complaints and self.slowest <= SLOWEST
        return unharmed and len(self.heard) == self.bursts * PER_BURST and len(self.kinds) == 2

    def line(self) -> str:
        affected = self.affected
        calm = [call for call in self.heard if call not in affected]
        said = {
            "calls": len(self.heard),
            "wrong": self.wrong,
            "failed": dict(self.failed) or 0,
            "kills": dict(self.kinds),
            "held_when_killed": sum(kill.held for kill in self.kills),
            "recovered": self.recovered,
            "p50_ms": _ms(calm, 50),
            "p99_ms": _ms(calm, 99),
            "open_at_a_kill": len(affected),
            "their_p50_ms": _ms(affected, 50),
            "their_p99_ms": _ms(affected, 99),
            "slowest_ms": round(1000 * self.slowest),
        }
        words = [f"{name}={value}" for name, value in said.items()]
        return " ".join(["PASS" if self.good else "FAIL", *words, *self.complaints])

    def failures(self) -> Iterator[str]:
        """Yield what the first failed calls were told, and after which kill."""
        failed = [call for call in self.heard if call.code is not grpc.StatusCode.OK]
        for call in failed[:10]:
            last = max((kill for kill in self.kills if kill.at < call.ended), key=lambda kill: kill.at, default=None)
            after = f"{call.ended - last.at:.2f} s after {last.name} was killed" if last else "before any kill"
            yield f"{call.code.name} after {call.seconds:.2f} s, {after}: {call.details}"


def _ms(calls: list[Heard], percent: float) -> float:
    return round(1000 * float(np.percentile([call.seconds for call in calls], percent)), 1) if calls else 0.0


def holding(redis: Redis) -> Callable[[int], int]:
    """Return what counts the requests in Redis that a process has claimed as a worker or is owed as a frontend."""
    lanes = [f"{PREFIX}s:{version}:{kind}" for version in ("", "1", "2") for kind in ("ohi", "olo")]

    def count(pid: int) -> int:
        pipe = redis.pipeline(transaction=False)
        for lane in lanes:
            pipe.xrange(lane)
            pipe.xpending_range(lane, "w", "-", "+", 1000)
        replies = pipe.execute(raise_on_error=False)
        mark = f"-{pid}-".encode()
        owed = sum(mark in fields[b"f"] for entries in replies[::2] for _, fields in entries)
        claimed = sum(mark in row["consumer"] for rows in replies[1::2] if isinstance(rows, list) for row in rows)
        return owed + claimed

    return count


def back_at_work(role: Role) -> bool:
    """Whether a role that was started again has its share of the load: before that, killing another would kill two."""
    counted = "sluice_requests_total" if role.name.startswith("frontend") else "sluice_rows_total"
    return any(name.startswith(counted) and value > 0 for name, value in role.process.scrape().items())


async def disturb(roles: list[Role], seed: int, seconds: float, held: Callable[[int], int]) -> list[Kill]:
    """Kill each in turn, in rounds of another order, until the time is over."""
    rng, end = random.Random(seed), time.monotonic() + seconds
    kills: list[Kill] = []
    while not kills or time.monotonic() < end:
        for role in rng.sample(roles, len(roles)):
            await asyncio.sleep(rng.uniform(0.3, 0.8))
            holding = await asyncio.to_thread(role.freeze_holding, held, 5.0)
            kills.append(Kill(role.name, time.monotonic(), holding))
            await asyncio.to_thread(role.kill)
            await asyncio.sleep(rng.uniform(0.0, 1.0))
            await asyncio.to_thread(role.start)
            await asyncio.to_thread(until, partial(back_at_work, role), PATIENCE, f"{role.name} is used again")
    await asyncio.sleep(AFTERMATH)
    return kills


def fleet(url: str, store: Path) -> list[Role]:
    """Return two frontends and two workers, not started yet."""
    common = ("--queue", url)
    ports = [("--grpc-port", str(free_port())) for _ in (1, 2)]
    fronts = [Role(f"frontend{n}", "--role", "frontend", *ports[n - 1], *common, store=store) for n in (1, 2)]
    return fronts + [Role(f"worker{n}", "--role", "worker", *common, store=store) for n in (1, 2)]


def small_store(directory: Path) -> Path:
    """One small model, so that workers start quickly."""
    shutil.copytree(ROOT / "model_store" / "churn", directory / "store" / "churn")
    return directory / "store"


def served_version(role: Role) -> str:
    """Return the version that answers, once the frontend has heard that a worker has it."""
    versions: list[str] = []

    def answered() -> bool:
        try:
            versions.append(stub.ModelInfer(wire.churn([wire.CUSTOMER])).model_version)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
        return bool(versions)

    with role.process.channel() as channel:
        stub = wire.Stub(channel)
        until(answered, PATIENCE, "the frontend has heard of a worker")
    return versions[0]


async def run(seed: int, seconds: float) -> Verdict:
    with (
        redis_server() as server,
        TemporaryDirectory() as directory,
        Redis(port=server.port) as redis,
        closing(fleet(server.url, small_store(Path(directory)))) as roles,
    ):
        await asyncio.gather(*(asyncio.to_thread(role.start) for role in roles))
        asked = questions(await asyncio.to_thread(served_version, roles[0]))
        callers = Callers([role.process.grpc for role in roles[:2]], PER_BURST, CALL_TIMEOUT)
        stop = asyncio.Event()
        calling = asyncio.create_task(callers.run(asked, stop))
        try:
            kills = await disturb(roles, seed, seconds, holding(redis))
        finally:
            stop.set()
            await calling
        counted = int(redis.hget(f"{PREFIX}n", "online_recovered") or 0)
        left = sum(redis.xlen(key) for key in redis.smembers(f"{PREFIX}lanes"))
    complaints = [f"left_in_lanes={left}"] if left else []
    return Verdict(kills, callers.heard, counted, callers.bursts, complaints)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 16))
    parser.add_argument("--seconds", type=float, default=60.0)
    args = parser.parse_args()
    print(f"seed {args.seed}", flush=True)
    verdict = asyncio.run(run(args.seed, args.seconds))
    print(*verdict.failures(), verdict.line(), sep="\n")
    return 0 if verdict.good else 1


if __name__ == "__main__":
    sys.exit(main())
