"""The in-process queue: a request goes straight to the scheduler of its model version.

There is nothing to carry and nothing to lose, so all the promises of `Queue` are the scheduler's own.
"""

from collections.abc import Callable, Iterable
from typing import Protocol

from server.errors import ModelNotReady, ShuttingDown
from server.messages import InferRequest, Reply, Ticket
from server.spec import ModelSpec
from server.statistics import QueueStatistics


class Target(Protocol):
    """What takes requests of one model version: a `Scheduler`, or a response cache before one."""

    spec: ModelSpec

    def submit(self, request: InferRequest, reply: Reply) -> Ticket:
        """See `Queue.submit`."""

    def reject(self, reason: str, requests: int) -> None:
        """Count refusals that were decided elsewhere."""

    def queue_statistics(self) -> QueueStatistics:
        """Return what waits and runs at this moment."""


Resolve = Callable[[str, str], Target | None]
"""Finds the target of (model, version), None if it is not in service; a dictionary look-up, any thread."""


class MemoryQueue:
    """See `server.queues.base.Queue`. `targets` lists all that are in service, for the statistics."""

    def __init__(self, resolve: Resolve, targets: Callable[[], Iterable[Target]]) -> None:
        self._resolve = resolve
        self._targets = targets

    def submit(self, request: InferRequest, reply: Reply) -> Ticket:
        """See `Queue.submit`."""
        target = self._resolve(request.model_name, request.model_version)
        if target is None or (request.spec is not target.spec and request.spec is not None):
            raise _left(request)  # a reload of the same version may have other tensors than were checked
        try:
            return target.submit(request, reply)
        except ShuttingDown:
            # Drained between our look-up and now: the version is gone, the server is not. The caller looks again.
            if self._resolve(request.model_name, request.model_version) is not target:
                raise _left(request) from None
            raise

    def reject(self, model: str, version: str, reason: str, requests: int = 1) -> None:
        """See `Queue.reject`."""
        target = self._resolve(model, version)
        if target is not None:
            target.reject(reason, requests)

    def statistics(self) -> dict[tuple[str, str], QueueStatistics]:
        """See `Queue.statistics`."""
        return {(target.spec.name, target.spec.version): target.queue_statistics() for target in self._targets()}


def _left(request: InferRequest) -> ModelNotReady:
    return ModelNotReady(f"model {request.model_name!r}: this version is no longer in service")
