"""How many rows are due when, by rank: a coarse calendar of deadlines, which says what goes before a newcomer.

Pure: no clock, and nothing of what the rows are. This module must never know an entry or a batch.
"""

import math
from collections import defaultdict
from collections.abc import Iterator

SLOT = 0.005
"""Resolution in seconds: finer than any prediction is good for."""

NEARLY_LAST = 4
"""Slots that are looked at from the last one on: what comes on different connections is a little out of order."""

NEVER = 1 << 60
"""The slot of what has no deadline."""


class Due:
    """Rows by rank and slot; `rows` are all of them."""

    def __init__(self) -> None:
        self.rows = 0
        self._slots: defaultdict[int, defaultdict[int, int]] = defaultdict(lambda: defaultdict(int))
        self._latest: dict[int, int] = {}
        """By rank, a slot that none of its rows is behind."""

    def add(self, rank: int, deadline: float, rows: int) -> int:
        """Enter rows; return their slot."""
        slot = int(deadline / SLOT) if deadline < math.inf else NEVER
        slots = self._slots[rank]
        if not slots or slot > self._latest[rank]:
            self._latest[rank] = slot
        slots[slot] += rows
        self.rows += rows
        return slot

    def remove(self, rank: int, slot: int, rows: int) -> None:
        """Strike rows out that were entered in a slot."""
        slots = self._slots[rank]
        slots[slot] -= rows
        if not slots[slot]:
            del slots[slot]
        self.rows -= rows

    def before(self, rank: int, deadline: float) -> int:
        """Return the rows of lower ranks, and those of this one that are due no later."""
        last = deadline / SLOT
        if len(self._slots) == 1 and (latest := self._latest.get(rank, NEVER)) - last < NEARLY_LAST:
            slots, rows = self._slots[rank], self.rows  # the usual case: deadlines nearly always come in order
            while latest > last:
                rows -= slots.get(latest, 0)
                latest -= 1
            return rows
        rows = 0
        for other, slots in self._slots.items():
            if other < rank:
                rows += sum(slots.values())
            elif other == rank:
                rows += sum(count for slot, count in slots.items() if slot <= last)
        return rows

    def ranks_behind(self, rank: int) -> Iterator[int]:
        """Iterate over the higher ranks there have been, ascending."""
        return iter(sorted(other for other in self._slots if other > rank))
