"""The same scheduler and the same instance that answers at once, in this process or in a worker process behind Redis.

    python -m tests.chaos.harness.echo redis://127.0.0.1:6379/0 512        the worker process

What is left when both are taken away is what the way to them costs.
"""

import asyncio
import queue
import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial

from server.admission import Limits
from server.alarm import ThreadAlarm
from server.queues.gate import Gate
from server.queues.memory import MemoryQueue
from server.queues.redis_address import parse_address
from server.queues.redis_bells import RedisBells
from server.queues.redis_claims import RedisMember
from server.queues.redis_link import RedisLink
from server.queues.redis_online_claims import RedisOnlineClaims
from server.queues.redis_registry import RedisRegistry
from server.scheduler import Scheduler
from server.sessions.base import BatchDone, BatchOutputs, CostPoint, Part
from server.spec import BatchPolicy, ModelConfig, ModelSpec, TensorSpec
from server.worker import Worker
from tests.redis_rig import MODEL

BATCH = 64
LIMITS = Limits(max_requests=10_000, max_rows=100_000, max_bytes=1 << 30, max_deadline=60.0, run_timeout=60.0)
NUMBER = TensorSpec("number", "INT64", (-1, 1))
SPEC = ModelSpec(
    MODEL, "1", "echo", (NUMBER,), (NUMBER,), BATCH, ModelConfig(MODEL, batching=BatchPolicy(enabled=True))
)


class EchoInstance:
    """Gives every part back on a thread of its own, as an instance in a child process would."""

    name = "echo"
    restarts = 0
    available = True

    def __init__(self) -> None:
        self._runs: queue.SimpleQueue[tuple[Sequence[Part], BatchDone] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def run(self, parts: Sequence[Part], timeout: float, done: BatchDone) -> None:
        self._runs.put((parts, done))

    def terminate(self) -> None:
        """A run ends at once anyway."""

    def read_by(self, add_reader):
        pass

    def on_available(self, callback: Callable[[], None]) -> None:
        """It never dies."""

    def close(self, grace: float) -> None:
        self._runs.put(None)
        self._thread.join(grace)

    def _work(self) -> None:
        while (run := self._runs.get()) is not None:
            parts, done = run
            done(BatchOutputs([part.inputs for part in parts], 0.0, 0.0, 0.0))


def scheduler() -> Scheduler:
    """Return a scheduler before one echo; it lives as long as the process."""
    costs = [CostPoint(1, 1e-5), CostPoint(BATCH, 1e-4)]
    return Scheduler(SPEC, [EchoInstance()], costs, alarm=ThreadAlarm(), limits=LIMITS)


def memory_queue() -> MemoryQueue:
    """Return the in-process path."""
    target = scheduler()
    return MemoryQueue(lambda name, version: target, lambda: [target])


async def work(url: str, capacity: int) -> None:
    """The worker process's whole life."""
    link = RedisLink(parse_address(url), "worker")
    await link.open()
    bells = RedisBells(link)
    member = RedisMember(link, "worker", heartbeat=0.5)
    await member.beat()
    claims = RedisOnlineClaims(link, bells, member, MODEL, ("1",), lease=30.0)
    await RedisRegistry(link, bells).announce(MODEL, "1", "worker", ttl=3600.0)
    submit = partial(Scheduler.submit, scheduler())
    await Worker([claims], submit, beat=member.beat, heartbeat=0.5, capacity=capacity, gate=Gate()).run()


if __name__ == "__main__":
    asyncio.run(work(sys.argv[1], int(sys.argv[2])))
