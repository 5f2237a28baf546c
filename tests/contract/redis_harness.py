"""The Redis queue under the contract: a frontend's and a worker's end on one loop, a real server, real time."""

import asyncio
import atexit
import itertools
import threading
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from server.errors import InvalidValues
from server.messages import NO_DEADLINE, InferResponse, Tensor, Timing
from server.queues.gate import Gate
from server.queues.redis_bells import RedisBells
from server.queues.redis_claims import RedisMember
from server.queues.redis_online_claims import RedisOnlineClaims
from server.queues.redis_queue import OnlineBounds, RedisQueue
from server.queues.redis_registry import RedisRegistry
from server.worker import Worker
from tests.redis_rig import eventually, open_link
from tests.redis_server import RedisServer, require_redis
from tests.unit.simulation import request

WAIT = 20.0


@cache
def shared_server() -> RedisServer:
    """One server for all contract tests of this process; every harness starts from an empty one."""
    require_redis()
    directory = TemporaryDirectory(prefix="sluice-contract-")
    server = RedisServer(Path(directory.name)).start()
    atexit.register(directory.cleanup)
    atexit.register(server.kill)  # last in, first out: the server ends before its files do
    return server


class OneInstance:
    """Stands for scheduler and session: one request at a time, y = x, on a thread of its own."""

    def __init__(self, refused: int) -> None:
        self.rows: list[int] = []
        self.free = threading.Event()
        self.free.set()
        self._refused = refused

    def submit(self, what, reply):
        threading.Thread(target=self._run, args=(what, reply), daemon=True).start()
        return self

    def cancel(self):
        """A row that runs is computed and thrown away."""

    def _run(self, what, reply):
        values = list(what.inputs[0].data)
        self.rows += values
        self.free.wait(WAIT)
        if self._refused in values:
            reply(InvalidValues("x: as asked"))
        else:
            tensor = Tensor("y", "UINT8", (len(values), 1), bytes(values))
            reply(InferResponse(what.model_name, "1", what.id, (tensor,), Timing(batch_rows=what.rows)))


class RedisHarness:
    """See `QueueHarness`."""

    _numbers = itertools.count()

    def __init__(self, answer: Callable[[], object], bound: int, refused: int) -> None:
        self._new_answer = answer
        self._bound = bound
        self._instance = OneInstance(refused)
        self._server = shared_server()
        self._server.ask("FLUSHALL")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._stack = AsyncExitStack()
        self._run(self._open())

    def _run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(WAIT)

    async def _open(self) -> None:
        url, number = self._server.url, next(self._numbers)
        link = await self._stack.enter_async_context(open_link(url, "frontend"))
        bells = RedisBells(link)
        self._stack.push_async_callback(bells.close)
        self._registry = RedisRegistry(link, bells)
        await self._registry.announce("m", "1", "worker", ttl=60.0)
        bounds = OnlineBounds(max_open=self._bound + 1, max_depth=self._bound, max_bytes=1 << 20)
        self.queue = RedisQueue(link, self._registry, bounds)
        await self.queue.open(f"frontend-{number}")
        self._stack.push_async_callback(self.queue.close)
        far = await self._stack.enter_async_context(open_link(url, "worker"))
        far_bells = RedisBells(far)
        self._stack.push_async_callback(far_bells.close)
        member = RedisMember(far, f"worker-{number}", heartbeat=1.0)
        await member.beat()
        claims = RedisOnlineClaims(far, far_bells, member, "m", ("1", ""), lease=30.0)
        self._worker = Worker([claims], self._instance.submit, beat=member.beat, heartbeat=1.0, capacity=1, gate=Gate())
        task = asyncio.create_task(self._worker.run())

        async def stop():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        self._stack.push_async_callback(stop)

    def submit(self, values=(1,), *, budget=NO_DEADLINE, reply=None, **fields):
        answer, start = self._new_answer(), time.monotonic()

        def keep(outcome):
            answer.seconds = time.monotonic() - start
            answer.outcomes.append(outcome)
            if reply:
                reply(outcome)

        idle = not self.queue.open_requests
        answer.ticket = self.queue.submit(request(values, deadline=start + budget, **fields), keep)
        if idle and not self._instance.free.is_set():
            # What comes first while the instance is held is what runs: the bound counts only those behind it.
            self._run(eventually(lambda: self._worker.held, "the worker has taken it"))
        return answer

    def wait(self, *answers):
        self._run(eventually(lambda: all(answer.outcomes for answer in answers), "every answer", WAIT))

    def advance(self, seconds):
        """Let time pass and everything under way arrive: the worker is busy or nothing is open, and that is known."""

        async def settle():
            await asyncio.sleep(seconds)
            await eventually(lambda: not self.queue.open_requests or self._worker.held, "the worker has taken one")
            await eventually(self._counted, "what was sent is counted")

        self._run(settle())

    async def _counted(self):
        await self.queue.refresh()
        shown = self.queue.statistics().get(("m", "1"))
        return shown is None or shown.depth + shown.running >= self.queue.open_requests

    def hold(self):
        self._instance.free.clear()

    def resume(self):
        self._instance.free.set()

    def computed(self):
        return list(self._instance.rows)

    def retire(self):
        async def leave():
            await self._registry.announce("m", "1", "worker", ttl=0.0)
            await eventually(lambda: not self._registry.served(), "the frontend knows")

        self._run(leave())

    def close(self):
        self._instance.free.set()
        self._run(self._stack.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WAIT)
        self._loop.close()
