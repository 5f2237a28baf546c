"""What the batcher handles: waiting entries, the lanes they wait in, and the batch that is drawn from them.

Which lanes, how many rows and when is the batcher's to decide. This module must never know requests, replies or
instances.
"""

import heapq
import math
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from server.due import Due

MAX_WASTE = 0.15
"""Largest part of a batch that may be padding, in the unit of `Entry.size`: bytes, which stand for tokens roughly.

Measured with 64 to 500 reviews waiting and batches of 16 and 32: padded tokens are 14 to 17 % of IMDB's and 20 to 24 %
of SST-2's, where taking them as they come makes it 64 to 70 % and 48 to 53 %.
"""

Key = tuple[int, Hashable, int]


class Entry:
    """A waiting request as the batcher sees it.

    `rank` orders the classes, lower first: a priority level has an even one, and its delayed entries wait at the odd
    one after it. `delayed_deadline` is None where missing `deadline` ends the request; otherwise the entry moves to
    the odd rank then and waits until that. `taken` counts the rows already handed out.
    """

    __slots__ = (
        "arrival", "deadline", "delayed_deadline", "lane", "listed", "rank", "rows", "shapes", "size", "slot", "taken",
        "waiting",
    )  # fmt: skip
    lane: "Lane[Any]"
    slot: int

    def __init__(self, rows: int, deadline: float, arrival: float) -> None:
        self.rows = rows
        self.deadline = deadline
        self.arrival = arrival
        self.rank = 0
        self.size = 0
        self.shapes: Hashable = ()
        self.delayed_deadline: float | None = None
        self.taken = 0
        self.waiting = False
        self.listed = False

    @property
    def end(self) -> float:
        """The instant after which nobody waits for it."""
        return self.deadline if self.delayed_deadline is None else self.delayed_deadline


E = TypeVar("E", bound=Entry)
Piece = tuple[E, int, int]
"""An entry, the first of its rows that runs, and how many."""


@dataclass(slots=True)
class Batch(Generic[E]):
    """What `take` decided: rows to run now (maybe none) and entries that missed their chance."""

    pieces: list[Piece[E]] = field(default_factory=list)
    rows: int = 0
    size: int = 0
    """The largest size among the rows, which all of them are padded to."""
    sizes: int = 0
    """The sum of the rows' own sizes."""
    latest: float = -math.inf
    """The last deadline of an entry in it."""
    dropped: list[E] = field(default_factory=list)
    """Taken out because they could not have finished in time."""
    not_before: float = math.inf
    """Where the queue delay holds a batch back: the instant to ask again."""

    def add(self, entry: E, start: int, rows: int) -> None:
        """Take `rows` of an entry, from `start` on."""
        self.pieces.append((entry, start, rows))
        self.rows += rows
        if entry.size:
            self.size = max(self.size, entry.size)
            self.sizes += entry.size * rows
        end = entry.end
        if end > self.latest:  # noqa: PLR1730 - a call of max() for each request
            self.latest = end


class Lane(Generic[E]):
    """Waiting entries of one rank that may share a batch, as a heap of (deadline, arrival number, entry)."""

    __slots__ = ("cancelled", "heap", "key", "rows")

    def __init__(self, key: Key) -> None:
        self.key = key
        self.heap: list[tuple[float, int, E]] = []
        self.rows = 0
        self.cancelled = 0

    def draw(self, batch: Batch[E], due: Due, room: int, finish: float | None = None) -> tuple[int, int]:
        """Move entries into a batch, most urgent first, until that has `room` rows; return how many rows and entries.

        With `finish` only as long as they can wait until then and are of near length. `due` has them struck out.
        """
        heap, rank, before, entries = self.heap, self.key[0], batch.rows, 0
        while batch.rows < room and heap:
            entry = heap[0][2]
            if not entry.waiting:
                heapq.heappop(heap)
                self.cancelled -= 1
                continue
            if finish is not None and not (entry.end >= finish and _near(batch, entry)):
                break
            taken, rows = entry.taken, room - batch.rows
            if entry.rows - taken <= rows:
                rows = entry.rows - taken
                heapq.heappop(heap)
                entry.waiting = False
                entries += 1
            entry.taken = taken + rows
            batch.add(entry, taken, rows)
            due.remove(rank, entry.slot, rows)
        self.rows -= batch.rows - before
        return batch.rows - before, entries


def _near(batch: Batch[Any], entry: Entry) -> bool:
    """Whether a batch with this entry in it would still be padded by no more than `MAX_WASTE`."""
    padded = max(batch.size, entry.size) * (batch.rows + 1)
    return padded - batch.sizes - entry.size <= MAX_WASTE * padded
