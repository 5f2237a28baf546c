"""Decides which rows run together next, and which can no longer be helped.

Pull-based: nothing is decided until an instance is free and asks, so a batch is as large as the backlog and nobody
waits for a timer (unless the model's config sets a queue delay). The most urgent entry is the seed; the batch is
filled in order of deadline with rows of the same shapes and, where rows have a length, of near length. An entry that
does not fit whole gives the rows that fit: splitting never delays it and keeps batches full.

Pure: no lock, no thread, no clock. Every method that depends on time takes `now`, so tests and simulations own it.
This module must never know requests, replies or instances; its users subclass `Entry` for what they carry along.

The state, all of it:
    _lanes      (rank, shapes, size class) -> Lane: a heap of waiting entries, earliest deadline first
    _order      heap over the first entry of each lane; stale ones are skipped
    _due        how many rows are due when: the calendar, to know how many are more urgent
    rows, entries, entries_by_rank   what is waiting, cancelled ones not counted
    _taken      rows that were put into batches
"""

import heapq
import itertools
import math
from collections import defaultdict
from collections.abc import Iterator
from typing import Generic

from server.cost import CostCurve
from server.due import Due
from server.lanes import Batch, E, Key, Lane
from server.spec import BatchPolicy

SIZE_STEP = math.log(1.08)
"""Width of a size class: the rows of one lane differ by at most 8 % in size."""

OFFSETS = (0, 1, -1, 2, -2)
"""Size classes a batch may draw from beside its seed's, nearest first; from further away little would fit."""

RUN_SHARE = 0.6
"""The part of a request's whole budget that its run may take; the rest is for waiting until an instance is free.

Without it, deadlines not much longer than a full batch ruin goodput: at 1.2x load it was 290 to 330 requests/s for
budgets of 12 to 20 ms in the simulation of tests/unit/test_goodput.py, and is 570 to 1117 with it.
"""

URGENT_BATCHES = 3
"""An entry due within the time of so many full batches is urgent; see `_room`."""

SPARE_LANES = 64
"""Empty lanes kept for the next entry alike; beyond that they go, since shapes can be a caller's choice."""

COMPACT_AT = 64
"""Cancelled entries a lane may carry along before it is cleaned, if they are also more than half of it."""


class Batcher(Generic[E]):
    """The waiting entries of one model version. `limit` is the most rows a batch may have."""

    def __init__(self, policy: BatchPolicy, costs: CostCurve, limit: int) -> None:
        self.limit = limit
        self.entries = 0
        self.entries_by_rank: defaultdict[int, int] = defaultdict(int)
        self._taken = 0
        self._policy = policy
        self._costs = costs
        self._lanes: dict[Key, Lane[E]] = {}
        self._order: list[tuple[int, float, int, Lane[E], E]] = []
        self._due = Due()
        self._numbers = itertools.count()

    @property
    def rows(self) -> int:
        """Rows that wait."""
        return self._due.rows

    def add(self, entry: E) -> None:
        """Put an entry in the queue."""
        key = (entry.rank, entry.shapes, int(math.log(entry.size) / SIZE_STEP) if entry.size > 0 else -1)
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = Lane(key)
        rows = entry.rows - entry.taken
        deadline = entry.deadline
        entry.lane = lane
        entry.waiting = True
        entry.slot = self._due.add(entry.rank, deadline, rows)
        number = next(self._numbers)
        heapq.heappush(lane.heap, (deadline, number, entry))
        if lane.heap[0][1] == number:
            self._list(lane)
        lane.rows += rows
        self.entries += 1
        self.entries_by_rank[entry.rank] += 1

    def discard(self, entry: E) -> bool:
        """Forget a waiting entry; False if it was not waiting. Its place in the heap goes when it comes up."""
        if not entry.waiting:
            return False
        lane: Lane[E] = entry.lane
        entry.waiting = False
        self._uncount(lane, entry, entry.rows - entry.taken)
        self.entries -= 1
        self.entries_by_rank[entry.rank] -= 1
        lane.cancelled += 1
        if lane.cancelled > max(COMPACT_AT, len(lane.heap) // 2):
            lane.heap[:] = [item for item in lane.heap if item[2].waiting]
            heapq.heapify(lane.heap)
            lane.cancelled = 0
            self._list(lane)
        return True

    def take(self, now: float) -> Batch[E]:
        """Form the batch that should start now; empty if nothing is waiting or a queue delay holds it back."""
        batch: Batch[E] = Batch()
        while (seed := self._most_urgent()) is not None:
            lanes = self._reach(seed)
            batch.not_before = self._held_until(lanes)
            if batch.not_before > now:
                break
            room = self._room(lanes, now)
            if room > 0:
                self._fill(batch, lanes, room, now)
                break
            self._give_up(seed, now, batch.dropped)
        return batch

    def rows_for(self, budget: float) -> int:
        """Return the most rows of a batch for requests that had `budget` seconds in all when they came."""
        if self._costs.seconds_at_most(self.limit) <= RUN_SHARE * budget:
            return self.limit
        return max(self._costs.rows_within(RUN_SHARE * budget, self.limit), 1)

    def expire(self, now: float) -> list[E]:
        """Take out and return every entry whose deadline has passed; those that may be delayed move behind instead."""
        expired: list[E] = []
        for lane in list(self._lanes.values()):
            while (first := self._first(lane)) is not None and first.deadline <= now:
                self._give_up(lane, now, expired)
        return expired

    def next_deadline(self) -> float:
        """Return the earliest deadline that is waiting, infinity if none is."""
        firsts = (self._first(lane) for lane in self._lanes.values())
        return min((first.deadline for first in firsts if first is not None), default=math.inf)

    def rows_before(self, rank: int, deadline: float) -> int:
        """Return about how many of the waiting rows would be taken before those of a newcomer."""
        return self._due.before(rank, deadline)

    def rows_taken(self) -> int:
        """Return how many rows batches have had in all; any thread."""
        return self._taken

    def __iter__(self) -> Iterator[E]:
        """Iterate over the waiting entries in no particular order."""
        return (entry for lane in self._lanes.values() for _, _, entry in lane.heap if entry.waiting)

    def _most_urgent(self) -> Lane[E] | None:
        """Return the lane whose first entry is the most urgent of all."""
        order = self._order
        while order:
            _, _, number, lane, entry = order[0]
            if self._first(lane) is entry and lane.heap[0][1] == number:
                return lane
            heapq.heappop(order)
            entry.listed = False
        return None

    def _first(self, lane: Lane[E]) -> E | None:
        """Return a lane's most urgent entry, throwing away the cancelled ones before it."""
        heap = lane.heap
        if heap and heap[0][2].waiting:
            return heap[0][2]
        while heap and not heap[0][2].waiting:
            heapq.heappop(heap)
            lane.cancelled -= 1
        self._list(lane)
        return heap[0][2] if heap else None

    def _list(self, lane: Lane[E]) -> None:
        """See to it that `_order` knows the lane by its first entry."""
        if lane.heap:
            deadline, number, entry = lane.heap[0]
            if not entry.listed:
                entry.listed = True
                heapq.heappush(self._order, (lane.key[0], deadline, number, lane, entry))
        elif len(self._lanes) > SPARE_LANES and self._lanes.get(lane.key) is lane:
            del self._lanes[lane.key]

    def _reach(self, seed: Lane[E]) -> list[Lane[E]]:
        """Return the lanes a batch may draw from: the seed's, then nearest in size, then the ranks behind it."""
        rank, shapes, size_class = seed.key
        if len(self._lanes) == 1:
            return [seed]
        ranks = [rank, *self._due.ranks_behind(rank)]
        offsets = OFFSETS if size_class >= 0 else (0,)
        keys = ((other, shapes, size_class + offset) for other in ranks for offset in offsets)
        return [lane for key in keys if (lane := self._lanes.get(key)) is not None and lane.rows]

    def _available(self, lanes: list[Lane[E]]) -> int:
        """Return the rows the next batch would have if all deadlines were far."""
        if not self._policy.enabled:
            first = lanes[0].heap[0][2]
            return min(first.rows - first.taken, self.limit)
        rows = min(lanes[0].rows if len(lanes) == 1 else sum(lane.rows for lane in lanes), self.limit)
        preferred = [size for size in self._policy.preferred_batch_sizes if size <= rows]
        return max(preferred) if preferred and rows < self.limit else rows

    def _held_until(self, lanes: list[Lane[E]]) -> float:
        """Return until when a queue delay holds the batch back; the past if it does not."""
        delay = self._policy.max_queue_delay
        rows = self._available(lanes) if delay else 0
        if not delay or rows == self.limit or rows in self._policy.preferred_batch_sizes:
            return -math.inf
        # Fewer entries than a batch holds rows are waiting here, so looking at each of them is cheap.
        oldest = min(item[2].arrival for lane in lanes for item in lane.heap if item[2].waiting)
        return min(oldest + delay, lanes[0].heap[0][0] - self._costs.seconds_at_most(rows))

    def _room(self, lanes: list[Lane[E]], now: float) -> int:
        """Return how many rows the batch of the first lane's first entry may have; 0 if that one is doomed.

        Where more rows are urgent than a batch holds, a doomed entry is dropped, for shrinking batches to save the
        late ones is how goodput collapses; otherwise a smaller batch saves it, and those left behind have the time.
        """
        first = lanes[0].heap[0][2]
        budget = first.end - now
        limit = self.rows_for(first.end - first.arrival)
        rows = min(self._available(lanes), limit)
        if self._costs.seconds_at_most(rows) <= budget:
            return rows
        urgent = now + URGENT_BATCHES * self._costs.seconds(limit)
        if self.rows_before(first.rank, urgent) > limit:
            return 0
        fitting = self._costs.rows_within(budget, rows)
        return fitting if fitting >= min(first.rows - first.taken, self.limit) else 0

    def _fill(self, batch: Batch[E], lanes: list[Lane[E]], room: int, now: float) -> None:
        finish = now + self._costs.seconds_at_most(room)
        self._draw(batch, lanes[0], room)
        for lane in lanes[1:]:
            self._draw(batch, lane, room, finish)

    def _draw(self, batch: Batch[E], lane: Lane[E], room: int, finish: float | None = None) -> None:
        rows, entries = lane.draw(batch, self._due, room, finish)
        self._taken += rows
        self.entries -= entries
        self.entries_by_rank[lane.key[0]] -= entries
        self._list(lane)

    def _give_up(self, lane: Lane[E], now: float, dropped: list[E]) -> None:
        """Take a lane's first entry out for good, or move it behind the others where its policy says so."""
        _, _, entry = heapq.heappop(lane.heap)
        entry.waiting = entry.listed = False
        self._uncount(lane, entry, entry.rows - entry.taken)
        self.entries -= 1
        self.entries_by_rank[entry.rank] -= 1
        self._list(lane)
        if entry.delayed_deadline is None or entry.delayed_deadline <= now:
            dropped.append(entry)
        else:
            entry.deadline, entry.delayed_deadline = entry.delayed_deadline, None
            entry.rank += 1
            self.add(entry)

    def _uncount(self, lane: Lane[E], entry: E, rows: int) -> None:
        lane.rows -= rows
        self._due.remove(entry.rank, entry.slot, rows)
