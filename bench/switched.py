"""What metrics cost, within one process under one load: counting is taken out and put back every tenth of a second.

Two processes of the very same server differ by up to 7 %, by where in memory they lie, and turns of one process that
are a second apart by 17 %, by what else the host does. So each stretch is compared with those beside it.
"""

import itertools
import time
from collections.abc import Sequence

import numpy as np

from bench import without_metrics
from bench.closed import H2Load, Seconds
from bench.targets import Target

STRETCH, SETTLING = 0.1, 0.01
"""Seconds between two switches, and behind one the seconds that are not counted."""
LEFT_OUT = 3
"""Stretches at the beginning, and as many at the end: the load comes up, and goes."""
SHORTEST = 4.0
"""Seconds of load that make some thirty comparisons."""


def shares(target: Target, load: H2Load, seconds: float) -> list[float]:
    """Return answers a second with metrics over those without, of every stretch beside its neighbours."""
    on = False

    def switch() -> float:
        nonlocal on
        on = not on
        assert target.process is not None  # noqa: S101 - it was started here
        target.process.send_signal(without_metrics.ON if on else without_metrics.OFF)
        now = time.time()  # noqa: TID251 - h2load writes down when an answer came by that clock
        time.sleep(STRETCH)
        return now

    switched, ends = load.ends(256, max(seconds, SHORTEST), switch)
    return compared(switched, ends)


def compared(switched: Sequence[float], ends: Seconds) -> list[float]:
    """Return the shares; `switched` are the instants of putting it back and taking it out in turn, `ends` answers'."""
    rates = []
    for begins, until in itertools.pairwise(switched):
        first, last = np.searchsorted(ends, (begins + SETTLING, until))
        rates.append(float(last - first) / (until - begins - SETTLING))
    found = []
    for place in range(LEFT_OUT, len(rates) - LEFT_OUT):
        beside = (rates[place - 1] + rates[place + 1]) / 2
        if beside and rates[place]:
            found.append(rates[place] / beside if place % 2 == 0 else beside / rates[place])
    return found
