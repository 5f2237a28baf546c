"""What is counted for many at once is what counting each would give."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.counts import FOLD_BATCHES, RequestCounts
from server.statistics import FOLD, Histogram, ModelStatistics

TICK = 2.0**-10
"""A second's part that floats hold exactly, so that what lies on a bound does so whichever way it is worked out."""
BOUNDS = tuple(TICK * ticks for ticks in (1, 4, 16, 64))
TICKS = st.integers(0, 100)
RUN = SimpleNamespace(compute_input=0.25, compute_infer=0.5, compute_output=0.125, padded_rows=3)
COUNTED = ("churn", "1", "ModelInfer")


def each(values):
    histogram = Histogram(BOUNDS)
    for value in values:
        histogram.observe(value)
    return histogram.counts, histogram.sum


@given(ticks=st.lists(TICKS))
def test_values_that_are_observed_together_fall_into_the_buckets_of_each(ticks):
    values, histogram = [TICK * one for one in ticks], Histogram(BOUNDS)

    histogram.observe_all(values)

    assert (histogram.counts, histogram.sum) == each(values)


@given(ticks=st.lists(TICKS, min_size=1), now=st.integers(100, 10**9))
def test_durations_until_now_fall_into_the_buckets_of_each(ticks, now):
    histogram = Histogram(BOUNDS)

    histogram.observe_since([TICK * (now - one) for one in ticks], TICK * now)

    assert (histogram.counts, histogram.sum) == each([TICK * one for one in ticks])


@pytest.mark.parametrize("executions", [1, FOLD - 1, FOLD, 2 * FOLD + 1])
def test_every_execution_is_in_the_next_snapshot_and_in_no_earlier_one(executions):
    statistics = ModelStatistics()
    before = statistics.snapshot()
    for _ in range(executions):
        statistics.executed(8, RUN, 4.0, (0.5, 0.25))
    after = statistics.snapshot()

    assert (before.execution_count, before.success.count, sum(before.queue_seconds.counts)) == (0, 0, 0)
    assert (after.execution_count, after.inference_count, after.padded_rows) == (
        executions, 8 * executions, 3 * executions
    )  # fmt: skip
    assert (after.success.count, after.success.ns) == (2 * executions, 4_000_000_000 * executions)
    assert (after.queue.count, after.queue.ns) == (2 * executions, 750_000_000 * executions)
    assert (after.compute_infer.count, after.compute_infer.ns) == (2 * executions, 1_000_000_000 * executions)
    assert (after.batches[8].compute_infer.count, after.batches[8].compute_infer.ns) == (
        executions, 500_000_000 * executions
    )  # fmt: skip
    assert (sum(after.queue_seconds.counts), sum(after.compute_seconds.counts)) == (2 * executions, executions)
    assert sum(after.batch_rows.counts) == executions
    assert statistics.snapshot().execution_count == executions


@pytest.mark.parametrize("batches", [1, FOLD_BATCHES - 1, FOLD_BATCHES, 2 * FOLD_BATCHES + 1])
def test_every_batch_of_rpcs_is_in_the_next_snapshot_once(batches):
    counts = RequestCounts()
    line = counts.line(*COUNTED, "OK")
    for _ in range(batches):
        line.add_since([9.0, 9.5], 10.0)

    for _ in range(2):
        calls, seconds = counts.snapshot()
        assert calls == {(*COUNTED, "OK"): 2 * batches}
        assert (sum(seconds[COUNTED].counts), seconds[COUNTED].sum) == (2 * batches, 1.5 * batches)
