"""What to do with a batch that did not come back, so that only the culprit pays.

The rules, by what the instance reported:
    RunFailed       the runtime refused some row's values: bisect; a request that fails alone gets InvalidValues
    InstanceDied    any row may have killed it: run each alone; who is alone when it dies again fails
    RunTimedOut     those past their deadline are answered so; the others as above, for one of them may hang for ever
    OutOfMemory     halve the batch, down to a single row, which fails
Whoever is to blame may be answered already, expired or cancelled. So who is left of a batch gets another run alone.
This module must never know locks or instances: it sorts pieces into lists.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from server.errors import DeadlineExceeded, InferenceFailed, InvalidValues, ServingError
from server.lanes import Piece
from server.pending import Pending
from server.sessions.base import BatchError, InstanceDied, OutOfMemory, RunFailed, RunTimedOut

Pieces = list[Piece[Pending]]

FAILED = "the model failed while it ran this request"
INVALID = "the model cannot compute these input values"
EXPIRED = "the deadline passed before the answer was ready"


@dataclass(slots=True)
class Recovery:
    """Batches to run again, at once and in this order, and the requests that end here."""

    again: list[Pieces] = field(default_factory=list)
    failed: list[tuple[Pending, ServingError]] = field(default_factory=list)


def recover(ran: Pieces, error: BatchError, now: float) -> Recovery:
    """Sort the unanswered of the pieces that `ran` into those that get another chance and those that do not."""
    recovery = Recovery()
    pieces = [piece for piece in ran if not piece[0].settled]
    if not pieces:
        return recovery
    match error:
        case OutOfMemory() | RunFailed() if len(pieces) == 1 < len(ran):
            recovery.again = [pieces]
        case OutOfMemory() if _rows(pieces) > 1:
            recovery.again = _halve_rows(pieces)
        case RunFailed() if len(pieces) > 1:
            middle = len(pieces) // 2
            recovery.again = [pieces[:middle], pieces[middle:]]
        case RunFailed():
            recovery.failed = [(pieces[0][0], InvalidValues(INVALID))]
        case InstanceDied() | RunTimedOut():
            _one_by_one(pieces, error, now, recovery, alone=len(ran) == 1)
        case _:
            recovery.failed = [(piece[0], InferenceFailed(FAILED)) for piece in pieces]
    return recovery


def _one_by_one(pieces: Pieces, error: BatchError, now: float, recovery: Recovery, *, alone: bool) -> None:
    for piece in pieces:
        pending = piece[0]
        pending.deaths += 1
        if isinstance(error, RunTimedOut) and now >= pending.deadline:
            recovery.failed.append((pending, DeadlineExceeded(EXPIRED)))
        elif alone and (pending.deaths > 1 or isinstance(error, RunTimedOut)):
            recovery.failed.append((pending, InferenceFailed(FAILED)))
        else:
            recovery.again.append([piece])


def _rows(pieces: Sequence[Piece[Pending]]) -> int:
    return sum(rows for _, _, rows in pieces)


def _halve_rows(pieces: Pieces) -> list[Pieces]:
    """Cut a batch in two of equal rows, through the middle of a request where it must be."""
    first: Pieces = []
    second: Pieces = []
    room = _rows(pieces) // 2
    for entry, start, rows in pieces:
        fitting = min(rows, room)
        if fitting:
            first.append((entry, start, fitting))
            room -= fitting
        if rows > fitting:
            second.append((entry, start + fitting, rows - fitting))
    return [first, second]
