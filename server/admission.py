"""Who may join a queue: the terms a request gets and the reasons to refuse it at once.

Refusing early is what keeps an overloaded server useful: a request that would miss its deadline costs 10 us here and
a caller's whole budget later. Cheapest check first, and every refusal says what was expected and when to come back.
This module must never know locks, instances or replies.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass

from server.batcher import RUN_SHARE, Batcher
from server.cost import CostCurve
from server.errors import DeadlineExceeded, DeadlineUnreachable, QueueFull
from server.messages import ITEM_BYTES, InferRequest, element_count
from server.pending import Pending
from server.spec import BatchPolicy, ModelSpec, QueuePolicy

SLACK_PRIORITY = 0xFFFF_FFFF
"""The priority of work that uses only what all other classes leave over, such as durable jobs."""

HEADROOM = 0.2
"""The part of a budget that a promise leaves for what we do not see: the way here, and the way back."""

CROWDED_HEADROOM = 0.3
"""The same for who has to wait: where one waits here, calls wait in sockets and threads for a core as well.

Under overload the queue is as long as admission lets it be, so every answer leaves at the last moment allowed.
Simulated at twice the load, 100 ms deadlines, up to 20 ms of them unseen each way: with a fifth 0.62 to 0.76 of the
capacity come in time, with three tenths 0.94 to 0.99. With nothing unseen the shorter queue costs nothing: it still
keeps the instances busy.
"""

SHORTEST_RETRY = 0.001
"""Seconds; a retry hint below this would be a busy loop."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one model version's queue. Durations are seconds; bytes count what is waiting or running."""

    max_requests: int
    max_rows: int
    max_bytes: int
    max_deadline: float
    """No request waits longer, whatever its deadline: nothing can starve."""
    run_timeout: float
    """No run takes longer, whatever the deadlines in it."""


class Admission:
    """The entrance of one queue. Called under the scheduler's lock."""

    def __init__(self, spec: ModelSpec, limits: Limits, costs: CostCurve, instances: int) -> None:
        self._policy: BatchPolicy = spec.config.batching
        self._limits = limits
        self._costs = costs
        self._instances = max(instances, 1)
        self._only_policy = None if self._policy.priority_levels else self._policy.default_queue_policy
        self._levels = self._policy.priority_levels
        # Rows of a model whose shapes are all fixed are alike, so the usual request needs no look at its tensors.
        dims = [-1 if tensor.optional else dim for tensor in spec.inputs for dim in tensor.shape[int(spec.batches) :]]
        self._fixed = min(dims, default=1) >= 0
        self._row_bytes = sum(
            element_count(tensor.shape[int(spec.batches) :]) * ITEM_BYTES.get(tensor.datatype, 0)
            for tensor in spec.inputs
        )

    def set_terms(self, pending: Pending, now: float) -> None:
        """Work out a request's class, deadline, what it may share a batch with and how much memory it holds."""
        request = pending.request
        level = request.priority
        if level != SLACK_PRIORITY and not 0 < level <= self._levels:
            level = self._policy.default_priority_level if self._levels else 0
        pending.rank = 2 * level
        policy = self._only_policy or self._policy.queue_policy(level)
        pending.deadline = min(request.deadline, now + self._limits.max_deadline)
        timeout = _timeout(policy, request)
        if timeout is not None and now + timeout < pending.deadline:
            if policy.timeout_action == "delay":
                pending.delayed_deadline = pending.deadline
            pending.deadline = now + timeout
        if self._fixed:
            pending.bytes = request.rows * (self._row_bytes + request.size)
        else:
            pending.bytes = sum(len(tensor.data) for tensor in request.inputs)
            pending.shapes = _shapes(request)

    def check(self, pending: Pending, batcher: Batcher[Pending], held_bytes: int) -> None:
        """Refuse what the bounds leave no room for.

        Raises:
            DeadlineExceeded: its deadline has already passed.
            QueueFull: too many requests, rows or bytes are here; `retry_after` is when about half have left.
        """
        if pending.deadline <= pending.arrival:
            raise DeadlineExceeded("the deadline had passed before the request was queued")
        limits = self._limits
        bound = (self._only_policy or self._policy.queue_policy(pending.rank // 2)).max_queue_size
        waiting = batcher.entries
        if waiting >= limits.max_requests:
            self._refuse("requests", limits.max_requests, batcher)
        if bound and batcher.entries_by_rank[pending.rank] + batcher.entries_by_rank[pending.rank + 1] >= bound:
            self._refuse("requests of its priority", bound, batcher)
        if waiting and batcher.rows + pending.rows > limits.max_rows:
            self._refuse("rows", limits.max_rows, batcher)
        if held_bytes and held_bytes + pending.bytes > limits.max_bytes:
            self._refuse("bytes", limits.max_bytes, batcher)

    def _refuse(self, what: str, bound: int, batcher: Batcher[Pending]) -> None:
        half = self._costs.start_after(batcher.rows // 2, batcher.limit, 1)
        raise QueueFull(f"the queue is full: expected at most {bound} {what}", retry_after=max(half, SHORTEST_RETRY))

    def predict(self, pending: Pending, batcher: Batcher[Pending], free_at: Callable[[float], float]) -> None:
        """Refuse a request that would finish too late.

        `free_at` takes the present instant and returns when the first instance can take a batch.

        Raises:
            DeadlineUnreachable: `retry_after` is when a request with the same budget would be in time.
        """
        costs, limit, instances = self._costs, batcher.limit, self._instances
        budget = pending.end - pending.arrival
        longest = costs.seconds_at_most(limit)
        if (1 - CROWDED_HEADROOM) * budget > (3 + batcher.rows / (limit * instances)) * longest:
            return  # in time even if all that waits went first: the usual case, and cheap
        if longest > RUN_SHARE * budget:
            limit = batcher.rows_for(budget)
            longest = costs.seconds_at_most(limit)
        ahead = batcher.rows_before(pending.rank, pending.deadline)
        start = free_at(pending.arrival) + costs.start_after(ahead, limit, instances)
        rows = ahead + pending.rows
        finish = start + (longest if rows >= limit else costs.seconds_at_most(rows))
        headroom = CROWDED_HEADROOM if start > pending.arrival else HEADROOM
        if finish > pending.end - headroom * budget:
            needed = (finish - pending.arrival) / (1 - headroom)
            raise DeadlineUnreachable(
                f"expected a deadline at least {1000 * needed:.1f} ms away, got {1000 * budget:.1f} ms",
                retry_after=max(needed - budget, SHORTEST_RETRY),
                wait=max(start - pending.arrival, 0.0),
                taken=batcher.rows_taken,
            )


def _timeout(policy: QueuePolicy, request: InferRequest) -> float | None:
    """Return the queue timeout that holds: the policy's, shortened by the request where it may."""
    if policy.allow_timeout_override and request.timeout:
        return min(request.timeout, policy.default_timeout or request.timeout)
    return policy.default_timeout


def _shapes(request: InferRequest) -> Hashable:
    return tuple((tensor.name, tensor.shape[1:]) for tensor in request.inputs)
