"""What frontends count, as plain values for the way to the engine, and added up there.

A process that has gone takes nothing with it: what it last told is kept, so no counter ever goes backwards.
"""

from collections.abc import Iterable
from dataclasses import astuple
from typing import Any

from server.counts import Counted, Durations, Example

PlainCounts = dict[str, Any]


def encode_counts(counted: Counted) -> PlainCounts:
    """Return counts as plain values."""
    codes, seconds = counted
    return {
        "codes": [(*key, count) for key, count in codes.items()],
        "seconds": [
            (*key, d.counts, d.sum, [None if example is None else astuple(example) for example in d.examples])
            for key, d in seconds.items()
        ],
    }


def decode_counts(plain: PlainCounts) -> Counted:
    """Return what `encode_counts` was given."""
    seconds: dict[tuple[str, str, str], Durations] = {}
    for model, version, method, counts, total, examples in plain["seconds"]:
        durations = seconds[model, version, method] = Durations()
        durations.counts, durations.sum = counts, total
        durations.examples = [None if example is None else Example(*example) for example in examples]
    return {tuple(key): count for *key, count in plain["codes"]}, seconds


def add_up(parts: Iterable[Counted]) -> Counted:
    """Return the sum of counts; of examples in the same bucket the latest."""
    codes: dict[tuple[str, str, str, str], int] = {}
    seconds: dict[tuple[str, str, str], Durations] = {}
    for more_codes, more_seconds in parts:
        for key, count in more_codes.items():
            codes[key] = codes.get(key, 0) + count
        for key3, durations in more_seconds.items():
            known = seconds.get(key3)
            seconds[key3] = durations.copy() if known is None else _sum(known, durations)
    return codes, seconds


def _sum(one: Durations, other: Durations) -> Durations:
    both = Durations()
    both.counts = [a + b for a, b in zip(one.counts, other.counts, strict=True)]
    both.sum = one.sum + other.sum
    both.examples = [
        max((e for e in pair if e is not None), key=lambda e: e.at, default=None)
        for pair in zip(one.examples, other.examples, strict=True)
    ]
    return both
