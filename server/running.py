"""Batches on their way through an instance: who runs what since when.

This module must never know locks or replies; the scheduler writes these under its own lock.
"""

from dataclasses import dataclass

from server.recovery import Pieces
from server.sessions.base import Instance


@dataclass(slots=True, eq=False)
class Slot:
    """One instance and the run it holds. It is free when neither a run nor a stop is under way and it is available."""

    instance: Instance
    run: "Run | None" = None
    free: bool = True
    stopping: bool = False
    """Whether `terminate` is being called; a run started meanwhile could be stopped in the place of the one meant."""


@dataclass(slots=True, eq=False)
class Run:
    """One batch in one instance."""

    slot: Slot
    pieces: Pieces
    rows: int
    started: float
    expected_end: float
    latest: float
    """The last deadline of a request in it; nobody waits longer."""

    def unsettled(self) -> Pieces:
        """Return the pieces whose requests are still owed an answer."""
        return [piece for piece in self.pieces if not piece[0].settled]

    def abandoned(self) -> bool:
        """Whether nobody waits for any of it."""
        return all(piece[0].settled for piece in self.pieces)
