"""What the wire tells about every finished RPC; metrics and the canonical log line listen.

This module must never know how anybody counts, writes or traces.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from server.messages import InferRequest, Timing
from server.traceparent import TraceContext, given, parse
from server.transports.base import Metadata, StatusCode

BeginTrace = Callable[[Metadata], str]
"""Takes a call's metadata and returns the `traceparent` that its work goes on under; must not block or raise."""


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
    metadata: Metadata = ()
    traceparent: str = ""
    """What the RPC's work went on under, where it is not the request that says so."""

    def trace(self) -> TraceContext | None:
        """Return the trace this RPC belongs to: this server's span in it where there is one, else the caller's."""
        own = self.traceparent if self.request is None else self.request.traceparent
        return parse(own or given(self.metadata))


class Ended(Protocol):
    """An RPC that has ended with OK."""

    @property
    def started(self) -> float:
        """The instant (time.monotonic()) at which its message was here."""

    def outcome(self, seconds: float) -> Outcome:
        """Say more of it, which took so long; nearly nobody asks."""


class Meter(Protocol):
    """Counts the RPCs of one method and model version that end with OK."""

    def add(self, ended: Ended) -> None:
        """Hear of one, which may be counted a little later, with others; any thread."""


class Observer(Protocol):
    """Hears of every RPC once, itself or by a meter, on whichever thread ended it; must not block or raise."""

    def meter(self, method: str, model: str, version: str) -> Meter:
        """Return what counts many RPCs that are alike; `method` is its path."""

    def finished(self, outcome: Outcome) -> None:
        """Count it, write it down."""

    def shed(self, method: str, code: StatusCode, reason: str, calls: int, model: str = "", version: str = "") -> None:
        """Hear of so many calls that ended alike before anybody handled them; `model` where that was known."""
