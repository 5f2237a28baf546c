"""What the wire tells about every finished RPC; metrics and the canonical log line listen.

This module must never know how anybody counts or writes.
"""

from dataclasses import dataclass
from typing import Protocol

from server.messages import InferRequest, Timing
from server.transports.base import StatusCode


@dataclass(slots=True)
class Outcome:
    """How one RPC ended.

    `model` and `version` name a version in service, or are empty: never the caller's own text, so they are safe as
    metric labels. `seconds` is from the message's arrival to the answer's departure. `reason` is the error's bounded
    label, empty after OK.
    """

    method: str
    code: StatusCode
    seconds: float
    peer: str
    model: str = ""
    version: str = ""
    reason: str = ""
    request: InferRequest | None = None
    timing: Timing | None = None


class Observer(Protocol):
    """Hears of every RPC once, on whichever thread ended it; must not block or raise."""

    def finished(self, outcome: Outcome) -> None:
        """Count it, write it down."""
