"""The queue contract: how a validated request finds a worker and its answer finds the way back.

`memory` hands requests to the scheduler of this process; `redis_streams` carries them to any worker anywhere.
Both pass tests/contract/test_queue.py. A queue must never know a transport, and nothing above it knows redis.
"""

from typing import Protocol

from server.messages import InferRequest, Reply, Ticket
from server.statistics import QueueStatistics

__all__ = ["Queue", "QueueStatistics"]


class Queue(Protocol):
    """Requests in, exactly one reply out for each that was accepted.

    The promise: `submit` either raises or takes over the duty to call `reply` exactly once, whatever happens:
    answered, expired at its deadline (within 20 ms of it, also while every instance is busy), cancelled, failed,
    or shut down. A reply whose caller has gone is dropped and counted.
    A queue whose scheduler is in another process may give the errors below as the reply instead of raising them.
    """

    def submit(self, request: InferRequest, reply: Reply) -> Ticket:
        """Queue a request; returns at once.

        Raises:
            QueueFull: the bound is reached; `retry_after` is set.
            DeadlineUnreachable: the predicted start misses the deadline; `retry_after` is set.
            DeadlineExceeded: it has already passed.
            ModelNotReady: the version left service since the request was validated.
            ShuttingDown: draining.
            QueueUnavailable: the broker cannot be reached.
        """

    def reject(self, model: str, version: str, reason: str, requests: int = 1) -> None:
        """Count a refusal that was decided by an earlier one, without asking."""

    def statistics(self) -> dict[tuple[str, str], QueueStatistics]:
        """Return the state of every queue by (model, version)."""
