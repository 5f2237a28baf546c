"""The worker's side of a broker: claim, settle, and what keeps both honest when processes die.

Two sources implement it on Redis, durable jobs and online requests; the worker's loop is the same for both and tests
give it a fake. A source must never know how a request is run.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from server.errors import QueueUnavailable
from server.messages import InferRequest
from server.queues.envelope import Outcome

PAUSE = 0.05
"""Seconds between claims while the scheduler refuses without a hint, and between attempts while the broker is away."""


@dataclass(slots=True, eq=False)
class Claim:
    """A request this worker holds and owes an outcome. `lane` and `entry` are the source's own business."""

    key: str
    """Names it in renewals and cancellations: the job's or request's id."""
    request: InferRequest
    attempt: int
    lane: int
    entry: str
    reply_to: str = ""
    """The frontend that waits for it, "" for a job."""
    size: int = 0
    """Bytes of its envelope."""
    queued_ms: int = 0
    """When it was queued, in milliseconds since 1970 by the broker's clock; 0 where that is not known."""
    cancelled: bool = False
    """Somebody asked to cancel it before it was claimed."""


@dataclass(frozen=True, slots=True)
class Renewal:
    """What a renewal told: keys that are no longer ours, and keys that somebody wants cancelled."""

    lost: tuple[str, ...] = ()
    cancelled: tuple[str, ...] = ()


class Claims(Protocol):
    """One kind of work of one model. Everything but `close` raises QueueUnavailable while the broker is away."""

    drained: bool
    """Whether the last claim left nothing waiting: what comes after it sets off the alarm."""

    async def claim(self, want: int) -> list[Claim]:
        """Start up to `want` waiting requests, most urgent first; returns at once, maybe with none.

        A call repeated after QueueUnavailable hands out what the one before may have claimed.
        """

    async def suspects(self) -> bool:
        """Whether `recover` would find something; takes nothing."""

    async def recover(self) -> Claim | None:
        """Take over one request of a worker that is gone. It may have killed that worker: run it alone."""

    async def settle(self, outcomes: Sequence[tuple[Claim, Outcome]]) -> int:
        """Deliver outcomes; returns how many of them were too late, because somebody else had taken over."""

    async def release(self, claims: Sequence[Claim]) -> None:
        """Hand back what was never started: claimable by anybody at once, and the attempt does not count."""

    async def renew(self, claims: Sequence[Claim]) -> Renewal:
        """Say that this worker lives and still works on these."""

    def on_cancel(self, callback: Callable[[str], None]) -> None:
        """Call `callback(key)` on the loop when somebody wants a request cancelled; a hint that may get lost."""

    async def tidy(self) -> None:
        """Clean up what no event cleans up; cheap, called every few seconds."""

    async def wait(self) -> None:
        """Return when there may be something new to claim, or after a second."""

    async def leave(self) -> None:
        """Sign off: this worker claims no more. What it still holds is for others to recover."""


async def persist(call: Callable[[], Awaitable[object]]) -> None:
    """Repeat a call, which must be idempotent, until the broker has answered it."""
    while True:
        try:
            await call()
        except QueueUnavailable:
            await asyncio.sleep(PAUSE)
        else:
            return
