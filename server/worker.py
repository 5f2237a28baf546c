"""The worker's loop: claim when there is room, submit to this process's scheduler, settle what comes back.

    worker = Worker([online, jobs], scheduler.submit, beat=member.beat, heartbeat=3.0, capacity=128, gate=Gate())
    await worker.run()            returns when `worker.drain(grace)` was called and nothing is held any more

Pull-based: never more than `capacity` requests are claimed and unanswered (two batches keep an instance busy), so a
death costs little and other workers get the rest. Sources are asked in the order given: durable jobs behind online
requests use only the slack.

A request whose worker died is suspected of having killed it: it is recovered one at a time and, through the `Gate` that
all workers of a process share, run alone, so that it can take no neighbour along.
This module must never know redis: `Claims` is all it sees of the broker.
"""

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress

from server import log
from server.errors import Cancelled, QueueFull, QueueUnavailable, ServingError, Unavailable
from server.messages import InferRequest, Reply, Ticket
from server.queues.claims import Claim, Claims, Outcome

Submit = Callable[[InferRequest, Reply], Ticket]

PACE = 0.001
"""Seconds between claims while something is running: the instance is busy, and fewer, larger claims cost less."""
PAUSE = 0.05
"""Seconds between claims while the scheduler refuses without a hint, and between attempts while the broker is away."""


class Gate:
    """Requests of a process run together, or one runs alone. On one event loop."""

    def __init__(self) -> None:
        self._running = 0
        self._alone = False
        self._changed = asyncio.Event()

    def enter(self) -> None:
        """Count one more as running (or as about to)."""
        self._running += 1

    def leave(self) -> None:
        """Count one less."""
        self._running -= 1
        self._changed.set()

    async def wait_open(self) -> None:
        """Return when nobody runs alone or is waiting to."""
        await self._until(lambda: not self._alone)

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Let nobody start and wait until everybody else has ended."""
        await self.wait_open()
        self._alone = True
        try:
            await self._until(lambda: self._running == 0)
            yield
        finally:
            self._alone = False
            self._changed.set()

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            # Everybody who waits wakes on any change, so the event is renewed rather than cleared.
            if self._changed.is_set():
                self._changed = asyncio.Event()
            await self._changed.wait()


class _Held:
    """A claim under way. `returning`: whatever comes back, hand the request to somebody else."""

    __slots__ = ("claim", "returning", "source", "ticket")

    def __init__(self, claim: Claim, source: Claims) -> None:
        self.claim = claim
        self.source = source
        self.ticket: Ticket | None = None
        self.returning = False

    def cancel(self) -> None:
        if self.ticket is not None:
            self.ticket.cancel()


class Worker:
    """One model version's. `capacity` counts requests; `beat` is called every `heartbeat` seconds."""

    def __init__(
        self,
        sources: Sequence[Claims],
        submit: Submit,
        *,
        beat: Callable[[], Awaitable[None]],
        heartbeat: float,
        capacity: int,
        gate: Gate,
    ) -> None:
        self.claimed = 0
        self.settled = 0
        self._sources = tuple(sources)
        self._submit = submit
        self._beat = beat
        self._heartbeat = heartbeat
        self._capacity = capacity
        self._gate = gate
        self._held: dict[str, _Held] = {}
        self._answers: deque[tuple[_Held, Outcome]] = deque()
        self._answered = asyncio.Event()
        self._settling = asyncio.Event()
        self._draining = asyncio.Event()
        self._grace = 0.0
        self._resume_at = 0.0
        self._waking = False
        self._loop = asyncio.get_running_loop()
        self._alarms: dict[Claims, asyncio.Task[None]] = {}

    @property
    def held(self) -> int:
        """Requests claimed and not yet settled."""
        return len(self._held)

    def drain(self, grace: float) -> None:
        """Claim no more; `run` returns when what is held has ended, or was handed back after `grace` seconds."""
        self._grace = grace
        self._draining.set()
        self._answered.set()

    async def run(self) -> None:
        """Work until drained. A bug in one of the loops ends all of them and comes out here."""
        for source in self._sources:
            source.on_cancel(self._cancel)
        try:
            async with asyncio.TaskGroup() as group:
                loops = [self._claim_loop, self._settle_loop, self._beat_loop, self._recover_loop]
                tasks = [group.create_task(loop()) for loop in loops]
                await self._draining.wait()
                await self._finish([tasks[0], tasks[3]])
                for task in tasks:
                    task.cancel()
        finally:
            for alarm in self._alarms.values():
                alarm.cancel()
            await asyncio.gather(*self._alarms.values(), return_exceptions=True)
        await self._leave()

    # claiming

    async def _claim_loop(self) -> None:
        while not self._draining.is_set():
            await self._until_room()
            await self._gate.wait_open()
            self._gate.enter()
            try:
                claimed = await self._claim_all()
            except QueueUnavailable:
                await asyncio.sleep(PAUSE)
                continue
            finally:
                self._gate.leave()
            if not claimed:
                await self._until_news()
            elif self._held:
                await asyncio.sleep(PACE)

    async def _until_room(self) -> None:
        while not self._draining.is_set():
            delay = self._resume_at - time.monotonic()
            if delay > 0:
                await asyncio.sleep(delay)
            elif len(self._held) < self._capacity:
                return
            else:
                self._answered.clear()
                await self._answered.wait()

    async def _claim_all(self) -> int:
        claimed = 0
        for source in self._sources:
            room = self._capacity - len(self._held)
            if room > 0 and not self._draining.is_set():
                claims = await source.claim(room)
                claimed += len(claims)
                for claim in claims:
                    self._start(claim, source)
        return claimed

    async def _until_news(self) -> None:
        """Wait for the alarm clock of any source; those that have not rung go on waiting for the next time."""
        for source in self._sources:
            if source not in self._alarms:
                self._alarms[source] = asyncio.create_task(source.wait())
        await asyncio.wait(self._alarms.values(), return_when=asyncio.FIRST_COMPLETED)
        for source, alarm in list(self._alarms.items()):
            if alarm.done():
                del self._alarms[source]
                alarm.result()

    # running

    def _start(self, claim: Claim, source: Claims) -> None:
        held = _Held(claim, source)
        self._held[claim.key] = held
        self._gate.enter()
        self.claimed += 1
        if claim.cancelled:
            self._answer(held, Cancelled("job: it was cancelled"))
            return
        try:
            held.ticket = self._submit(claim.request, lambda outcome: self._hear(held, outcome))
        except ServingError as error:
            self._answer(held, error)

    def _hear(self, held: _Held, outcome: Outcome) -> None:
        """Take an outcome from whichever thread brings it; one wake-up carries all that come before it is served."""
        self._answers.append((held, outcome))
        if not self._waking:
            self._waking = True
            with suppress(RuntimeError):  # the loop is closed: an outcome after the worker's end is for nobody
                self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._waking = False
        self._settling.set()

    def _answer(self, held: _Held, outcome: Outcome) -> None:
        self._answers.append((held, outcome))
        self._settling.set()

    def _cancel(self, key: str) -> None:
        held = self._held.get(key)
        if held is not None:
            held.cancel()

    # settling

    async def _settle_loop(self) -> None:
        while True:
            await self._settling.wait()
            self._settling.clear()
            while self._answers:
                answers = [self._answers.popleft() for _ in range(len(self._answers))]
                for source in self._sources:
                    mine = [(held, outcome) for held, outcome in answers if held.source is source]
                    if mine:
                        await self._settle(source, mine)

    async def _settle(self, source: Claims, answers: Sequence[tuple[_Held, Outcome]]) -> None:
        back: list[Claim] = []
        over: list[tuple[Claim, Outcome]] = []
        for held, outcome in answers:
            if held.returning or self._is_refusal(outcome):
                back.append(held.claim)
            else:
                over.append((held.claim, outcome))
        if over:
            await self._persist(lambda: source.settle(over))
        if back:
            await self._persist(lambda: source.release(back))
        self.settled += len(over)
        for held, _ in answers:
            self._held.pop(held.claim.key, None)
            self._gate.leave()
        self._answered.set()

    def _is_refusal(self, outcome: Outcome) -> bool:
        """Whether the scheduler has not run it and another one, or this one later, may."""
        if not isinstance(outcome, (Unavailable, QueueFull)):
            return False
        self._resume_at = time.monotonic() + (outcome.retry_after or PAUSE)
        return True

    async def _persist(self, call: Callable[[], Awaitable[object]]) -> None:
        """Repeat a call, which is idempotent, until the broker has answered it."""
        while True:
            try:
                await call()
            except QueueUnavailable:
                await asyncio.sleep(PAUSE)
            else:
                return

    # staying alive, taking over from the dead

    async def _beat_loop(self) -> None:
        while True:
            try:
                await self._beat()
                for source in self._sources:
                    await self._renew(source)
                    await source.tidy()
            except QueueUnavailable:
                log.event("worker_beat_missed", logging.WARNING)
            await asyncio.sleep(self._heartbeat)

    async def _renew(self, source: Claims) -> None:
        mine = [held.claim for held in self._held.values() if held.source is source]
        if mine:
            renewal = await source.renew(mine)
            for key in (*renewal.lost, *renewal.cancelled):
                self._cancel(key)

    async def _recover_loop(self) -> None:
        while not self._draining.is_set():
            found = False
            for source in self._sources:
                try:
                    found = await self._recover(source) or found
                except QueueUnavailable:
                    continue
            if not found:
                # Jittered, so that workers started together do not all look at the same instant.
                await asyncio.sleep(self._heartbeat * random.uniform(0.2, 0.4))  # noqa: S311

    async def _recover(self, source: Claims) -> bool:
        """Run one request of the dead alone, if there is one."""
        if not await source.suspects():
            return False
        async with self._gate.alone():
            claim = None if self._draining.is_set() else await source.recover()
            if claim is None:
                return False
            log.event("worker_recovered", logging.WARNING, model=claim.request.model_name, attempt=claim.attempt)
            self._start(claim, source)
            while claim.key in self._held:
                self._answered.clear()
                await self._answered.wait()
        return True

    # ending

    async def _finish(self, claiming: "list[asyncio.Task[None]]") -> None:
        """Wait for what is held; what has not ended in time goes to others."""
        give_up = time.monotonic() + self._grace
        await asyncio.wait(claiming, timeout=self._grace)
        if not await self._empty_by(give_up):
            for held in list(self._held.values()):
                held.returning = True
                held.cancel()
            await self._empty_by(give_up + 1.0)

    async def _empty_by(self, instant: float) -> bool:
        try:
            async with asyncio.timeout_at(self._loop.time() + instant - time.monotonic()):
                while self._held:
                    self._answered.clear()
                    await self._answered.wait()
        except TimeoutError:
            return False
        return True

    async def _leave(self) -> None:
        try:
            for source in self._sources:
                await source.leave()
        except QueueUnavailable:
            log.event("worker_left_unannounced", logging.WARNING)
