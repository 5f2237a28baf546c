"""Finished RPCs by model, version, method and code, and for each bucket of their durations one request as an example.

Counting is on the hot path: what ends together is entered together, and of others each is one append, and the rest is
done for many at once. A bucket wants one, the first it meets, after each time the counts were read; so examples
cost nothing per request and are never older than the traffic. This module must never know who reads the counts.
"""

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from typing_extensions import override

from server import log
from server.statistics import SECONDS_BUCKETS, Histogram

FOLD = 256
"""Durations that are entered at once."""
FOLD_BATCHES = 32
"""Batches of them: one after the other they take a third of what each takes between other work."""
NOWHERE = math.inf, -math.inf
ID_CHARACTERS = 64
"""OpenMetrics allows an exemplar's labels 128 characters in all; a trace id with both names takes 50 of them."""


@dataclass(frozen=True, slots=True)
class Example:
    """One request that fell into a bucket. `request_id` and `trace_id` are "" where it had none."""

    seconds: float
    request_id: str
    trace_id: str
    at: float
    """Seconds since 1970."""


class Durations(Histogram):
    """A histogram with an example in each bucket; `due` says which buckets want a new one."""

    __slots__ = ("due", "examples", "quiet")

    def __init__(self) -> None:
        super().__init__(SECONDS_BUCKETS)
        self.due = [True] * len(self.counts)
        self.examples: list[Example | None] = [None] * len(self.counts)
        self.quiet = NOWHERE
        """Above the first and up to the second, no bucket wants an example."""

    def satisfy(self, bucket: int) -> None:
        """A bucket wants no example any more: nor, perhaps, do those beside it."""
        self.due[bucket] = False
        first = last = bucket
        while first > 0 and not self.due[first - 1]:
            first -= 1
        while last < len(self.bounds) and not self.due[last + 1]:
            last += 1
        low = self.bounds[first - 1] if first else -math.inf
        self.quiet = low, self.bounds[last] if last < len(self.bounds) else math.inf

    def want_all(self) -> None:
        """Every bucket wants a new example."""
        self.due[:] = [True] * len(self.due)
        self.quiet = NOWHERE

    @override
    def copy(self) -> "Durations":
        other = Durations()
        other.counts, other.sum, other.examples = list(self.counts), self.sum, list(self.examples)
        return other


class Line:
    """What is counted under one (model, version, method, code); the durations are those of every code."""

    __slots__ = ("_batches", "_lock", "_news", "count", "durations")

    def __init__(self, durations: Durations, lock: threading.Lock) -> None:
        self.count = 0
        self.durations = durations
        self._lock = lock
        self._news: list[float] = []
        """Durations that are in neither yet."""
        self._batches: list[tuple[Sequence[float], float]] = []
        """Of others when they started, and when all of those ended."""

    def add(self, seconds: float) -> None:
        """Count one; any thread."""
        news = self._news
        news.append(seconds)  # one step under the interpreter's lock, so it needs no other
        if len(news) >= FOLD:
            with self._lock:
                self.fold()

    def add_since(self, started: Sequence[float], now: float) -> None:
        """Count those that started at these instants and end now; any thread."""
        batches = self._batches
        batches.append((started, now))
        if len(batches) >= FOLD_BATCHES:
            with self._lock:
                self.fold()

    def wants(self, seconds: float) -> bool:
        """Whether one that took so long would make a good example."""
        durations = self.durations
        low, high = durations.quiet
        return not low < seconds <= high and durations.due[durations.bucket(seconds)]

    def fold(self) -> None:
        """Enter what is in neither yet; under the lock, while other threads may append more."""
        news = self._news
        count = len(news)
        if count:
            values, news[:count] = news[:count], ()
            self.count += count
            self.durations.observe_all(values)
        batches = self._batches
        while batches:
            started, now = batches.pop()
            self.count += len(started)
            self.durations.observe_since(started, now)


Counted = tuple[dict[tuple[str, str, str, str], int], dict[tuple[str, str, str], Durations]]
"""Finished RPCs by (model, version, method, code), and how long they took by (model, version, method)."""


class RequestCounts:
    """Written by every transport and collector thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lines: dict[tuple[str, str, str, str], Line] = {}
        self._seconds: dict[tuple[str, str, str], Durations] = {}

    def count(self, model: str, version: str, method: str, code: str, seconds: float) -> bool:
        """Count one finished RPC; `model` must be a loaded one or empty, never the caller's text.

        Returns:
            Whether it would make a good example: then call `exemplify`.
        """
        line = self.line(model, version, method, code)
        line.add(seconds)
        return line.wants(seconds)

    def line(self, model: str, version: str, method: str, code: str) -> Line:
        """Return where such RPCs are counted, for whoever counts many of them."""
        return self._lines.get((model, version, method, code)) or self._new(model, version, method, code)

    def add(self, model: str, version: str, method: str, code: str, calls: int) -> None:
        """Count so many RPCs that ended as soon as they came."""
        with self._lock:
            line = self._lines.get((model, version, method, code)) or self._line(model, version, method, code)
            line.count += calls
            line.durations.counts[0] += calls

    def _new(self, model: str, version: str, method: str, code: str) -> Line:
        with self._lock:
            return self._lines.get((model, version, method, code)) or self._line(model, version, method, code)

    def _line(self, model: str, version: str, method: str, code: str) -> Line:
        key = (model, version, method)
        durations = self._seconds.get(key)
        if durations is None:
            durations = self._seconds[key] = Durations()
        line = self._lines[*key, code] = Line(durations, self._lock)
        return line

    def exemplify(self, key: tuple[str, str, str], seconds: float, request_id: str, trace_id: str) -> None:
        """Make a request that was counted its bucket's example; one that nobody could find again is passed over."""
        with self._lock:
            histogram = self._seconds[key]
            bucket = histogram.bucket(seconds)
            histogram.satisfy(bucket)
            if request_id or trace_id:
                shown = request_id[:ID_CHARACTERS]
                histogram.examples[bucket] = Example(seconds, shown, trace_id, log.epoch_ms() / 1000)

    def snapshot(self) -> Counted:
        """Return copies of the counters and histograms; from now on each bucket wants a new example."""
        with self._lock:
            for line in self._lines.values():
                line.fold()
            read = {key: histogram.copy() for key, histogram in self._seconds.items()}
            for histogram in self._seconds.values():
                histogram.want_all()
            return {key: line.count for key, line in self._lines.items()}, read
