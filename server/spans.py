"""What a finished RPC and a finished piece of a worker's work look like as spans, from times that were measured anyway.

    inference.GRPCInferenceService/ModelInfer   server     bytes in to bytes out
      redis                                     internal   waiting in Redis until a worker claimed it      (worker)
      process MODEL                             consumer   claimed, run, answered                          (worker)
        queue                                   internal   accepted by the scheduler to the batch's start
        batch                                   internal   the batch it ran in, with its id and rows
          compute_input, compute_infer, compute_output

Without Redis `queue` and `batch` are children of the first line. Nothing here is called before the answer was sent.
This module must never know how spans are sampled or exported.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Protocol
from urllib.parse import unquote

from server import log
from server.errors import Cancelled, ServingError
from server.messages import Timing
from server.traceparent import STATE_HEADER, TraceContext, given, header, parse
from server.transports.base import Metadata, StatusCode
from server.wire.observer import Outcome
from server.work import Work

_SERVER_FAULTS = frozenset({
    StatusCode.UNKNOWN, StatusCode.DEADLINE_EXCEEDED, StatusCode.UNIMPLEMENTED,
    StatusCode.INTERNAL, StatusCode.UNAVAILABLE, StatusCode.DATA_LOSS,
})  # fmt: skip
"""What the semantic conventions call an error of a gRPC server; the other codes are the caller's."""

NewId = Callable[[], str]
"""Returns a new span's identifier."""


class Tracing(Protocol):
    """Where traces are begun and spans go; any thread, and no method but `close` may block or raise."""

    def begin(self, metadata: Metadata) -> str:
        """Return the `traceparent` of a new span in the caller's trace, or in a new one."""

    def rpc(self, outcome: Outcome) -> None:
        """Make the spans of a finished RPC."""

    def worked(self, work: Work) -> None:
        """Make the spans of a finished piece of a worker's work."""

    def close(self, seconds: float) -> None:
        """Send what is left, within so many seconds. Idempotent."""


class Kind(Enum):
    """Whose side of a call a span is."""

    SERVER = auto()
    CONSUMER = auto()
    INTERNAL = auto()


@dataclass(slots=True)
class Span:
    """One finished span. `start` and `end` are nanoseconds since 1970; `state` is the W3C tracestate."""

    name: str
    kind: Kind
    context: TraceContext
    parent: TraceContext | None
    start: int
    end: int
    attributes: dict[str, str | int | float] = field(default_factory=dict)
    failed: bool = False
    state: str = ""


def rpc_spans(outcome: Outcome, context: TraceContext, new_id: NewId) -> Iterator[Span]:
    """Yield the spans of an RPC that ended now, the first of which is `context`."""
    end = log.epoch_ns()
    span = Span(
        outcome.method.removeprefix("/"),
        Kind.SERVER,
        context,
        parse(given(outcome.metadata)),
        end - int(outcome.seconds * 1e9),
        end,
        _about_rpc(outcome),
        outcome.code in _SERVER_FAULTS,
        header(outcome.metadata, STATE_HEADER),
    )
    yield span
    if outcome.timing is not None:
        yield from _computed(span, outcome.timing, new_id)


def work_spans(work: Work, context: TraceContext, parent: TraceContext | None, new_id: NewId) -> Iterator[Span]:
    """Yield the spans of work that was settled now; `context` is the claim's and `parent` whoever queued it."""
    claim, outcome, end = work.claim, work.outcome, log.epoch_ns()
    started = min(_epoch_ns(work.claimed), end)
    if claim.queued_ms and parent is not None:
        queued = min(claim.queued_ms * 1_000_000, started)  # by Redis's clock, which may be ahead of ours
        yield _inside("redis", parent, queued, started, new_id)
    span = Span(f"process {claim.request.model_name}", Kind.CONSUMER, context, parent, started, end, _about_work(work))
    if isinstance(outcome, ServingError):
        span.failed = not isinstance(outcome, Cancelled)
        yield span
    else:
        yield span
        yield from _computed(span, outcome.timing, new_id)


def _about_rpc(outcome: Outcome) -> dict[str, str | int | float]:
    service, _, method = outcome.method.removeprefix("/").rpartition("/")
    about: dict[str, str | int | float] = {
        "rpc.system": "http" if outcome.peer.startswith("http:") else "grpc",
        "rpc.service": service,
        "rpc.method": method,
        "rpc.grpc.status_code": int(outcome.code),
        "network.peer.address": _address(outcome.peer),
    }
    if outcome.model:
        about |= {"sluice.model": outcome.model, "sluice.version": outcome.version}
    if outcome.reason:
        about["error.type"] = outcome.reason
    if outcome.request is not None:
        about |= {"sluice.request.id": outcome.request.id, "sluice.request.rows": outcome.request.rows}
    return about


def _address(peer: str) -> str:
    """Return the address in ipv4:127.0.0.1:50000, ipv6:%5B::1%5D:50000 or http:127.0.0.1."""
    kind, _, rest = unquote(peer).partition(":")
    return rest.rpartition(":")[0].strip("[]") if kind in {"ipv4", "ipv6"} else rest


def _about_work(work: Work) -> dict[str, str | int | float]:
    claim, outcome = work.claim, work.outcome
    about: dict[str, str | int | float] = {
        "messaging.system": "redis",
        "messaging.operation.type": "process",
        "messaging.destination.name": claim.request.model_name,
        "messaging.message.id": claim.key,
        "sluice.model": claim.request.model_name,
        "sluice.request.id": claim.request.id,
        "sluice.request.rows": claim.request.rows,
        "sluice.attempt": claim.attempt,
    }
    if isinstance(outcome, ServingError):
        about["error.type"] = type(outcome).__name__
    else:
        about["sluice.version"] = outcome.model_version
    return about


def _computed(over: Span, timing: Timing, new_id: NewId) -> Iterator[Span]:
    """Yield where a request's time went inside `over`; nothing for one that ran elsewhere or not at all."""
    if not timing.started:
        return
    began = _within(over, _epoch_ns(timing.started))
    yield _inside("queue", over.context, _within(over, began - int(timing.queue * 1e9)), began, new_id)
    seconds = {name: getattr(timing, name) for name in ("compute_input", "compute_infer", "compute_output")}
    batch = _inside("batch", over.context, began, _within(over, began + int(sum(seconds.values()) * 1e9)), new_id)
    batch.attributes = {"sluice.batch.id": batch_id(timing), "sluice.batch.rows": timing.batch_rows}
    yield batch
    at = began
    for name, took in seconds.items():
        end = _within(batch, at + int(took * 1e9))
        yield _inside(name, batch.context, at, end, new_id)
        at = end


def batch_id(timing: Timing) -> str:
    """Return what the requests of one batch have in common within one server: the instant it began."""
    return f"{int(timing.started * 1e9):x}"


def _inside(name: str, parent: TraceContext, start: int, end: int, new_id: NewId) -> Span:
    return Span(name, Kind.INTERNAL, parent._replace(span_id=new_id()), parent, start, end)


def _within(span: Span, instant: int) -> int:
    return min(max(instant, span.start), span.end)


def _epoch_ns(instant: float) -> int:
    """Turn an instant of time.monotonic() into the wall clock's, as that clock goes now."""
    return log.epoch_ns() - int((time.monotonic() - instant) * 1e9)
