"""The shared answers' line to Redis, as it is seen from its own event loop: pipelines, late answers, coming and going.

A look-up is answered exactly once: by Redis, by its deadline, or by Redis going away. The ways are independent of each
other, so that a connection that hangs holds nobody up. Redis counts as away when a pipeline is `LATE` or fails; then
everything that waits is a miss, and nothing is taken until a PING is answered.
This module must never know threads, models or what a value means.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from redis import exceptions as failures

from server.queues.redis_address import RedisAddress
from server.queues.redis_client import AnyRedis, connect, disconnect

PIPELINE = 256
LATE = 0.1
"""Seconds after which a silent Redis counts as away; until then each look-up waits for its own deadline."""
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0
"""Seconds between attempts to reach it again."""

Argument = str | bytes | int


@dataclass(slots=True, eq=False)
class Errand:
    """One command. `command` is called when it is sent; `done` once, with the reply, or with None and why not.

    The reasons are `late`, `away` and `failed`. Without a deadline it may take as long as Redis is there.
    """

    command: Callable[[], tuple[Argument, ...]]
    done: Callable[[Any, str], None] | None
    deadline: float | None = None

    def end(self, reply: Any, why: str = "") -> None:  # noqa: ANN401 - what redis-py says
        """Call `done` unless it was called."""
        if self.done is not None:
            done, self.done = self.done, None
            done(reply, why)


class Switch(Protocol):
    """Told whether Redis is there. What is added while it is not waits for it, or for its deadline."""

    def __call__(self, *, available: bool) -> None: ...  # noqa: D102 - see the class


class Messenger:
    """Runs errands on the loop it was made on, while `run` runs."""

    def __init__(self, address: RedisAddress, name: str, switch: Switch) -> None:
        self._address = address
        self._name = name
        self._switch = switch
        self._queue: deque[Errand] = deque()
        self._hurried: deque[Errand] = deque()
        self._ready = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, errands: Sequence[Errand]) -> None:
        """Take errands, those with a deadline in its order."""
        self._queue.extend(errands)
        self._hurried.extend(errand for errand in errands if errand.deadline is not None)
        self._ready.set()
        if self._timer is None:
            self._hurry()

    def give_up(self) -> None:
        """End everything that waits."""
        for errand in (*self._hurried, *self._queue):
            errand.end(None, "away")
        self._hurried.clear()
        self._queue.clear()

    async def run(self) -> None:
        """Connect again and again; until cancelled."""
        pause = FIRST_PAUSE
        while True:
            client = connect(self._address, "commands", self._name)
            try:
                if await self._exchange(client, [("PING",)]) is not None:
                    pause = FIRST_PAUSE
                    self._switch(available=True)
                    await self._work(client)
            finally:
                self._switch(available=False)
                self.give_up()
                await disconnect(client)
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - jitter, not a secret
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _work(self, client: AnyRedis) -> None:
        """Send what there is, until Redis is away."""
        while True:
            await self._ready.wait()
            self._ready.clear()
            while self._queue:
                taken = [self._queue.popleft() for _ in range(min(PIPELINE, len(self._queue)))]
                errands = [errand for errand in taken if errand.done is not None]
                replies = await self._exchange(client, [errand.command() for errand in errands])
                if replies is None:
                    self._queue.extendleft(reversed(errands))
                    return
                for errand, reply in zip(errands, replies, strict=True):
                    errand.end(*((None, "failed") if isinstance(reply, Exception) else (reply, "")))

    async def _exchange(self, client: AnyRedis, commands: Sequence[tuple[Argument, ...]]) -> list[Any] | None:
        """Return the replies, None where Redis does not answer in time."""
        # A task of its own: redis-py was seen to swallow a cancellation, and this must end in time whatever it does.
        sending = asyncio.create_task(self._send(client, commands))
        sending.add_done_callback(_hear)
        try:
            await asyncio.wait([sending], timeout=LATE)
            return sending.result() if sending.done() else None
        except (failures.RedisError, OSError):
            return None
        finally:
            sending.cancel()

    async def _send(self, client: AnyRedis, commands: Sequence[tuple[Argument, ...]]) -> list[Any]:
        if self._address.kind == "cluster":
            each = (client.execute_command(*command) for command in commands)
            return list(await asyncio.gather(*each, return_exceptions=True))
        async with client.pipeline(transaction=False) as pipe:
            for command in commands:
                pipe.execute_command(*command)
            return list(await pipe.execute(raise_on_error=False))

    def _hurry(self) -> None:
        """End what is late, and come back for the next."""
        loop, hurried = asyncio.get_running_loop(), self._hurried
        self._timer = None
        while hurried and (hurried[0].done is None or (hurried[0].deadline or 0) <= loop.time()):
            hurried.popleft().end(None, "late")
        if hurried:
            self._timer = loop.call_at(hurried[0].deadline or 0, self._hurry)


def _hear(task: "asyncio.Task[list[Any]]") -> None:
    """Look at a failure that nobody waits for any more, or asyncio would complain of it."""
    if not task.cancelled():
        task.exception()
