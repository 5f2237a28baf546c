"""One inference RPC from its message to its answer: counted in, ended once, counted out, reported.

Used as a context manager around the work that may fail: whatever escapes from the block ends the call with the status
it deserves. That is the one place where an unforeseen error on the hot path stops.
"""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from server.errors import DeadlineExceeded, ModelNotReady, ServingError, ShuttingDown
from server.messages import InferRequest, InferResponse, Timing
from server.spec import ModelSpec
from server.transports.base import Call, StatusCode
from server.wire.gate import Gate
from server.wire.observer import Meter, Outcome
from server.wire.status import reason, status_error

Encode = Callable[[InferResponse, Any], bytes]


class Exchange:
    """The state of one call: open until `reply` or `fail`, then closed for good."""

    __slots__ = (
        "_admitted",
        "_again",
        "_call",
        "_context",
        "_encode",
        "_gate",
        "_meter",
        "_open",
        "_request",
        "_size",
        "_spec",
        "_timing",
        "started",
    )

    def __init__(self, gate: Gate, call: Call, size: int) -> None:
        self._gate = gate
        self._call = call
        self._size = size
        self.started = time.monotonic()
        self._admitted = False
        self._open = True
        self._spec: ModelSpec | None = None
        self._request: InferRequest | None = None
        self._encode: Encode | None = None
        self._context: object = None
        self._again: Callable[[], None] | None = None
        self._meter: Meter | None = None
        self._timing: Timing | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> bool:
        if error is None:
            return False
        if isinstance(error, Exception):
            self.fail(error)
            return True
        return False

    def admit(self) -> None:
        """Take room for the message until the call ends. Raises QueueFull, TooLarge, ShuttingDown."""
        self._gate.admission.enter(self._size)
        self._admitted = True

    def deadline(self) -> float:
        """Return the instant (time.monotonic()) by which the caller or this server gives up.

        Raises:
            DeadlineExceeded: it has passed.
        """
        deadline = self._call.deadline
        latest = self.started + self._gate.limits.max_deadline
        if deadline is None or deadline > latest:
            return latest
        if deadline <= self.started:
            raise DeadlineExceeded("the deadline had passed before the request could be queued")
        return deadline

    def found(self, spec: ModelSpec) -> None:
        """Say which model the call is about; a refusal is accounted to it."""
        self._spec = spec

    def expect(
        self,
        request: InferRequest,
        encode: Encode,
        context: object,
        again: Callable[[], None] | None = None,
        meter: Meter | None = None,
    ) -> None:
        """Say what was asked, and that `encode(response, context)` turns its answer into bytes.

        `again` is called, once, instead of ending the call where the queue replies that the version has left service.
        `meter` counts such calls that end well, where somebody keeps one.
        """
        begin_trace = self._gate.begin_trace
        if begin_trace is not None:
            request.traceparent = begin_trace(self._call.metadata)
        self._request = request
        self._encode = encode
        self._context = context
        self._again = again
        self._meter = meter

    def reply(self, outcome: InferResponse | ServingError) -> None:
        """End the call with what became of the request; any thread (`messages.Reply`)."""
        if isinstance(outcome, ServingError):
            self._refused(outcome)
            return
        assert self._encode is not None, "expect() comes before submit()"  # noqa: S101 - narrows for mypy
        try:
            self._call.reply(self._encode(outcome, self._context))
            if self._close():
                self._timing = outcome.timing
                if self._meter is not None:
                    self._meter.add(self)
                else:
                    self._gate.observer.finished(self.outcome(time.monotonic() - self.started))
        except Exception as error:  # noqa: BLE001 - as __exit__, which costs every answer 0.3 us more
            self.fail(error)

    def _refused(self, error: ServingError) -> None:
        again, self._again = self._again, None
        if again is None or not isinstance(error, ModelNotReady | ShuttingDown):
            self.fail(error)
            return
        with self:
            again()

    def fail(self, error: BaseException) -> None:
        """End the call with an error."""
        status = status_error(error, self._call.method)
        self._call.fail(status.code, status.details, status.trailers)
        if self._close():
            self._gate.observer.finished(self.outcome(time.monotonic() - self.started, status.code, reason(error)))

    def _close(self) -> bool:
        """Give back what the call holds; False if that was done before."""
        if not self._open:
            return False
        self._open = False
        self._again = None  # which knows us
        if self._admitted:
            self._gate.admission.leave(self._size)
        return True

    def outcome(self, seconds: float, code: StatusCode = StatusCode.OK, why: str = "") -> Outcome:
        """Say how it ended, for who counts (`wire.observer.Ended`)."""
        call, request, spec = self._call, self._request, self._spec
        if request is not None:
            model, version = request.model_name, request.model_version
        else:
            model, version = (spec.name, spec.version) if spec is not None else ("", "")
        return Outcome(call.method, code, seconds, call.peer, model, version, why, request, self._timing, call.metadata)
