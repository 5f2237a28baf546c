"""Online requests across processes: the frontend's end of the queue, with the same promises as the one in memory.

    queue = RedisQueue(link, registry, bounds);  await queue.open("frontend-1")     on the slow lane's event loop

`submit` may be called from any thread: it registers the request and wakes the loop once for all that come together.
From there one sender per model puts whatever has gathered into one script call, so sends batch by themselves under
load, and one reader per model hears the answers. Requests are not made durable one by one; what Redis loses, and what
is under way when it goes away, is answered UNAVAILABLE, which callers may repeat.

The state: `_open` maps the id of every request that is owed an answer to it. Whoever removes it there answers it, so
there is exactly one answer however many are on their way. All the rest may be late, doubled or lost.
"""

import asyncio
import itertools
import time
from collections import deque
from dataclasses import dataclass

from server.alarm import call_isolated
from server.errors import (
    Cancelled,
    DeadlineExceeded,
    ModelNotReady,
    QueueFull,
    QueueUnavailable,
    ShuttingDown,
)
from server.messages import NO_DEADLINE, InferRequest, Reply
from server.queues.envelope import DamagedEnvelope, Outcome, decode_outcome
from server.queues.redis_link import RedisLink
from server.queues.redis_look import RedisLook
from server.queues.redis_post import Letter, ModelPost
from server.queues.redis_registry import RedisRegistry
from server.statistics import QueueStatistics


@dataclass(frozen=True, slots=True)
class OnlineBounds:
    """`max_open`: requests this frontend may be owed answers to. The others hold for a lane in Redis."""

    max_open: int
    max_depth: int
    max_bytes: int


class _Open(Letter):
    """A request that is owed an answer; it is its own ticket."""

    __slots__ = ("_queue", "reply", "timer")

    def __init__(self, ident: str, request: InferRequest, reply: Reply, queue: "RedisQueue") -> None:
        super().__init__(ident, request)
        self.reply = reply
        self.timer: asyncio.TimerHandle | None = None
        self._queue = queue

    def cancel(self) -> None:
        """See `Ticket`; any thread."""
        self._queue.cancel(self)


class RedisQueue:
    """See `server.queues.base.Queue`."""

    def __init__(self, link: RedisLink, registry: RedisRegistry, bounds: OnlineBounds) -> None:
        self.orphans = 0
        """Answers that came after their request was answered otherwise."""
        self._link = link
        self._registry = registry
        self._bounds = bounds
        self._look = RedisLook(link, durable=True)
        self._open: dict[str, _Open] = {}
        self._numbers = itertools.count()
        self._inbox: deque[_Open] = deque()
        self._waking = False
        self._draining = False
        self._posts: dict[str, ModelPost] = {}
        self._frontend = ""
        self._loop = asyncio.get_running_loop()
        link.on_change(self._fail_when_away)
        link.on_data_loss(lambda: self._fail_all("queue: Redis lost its data"))

    async def open(self, frontend: str) -> None:
        """Start under a name that no other frontend has, now or in the past ten minutes."""
        self._frontend = frontend
        await self._registry.follow()

    async def close(self) -> None:
        """Refuse new requests, answer what is open with ShuttingDown, stop. Idempotent."""
        self._draining = True
        for ident in list(self._open):
            self._answer(ident, ShuttingDown("server: it is shutting down"))
        for post in self._posts.values():
            await post.close()
        await self._look.close()
        await self._registry.close()

    def drain(self) -> None:
        """Refuse new requests from now on; what is open goes on."""
        self._draining = True

    @property
    def open_requests(self) -> int:
        """Requests that are owed an answer."""
        return len(self._open)

    def submit(self, request: InferRequest, reply: Reply) -> _Open:
        """See `Queue`."""
        self._check(request)
        entry = _Open(f"{self._frontend}.{next(self._numbers)}", request, reply, self)
        self._open[entry.id] = entry
        self._post(entry)
        return entry

    def _check(self, request: InferRequest) -> None:
        if self._draining:
            raise ShuttingDown("server: it is shutting down")
        if not self._link.available:
            raise QueueUnavailable("queue: Redis cannot be reached at the moment", retry_after=0.5)
        if (request.model_name, request.model_version) not in self._registry.served():
            raise ModelNotReady(f"model {request.model_name!r}: no worker serves this version at the moment")
        if request.deadline <= time.monotonic():
            raise DeadlineExceeded("request: its deadline has already passed")
        if len(self._open) >= self._bounds.max_open:
            raise QueueFull(f"queue: {len(self._open)} requests wait, at most that many may", retry_after=0.1)

    def _post(self, entry: _Open) -> None:
        self._inbox.append(entry)
        if not self._waking:
            self._waking = True
            self._loop.call_soon_threadsafe(self._sort_inbox)

    def cancel(self, entry: _Open) -> None:
        """Answer with Cancelled if nothing has been answered yet, and tell Redis."""
        if self._answer(entry.id, Cancelled("request: its caller left")):
            self._post(entry)

    def _sort_inbox(self) -> None:
        """Give new requests to the sender of their model, and cancelled ones that were sent already back to it."""
        self._waking = False
        while self._inbox:
            entry = self._inbox.popleft()
            post = self._posts.get(entry.request.model_name) or self._start_post(entry.request.model_name)
            if entry.id not in self._open:
                if entry.timer is not None:
                    entry.timer.cancel()
                post.withdraw(entry)
            elif entry.timer is None:
                if entry.request.deadline != NO_DEADLINE:
                    entry.timer = self._loop.call_at(entry.request.deadline, self._expire, entry)
                post.send(entry)

    def _start_post(self, model: str) -> ModelPost:
        bounds = (self._bounds.max_depth, self._bounds.max_bytes)
        post = ModelPost(self._link, model, self._frontend, bounds, refuse=self._answer, hear=self._hear)
        self._posts[model] = post
        self._look.include(model)
        return post

    def _expire(self, entry: _Open) -> None:
        self._answer(entry.id, DeadlineExceeded("request: its deadline passed before an answer came"))

    def _hear(self, ident: str, data: bytes) -> None:
        if ident not in self._open:
            self.orphans += 1
            return
        try:
            outcome = decode_outcome(data)
        except DamagedEnvelope:
            outcome = QueueUnavailable("queue: the answer was damaged on its way")
        self._answer(ident, outcome)

    def _answer(self, ident: str, outcome: Outcome) -> bool:
        """Answer a request unless somebody did; any thread."""
        entry = self._open.pop(ident, None)
        if entry is None:
            return False
        if entry.timer is not None:
            entry.timer.cancel()
        call_isolated(lambda: entry.reply(outcome))
        return True

    def _fail_when_away(self, available: bool) -> None:  # noqa: FBT001 - RedisLink calls it so
        if not available:
            self._fail_all("queue: Redis cannot be reached at the moment")

    def _fail_all(self, why: str) -> None:
        for ident in list(self._open):
            self._answer(ident, QueueUnavailable(why, retry_after=0.5))

    async def refresh(self) -> None:
        """Let `statistics` tell what is true now. Raises QueueUnavailable."""
        await self._look.refresh()

    def reject(self, model: str, version: str, reason: str, requests: int = 1) -> None:
        """See `Queue.reject`; never called, because refusals come as the reply here."""

    def statistics(self) -> dict[tuple[str, str], QueueStatistics]:
        """See `Queue`; as of the last look at Redis, which every frontend shares."""
        found: dict[tuple[str, str], QueueStatistics] = {
            name: QueueStatistics(0, 0, 0, 0.0, self._bounds.max_depth) for name in self._registry.served()
        }
        for lane in self._look.statistics().lanes:
            route, _, kind = lane.lane.rpartition(":")
            name = (lane.model_name, route)
            if kind[0] == "o" and name in found:
                before = found[name]
                found[name] = QueueStatistics(
                    before.depth + lane.depth - lane.running, before.rows + lane.rows, before.running + lane.running,
                    max(before.oldest_age, lane.oldest_age if lane.depth > lane.running else 0.0),
                    self._bounds.max_depth,
                )  # fmt: skip
        return found
