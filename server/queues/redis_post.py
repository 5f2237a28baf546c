"""One frontend's post of one model: a sender that batches by itself, and a reader of answers."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from redis.exceptions import RedisError

from server.errors import DeadlineExceeded, QueueFull, QueueUnavailable, ServingError
from server.messages import NO_DEADLINE, InferRequest
from server.queues import redis_keys as keys
from server.queues.envelope import encode_request
from server.queues.redis_client import BLOCK
from server.queues.redis_link import Argument, BrokerFull, RedisLink
from server.queues.redis_tasks import cancel_all, spawn

SEND = 128
"""Requests per call."""
SEND_BYTES = 4 << 20
TRIM_INTERVAL = 1.0

Refuse = Callable[[str, ServingError], bool]
Hear = Callable[[str, bytes], None]


class Letter:
    """A request under its name on the way; `entry` is where it lies in Redis once it was sent."""

    __slots__ = ("entry", "id", "lane", "request", "withdrawn")

    def __init__(self, ident: str, request: InferRequest) -> None:
        self.id = ident
        self.request = request
        self.lane = ""
        self.entry = ""
        self.withdrawn = False


class ModelPost:
    """Sends and hears on the loop it was made on. `refuse` and `hear` are called there."""

    def __init__(
        self, link: RedisLink, model: str, frontend: str, bounds: tuple[int, int], *, refuse: Refuse, hear: Hear
    ) -> None:
        self._link = link
        self._model = model
        self._prefix = keys.prefix(model)
        self._frontend = frontend
        self._answers = f"{self._prefix}a:{frontend}"
        self._bounds = bounds
        self._refuse = refuse
        self._hear = hear
        self._outbox: deque[Letter] = deque()
        self._withdrawn: list[Letter] = []
        self._work = asyncio.Event()
        self._number = time.time_ns()  # continues where a namesake may have left off
        self._last = "0-0"
        self._trimmed_at = 0.0
        self._closing = False
        self._reader = link.client("blocking")
        self._tasks = [spawn(self._send_loop()), spawn(self._read_loop())]

    def send(self, letter: Letter) -> None:
        """Send it with the next batch."""
        self._outbox.append(letter)
        self._work.set()

    def withdraw(self, letter: Letter) -> None:
        """Take it back if it was sent."""
        letter.withdrawn = True
        if letter.entry:
            self._withdrawn.append(letter)
            self._work.set()

    async def close(self) -> None:
        """Stop both. Idempotent."""
        self._closing = True
        await cancel_all(*self._tasks)

    async def _send_loop(self) -> None:
        while not self._closing:
            await self._work.wait()
            self._work.clear()
            while self._outbox or self._withdrawn:
                if self._outbox:
                    await self._send_some()
                if self._withdrawn:
                    await self._withdraw_some()

    async def _send_some(self) -> None:
        letters, lanes, args = self._next_batch()
        if not letters:
            return
        try:
            verdicts = await self._link.run("send", lanes, args)
        except QueueUnavailable as error:
            for letter in letters:
                self._refuse(letter.id, error)
        except BrokerFull:
            for letter in letters:
                self._refuse(letter.id, QueueFull("queue: Redis is at its memory limit", retry_after=1.0))
        else:
            for letter, verdict in zip(letters, verdicts, strict=True):
                self._note(letter, verdict.decode())

    def _next_batch(self) -> tuple[list[Letter], list[str], list[Argument]]:
        self._number += 1
        letters: list[Letter] = []
        lanes: dict[str, int] = {}
        args: list[Argument] = [self._prefix, self._frontend, self._number, *self._bounds]
        now, size = time.monotonic(), 0
        while self._outbox and len(letters) < SEND and size < SEND_BYTES:
            letter = self._outbox.popleft()
            if letter.withdrawn:
                continue
            request = letter.request
            letter.lane = keys.lane(self._model, request.model_version, "o", urgent=keys.is_urgent(request.priority))
            budget = -1 if request.deadline == NO_DEADLINE else max(int((request.deadline - now) * 1000), 0)
            payload = encode_request(request)
            args += [lanes.setdefault(letter.lane, len(lanes) + 1), letter.id, budget, request.rows, payload]
            letters.append(letter)
            size += len(payload)
        return letters, list(lanes), args

    def _note(self, letter: Letter, verdict: str) -> None:
        if verdict == "FULL":
            self._refuse(letter.id, QueueFull("queue: it is full", retry_after=0.1))
        elif verdict == "EXPIRED":
            self._refuse(letter.id, DeadlineExceeded("request: its deadline passed before it was queued"))
        else:
            letter.entry = verdict
            if letter.withdrawn:
                self._withdrawn.append(letter)

    async def _withdraw_some(self) -> None:
        letters, self._withdrawn = self._withdrawn, []
        lanes: dict[str, int] = {}
        args: list[Argument] = [self._prefix]
        for letter in letters:
            args += [lanes.setdefault(letter.lane, len(lanes) + 1), letter.entry, letter.id]
        with suppress(QueueUnavailable):  # what is not withdrawn runs for nobody
            await self._link.run("withdraw", list(lanes), args)

    async def _read_loop(self) -> None:
        while not self._closing:
            try:
                await self._read()
            except (RedisError, OSError):
                await self._link.wait_available()
                await asyncio.sleep(0.02)  # the breaker may not have noticed yet

    async def _read(self) -> None:
        """Hear a block of answers. Reading from the last id on, nothing is lost with a connection."""
        block = int(BLOCK * 1000)
        found = await self._reader.execute_command(
            "XREAD", "COUNT", 500, "BLOCK", block, "STREAMS", self._answers, self._last
        )
        for _, entries in found or ():
            for entry, fields in entries:
                self._last = entry.decode()
                for ident, answer in fields.items():
                    if ident:  # the first entry only made the stream
                        self._hear(ident.decode(), answer)
        if found and time.monotonic() - self._trimmed_at > TRIM_INTERVAL:
            self._trimmed_at = time.monotonic()
            with suppress(QueueUnavailable):
                await self._link.execute("XTRIM", self._answers, "MINID", self._last)
