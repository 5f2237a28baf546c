"""What a worker holds of the broker's, whom it gives that to, and what it tells of it once it is over.

This module must never know how work is claimed, run or settled.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from server.messages import InferRequest, Reply, Ticket
from server.queues.claims import Claim, Claims
from server.queues.envelope import Outcome

Submit = Callable[[InferRequest, Reply], Ticket]
"""How a worker has a request run: a scheduler's `submit`, or what stands before it."""


@dataclass(frozen=True, slots=True)
class Work:
    """A claim whose outcome the broker has. `claimed` is an instant of time.monotonic()."""

    claim: Claim
    outcome: Outcome
    claimed: float


Observe = Callable[[Work], None]
"""Hears of every piece of work once, after it was settled; must not block or raise."""


class Held:
    """A claim under way. `returning`: whatever comes back, hand the request to somebody else."""

    __slots__ = ("claim", "claimed", "returning", "source", "ticket")

    def __init__(self, claim: Claim, source: Claims) -> None:
        self.claim = claim
        self.claimed = time.monotonic()
        self.source = source
        self.ticket: Ticket | None = None
        self.returning = False

    def cancel(self) -> None:
        """Give the request up, where it has been submitted; its outcome comes all the same."""
        if self.ticket is not None:
            self.ticket.cancel()
