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
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from server import log
from server.errors import Cancelled, QueueFull, QueueUnavailable, ServingError, Unavailable
from server.queues.alarms import Alarms
from server.queues.claims import PAUSE, Claim, Claims, persist
from server.queues.envelope import Outcome
from server.queues.gate import Gate
from server.queues.inbox import Inbox
from server.traceparent import trace_field
from server.work import Held, Observe, Submit, Work

PACE = 0.001
"""Seconds between claims while something is running: the instance is busy, and fewer, larger claims cost less."""


class Worker:
    """One model version's. `capacity` counts requests; `beat` is called every `heartbeat` seconds."""

    def __init__(  # noqa: PLR0913 - what a loop stands on
        self,
        sources: Sequence[Claims],
        submit: Submit,
        *,
        beat: Callable[[], Awaitable[None]],
        heartbeat: float,
        capacity: int,
        gate: Gate,
        observe: Observe | None = None,
    ) -> None:
        self.claimed = 0
        self.settled = 0
        self._sources = tuple(sources)
        self._submit = submit
        self._beat = beat
        self._heartbeat = heartbeat
        self._capacity = capacity
        self._gate = gate
        self._observe = observe
        self._held: dict[str, Held] = {}
        self._answers: Inbox[tuple[Held, Outcome]] = Inbox()
        self._answered = asyncio.Event()
        self._draining = asyncio.Event()
        self._grace = 0.0
        self._resume_at = 0.0
        self._loop = asyncio.get_running_loop()
        self._alarms = Alarms()

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
            await self._alarms.close()
        await self._leave()

    # claiming

    async def _claim_loop(self) -> None:
        while not self._draining.is_set():
            await self._until_room()
            await self._gate.wait_open()
            self._gate.enter()
            try:
                more = await self._claim_all()
            except QueueUnavailable:
                await asyncio.sleep(PAUSE)
                continue
            finally:
                self._gate.leave()
            if self._held:
                await self._pace()
            if not more:
                await self._alarms.until_news()

    async def _pace(self) -> None:
        """Give a batch time to gather, but not longer than it takes the one before to be answered."""
        self._answered.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(PACE):
                await self._answered.wait()

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

    async def _claim_all(self) -> bool:
        """Claim from every source that may have something; return whether there may be more at once."""
        more = False
        for source in self._sources:
            room = self._capacity - len(self._held)
            if room <= 0 or self._draining.is_set():
                return True
            if self._alarms.may_have_news(source):
                for claim in await source.claim(room):
                    self._start(claim, source)
                if source.drained:
                    self._alarms.set(source)
                else:
                    more = True
        return more

    # running

    def _start(self, claim: Claim, source: Claims) -> None:
        held = Held(claim, source)
        self._held[claim.key] = held
        self._gate.enter()
        self.claimed += 1
        if claim.cancelled:
            self._answers.put((held, Cancelled("job: it was cancelled")))
            return
        try:
            held.ticket = self._submit(claim.request, lambda outcome: self._answers.put((held, outcome)))
        except ServingError as error:
            self._answers.put((held, error))

    def _cancel(self, key: str) -> None:
        held = self._held.get(key)
        if held is not None:
            held.cancel()

    # settling

    async def _settle_loop(self) -> None:
        """While one round is on its way to the broker, the next one gathers."""
        while True:
            answers = await self._answers.take_all()
            for source in self._sources:
                mine = [(held, outcome) for held, outcome in answers if held.source is source]
                if mine:
                    await self._settle(source, mine)

    async def _settle(self, source: Claims, answers: Sequence[tuple[Held, Outcome]]) -> None:
        back: list[Claim] = []
        over: list[Work] = []
        for held, outcome in answers:
            if held.returning or self._is_refusal(outcome):
                back.append(held.claim)
            else:
                over.append(Work(held.claim, outcome, held.claimed))
        if over:
            await persist(lambda: source.settle([(work.claim, work.outcome) for work in over]))
            self._tell(over)
        if back:
            await persist(lambda: source.release(back))
        self.settled += len(over)
        for held, _ in answers:
            if self._held.get(held.claim.key) is held:  # not one that was claimed again since
                del self._held[held.claim.key]
            self._gate.leave()
        self._answered.set()

    def _tell(self, over: Sequence[Work]) -> None:
        if self._observe is not None:
            for work in over:
                self._observe(work)

    def _is_refusal(self, outcome: Outcome) -> bool:
        """Whether the scheduler has not run it and another one, or this one later, may."""
        if not isinstance(outcome, (Unavailable, QueueFull)):
            return False
        self._resume_at = time.monotonic() + (outcome.retry_after or PAUSE)
        return True

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
            log.event(
                "worker_recovered",
                logging.WARNING,
                model=claim.request.model_name,
                key=claim.key,
                attempt=claim.attempt,
                cause=None,
                **trace_field(claim.request.traceparent),
            )
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
