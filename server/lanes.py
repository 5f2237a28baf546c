"""What the batcher handles: waiting entries, the lanes they wait in, and the batch that comes of them.

Plain values without a decision in them. This module must never know requests, replies or instances.
"""

import math
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

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


class Lane(Generic[E]):
    """Waiting entries of one rank that may share a batch, as a heap of (deadline, arrival number, entry)."""

    __slots__ = ("cancelled", "heap", "key", "rows")

    def __init__(self, key: Key) -> None:
        self.key = key
        self.heap: list[tuple[float, int, E]] = []
        self.rows = 0
        self.cancelled = 0


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
