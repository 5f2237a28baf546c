"""How many sessions of a model run side by side on the CPU, where its config leaves that open.

Sessions of one thread each answer more rows a second than one session with a thread for every core, which has to wait
for its slowest thread at every node of the graph: two of them 1.3 times as many MNIST digits and reviews on two cores.
They cost memory, so a model gets more than one only where the frontend could keep a second one busy; and a single row
is not made faster by them, so a model whose single row takes long keeps one session with many threads.
No core is set aside for the frontend: on two of them two sessions answer 1.5 to 1.9 times the rows, and under 1.2 and 2
times that load more requests in time (docs/performance.md) than one session that has a core to itself.
This module must never know how sessions are opened.
"""

import math
from collections.abc import Sequence

from server.cost import CostCurve
from server.sessions.base import CostPoint

FRONTEND_ROW = 25e-6
"""Seconds of CPU a row costs the frontend where requests have a few of them; alone it costs three times that."""

LONGEST_ROW = 0.010
"""Seconds that a single row may take with one thread."""

WORTHWHILE = 1.25
"""Rows a second of all the sessions of one thread, over those of the one they take the place of."""


def busy_copies(alone: Sequence[CostPoint], cores: int) -> int:
    """Return how many sessions of one thread a frontend can keep busy; 1 where a row takes too long with one thread.

    `alone` is the cost curve of one session with one thread, `cores` those that sessions may have.
    """
    curve = CostCurve((point.rows, point.seconds) for point in alone)
    if curve.seconds(1) > LONGEST_ROW:
        return 1
    return min(cores, math.ceil(_row(curve) / FRONTEND_ROW))


def worthwhile(alone: Sequence[CostPoint], together: Sequence[CostPoint], copies: int) -> bool:
    """Whether so many sessions of one thread are worth more than one with many threads, whose cost is `together`."""
    one, many = (CostCurve((point.rows, point.seconds) for point in points) for points in (alone, together))
    return copies * _row(many) >= WORTHWHILE * _row(one)


def _row(curve: CostCurve) -> float:
    """Return the seconds of a row in the best batch."""
    return curve.seconds(curve.knee()) / curve.knee()
