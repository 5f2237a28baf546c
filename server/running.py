"""Batches on their way through an instance: who runs what since when.

Plain values, written by the dispatcher under the scheduler's lock. This module must never know locks or replies.
"""

from dataclasses import dataclass

from server.recovery import Pieces
from server.sessions.base import Instance


@dataclass(slots=True, eq=False)
class Slot:
    """One instance and the run it holds."""

    instance: Instance
    run: "Run | None" = None
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
    """The last deadline of a request in it: afterwards nobody waits."""
    stopped: bool = False
    """Whether its instance was asked to stop it."""
