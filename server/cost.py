"""How long a batch takes: t(b), measured at load and kept true while serving.

Admission, the doomed-drop and the choice of the largest batch all ask this one curve. It holds a knot per measured
batch size and interpolates between them; a finished run pulls the two knots beside its size towards what was seen.
This module must never know instances, queues or clocks: it is told sizes and seconds.
"""

from bisect import bisect_left
from collections.abc import Iterable

WEIGHT = 0.1
"""Of one observation in the moving average: a lasting change is followed within about 20 batches."""

LARGEST_STEP = 2.0
"""An observation counts as at most this many times, and at least this part of, what the curve says.

One stalled run (a page fault, a neighbour on the machine) therefore moves a knot by 10 % at most.
"""

MARGIN = 4
"""Mean deviations that a promise allows for above the mean, as TCP's retransmission timer does (RFC 6298).

Simulated with run times that vary by 20 % (lognormal), 100 ms deadlines and 5 times the load: of 1524 requests/s at
most, 1022 are answered in time with no margin, 1432 with two deviations, 1473 with four.
"""

SPREAD_WEIGHT = 0.05
"""Of one observation in the mean deviation."""

DOUBT = 0.02
"""How far one refusal on an idle model takes the curve back towards what was measured at load."""

LONG_BATCH = 0.025
"""Seconds from which a batch counts as long: everybody who comes meanwhile waits for its end."""

WORTHWHILE_GAIN, WORTHWHILE_GAIN_OF_LONG = 0.04, 0.10
"""A larger batch must bring this much more rows per second than the knee, or it only adds latency.

Measured on two cores at twice the load, deadlines of 100 ms: MNIST answers 4,559, 4,977 and 4,386 in time with batches
of 32, 64 and 128 rows, which take 10, 20 and 40 ms; sentiment, whose rows take half as long, 7,554, 8,427 and 9,027.
"""

BATCH_COST = 0.00125
"""Seconds of CPU that a batch costs outside its session: putting it together, waking the child, taking it apart.

The curve does not hold them, because they are spent while the session runs the batch before. Where cores are few they
count all the same: without them the knee of a model whose every row costs the same is a single row. Measured on two
busy cores, where each change of hands also costs the caches: MNIST takes 429 us of CPU a request in batches of 16 and
390 of 32, sentiment 213 of 32 and 188 of 61, so that a batch costs 1.25 ms and 1.7 ms beside its rows.
"""


class CostCurve:
    """t(b) in seconds for b rows, never falling with b."""

    def __init__(self, points: Iterable[tuple[int, float]]) -> None:
        """Start from measured (rows, seconds); at least one point, rows and seconds above 0.

        Raises:
            ValueError: there is no point, or one that is not positive.
        """
        measured = dict(sorted(points))
        if not measured or min(measured) < 1 or min(measured.values()) <= 0:
            raise ValueError(f"cost curve: expected points with rows and seconds above 0, got {measured}")
        self._rows = list(measured)
        self._seconds = list(measured.values())
        for i in range(1, len(self._seconds)):
            self._seconds[i] = max(self._seconds[i], self._seconds[i - 1])
        self._spread = 0.0
        self._at_most: dict[int, float] = {}
        """What `seconds_at_most` has found since the curve last changed: every request asks for the same one or two."""
        self._at_load = tuple(self._seconds)
        # The knots never move, so where a size lies between them is worked out once: a look-up costs 0.1 us.
        self._places = [self._place(rows) for rows in range(self._rows[-1] + 1)]

    def _place(self, rows: int) -> tuple[int, int, float]:
        """Return the knots beside `rows` and the weight of the upper one."""
        upper = bisect_left(self._rows, rows)
        if upper == 0:
            return 0, 0, 0.0
        low, high = self._rows[upper - 1], self._rows[upper]
        return upper - 1, upper, (rows - low) / (high - low)

    @property
    def largest(self) -> int:
        """The largest batch that was measured."""
        return self._rows[-1]

    def points(self) -> tuple[tuple[int, float], ...]:
        """Return (rows, seconds) of each measured size, as they are believed now."""
        return tuple(zip(self._rows, self._seconds, strict=True))

    def seconds(self, rows: int) -> float:
        """Return t(rows); beyond the largest measured batch it grows in proportion."""
        if rows > self._rows[-1]:
            return self._seconds[-1] * rows / self._rows[-1]
        lower, upper, weight = self._places[rows]
        low = self._seconds[lower]
        return low + weight * (self._seconds[upper] - low)

    def seconds_at_most(self, rows: int) -> float:
        """Return the seconds that a run of `rows` seldom exceeds, for whoever has a deadline to keep."""
        known = self._at_most.get(rows)
        if known is None:
            known = self._at_most[rows] = self.seconds(rows) * (1 + MARGIN * self._spread)
        return known

    def rows_within(self, budget: float, limit: int) -> int:
        """Return the largest b <= `limit` that seldom exceeds `budget` seconds, 0 if not even one row does."""
        low, high = 0, limit
        while low < high:
            middle = (low + high + 1) // 2
            if self.seconds_at_most(middle) <= budget:
                low = middle
            else:
                high = middle - 1
        return low

    def observe(self, rows: int, seconds: float) -> None:
        """Learn from a run of `rows` that took `seconds`."""
        expected = self.seconds(rows)
        change = min(max(seconds / expected, 1 / LARGEST_STEP), LARGEST_STEP) - 1
        lower, upper, weight = self._places[min(rows, self._rows[-1])]
        self._spread += SPREAD_WEIGHT * (abs(change) - self._spread)
        self._at_most.clear()
        # Divided by the squares of the weights, t(rows) itself moves by the full step (normalised least mean squares).
        step = WEIGHT * change / (weight**2 + (1 - weight) ** 2)
        self._seconds[lower] *= 1 + step * (1 - weight)
        self._seconds[upper] *= 1 + step * weight
        self._keep_rising(lower, upper)

    def doubt(self) -> None:
        """Trust what was learnt since the load a little less.

        A curve that learnt bad times would refuse everything, hence run nothing and never hear that they are over.
        Whoever refuses by this curve while the model stands idle says so here, until something is tried again.
        """
        self._spread *= 1 - DOUBT
        self._at_most.clear()
        for i, (seconds, at_load) in enumerate(zip(self._seconds, self._at_load, strict=True)):
            self._seconds[i] = min(seconds, seconds + DOUBT * (at_load - seconds))

    def _keep_rising(self, lower: int, upper: int) -> None:
        """Let the knots that were not seen just now give way to those that were."""
        values = self._seconds
        values[upper] = max(values[lower], values[upper])
        for i in range(lower, 0, -1):
            if values[i - 1] <= values[i]:
                break
            values[i - 1] = values[i]
        for i in range(upper + 1, len(values)):
            if values[i] >= values[i - 1]:
                break
            values[i] = values[i - 1]

    def knee(self) -> int:
        """Return the smallest measured batch that no larger one beats by a worthwhile gain in rows per second."""
        knee, enough = self._rows[-1], 0.0
        for rows, seconds in reversed(self.points()):
            rate = rows / (seconds + BATCH_COST)
            if rate >= enough:
                knee = rows
            enough = max(enough, rate / _worthwhile(seconds))
        return knee

    def start_after(self, rows: int, limit: int, instances: int) -> float:
        """Return the seconds until `rows` ahead in the queue have started on `instances` working at full batches.

        Counted from the moment the first of them is free; batches of `limit` rows, instances evenly staggered.
        """
        return (rows // limit) * self.seconds(limit) / instances


def _worthwhile(seconds: float) -> float:
    """Return how many times the rows per second of a smaller batch one must bring that takes so long."""
    return 1 + (WORTHWHILE_GAIN if seconds <= LONG_BATCH else WORTHWHILE_GAIN_OF_LONG)
