"""Whatever is added, cancelled, expired and taken in whatever order, the batcher keeps its promises."""

import math
from collections import defaultdict

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from server import batcher as module
from server.batcher import Batcher
from server.cost import CostCurve
from server.due import NEVER, SLOT
from server.lanes import MAX_WASTE, Entry
from server.spec import BatchPolicy


class BatcherMachine(RuleBasedStateMachine):
    @initialize(
        limit=st.sampled_from([1, 3, 8]),
        enabled=st.sampled_from([True, True, True, False]),
        preferred=st.sampled_from([(), (2,), (2, 4)]),
        delay=st.sampled_from([0.0, 0.0, 0.3]),
        spare=st.sampled_from([0, 64]),
    )
    def start(self, limit, enabled, preferred, delay, spare):
        module.SPARE_LANES = spare
        policy = BatchPolicy(enabled=enabled, preferred_batch_sizes=preferred, max_queue_delay=delay)
        self.costs = CostCurve([(1, 0.1), (8, 0.4)])
        self.batcher = Batcher(policy, self.costs, limit)
        self.enabled, self.limit = enabled, limit
        self.now = 0.0
        self.waiting = {}
        self.runs = defaultdict(list)
        self.gone = set()
        self.entries = []

    def teardown(self):
        module.SPARE_LANES = 64

    @rule(
        rows=st.sampled_from([1, 1, 1, 2, 5, 20]),
        budget=st.sampled_from([0.05, 0.2, 0.5, 1.0, 5.0, math.inf]),
        rank=st.sampled_from([0, 0, 2]),
        size=st.sampled_from([0, 100, 104, 110, 300]),
        shapes=st.sampled_from([(), (), (3,)]),
        patience=st.sampled_from([None, None, 3.0]),
    )
    def add(self, rows, budget, rank, size, shapes, patience):
        entry = Entry(rows, self.now + budget, self.now)
        entry.rank, entry.size, entry.shapes = rank, size, shapes
        if patience is not None:
            entry.delayed_deadline = entry.deadline + patience
        self.batcher.add(entry)
        self.entries.append(entry)
        self.waiting[entry] = rows

    @rule(seconds=st.sampled_from([0.01, 0.1, 0.4, 2.0]))
    def wait(self, seconds):
        self.now += seconds

    @rule(which=st.integers(0, 1000))
    def cancel(self, which):
        if self.entries:
            entry = self.entries[which % len(self.entries)]

            assert self.batcher.discard(entry) == (entry in self.waiting)

            self.waiting.pop(entry, None)
            self.gone.add(entry)

    @rule()
    def expire(self):
        for entry in self.batcher.expire(self.now):
            assert entry.end <= self.now

            self.give_up(entry)

        assert self.batcher.next_deadline() > self.now

    @rule()
    def take(self):
        most_urgent = min((entry.rank, entry.deadline) for entry in self.waiting) if self.waiting else None
        batch = self.batcher.take(self.now)
        for entry in batch.dropped:
            assert self.now + self.costs.seconds(min(self.limit, entry.rows)) > entry.end or self.waiting

            self.give_up(entry)
        if not batch.pieces:
            assert not self.waiting or batch.not_before > self.now
            return
        self.check(batch)
        seed = batch.pieces[0][0]
        if not batch.dropped and seed.delayed_deadline is None and most_urgent[0] == seed.rank:
            assert (seed.rank, seed.deadline) == most_urgent
        for entry, start, rows in batch.pieces:
            assert entry in self.waiting

            self.runs[entry].append((start, rows))
            self.waiting[entry] -= rows
            if not self.waiting[entry]:
                del self.waiting[entry]

    def check(self, batch):
        finish = self.now + self.costs.seconds(batch.rows)

        assert 0 < batch.rows <= self.limit
        assert batch.rows == sum(rows for _, _, rows in batch.pieces)
        assert len({entry.shapes for entry, _, _ in batch.pieces}) == 1
        assert len({entry.size > 0 for entry, _, _ in batch.pieces}) == 1
        assert batch.size * batch.rows - batch.sizes <= MAX_WASTE * batch.size * batch.rows
        assert all(entry.end >= finish - 1e-9 for entry, _, _ in batch.pieces)
        assert self.enabled or len(batch.pieces) == 1
        assert batch.latest == max(entry.end for entry, _, _ in batch.pieces)

    def give_up(self, entry):
        assert entry in self.waiting

        del self.waiting[entry]
        self.gone.add(entry)

    @invariant()
    def counts_are_exact(self):
        if not hasattr(self, "batcher"):
            return

        assert self.batcher.rows == sum(self.waiting.values())
        assert self.batcher.entries == len(self.waiting)
        assert set(self.batcher) == set(self.waiting)
        assert self.batcher.rows_before(9, math.inf) == sum(self.waiting.values())
        assert self.batcher.rows_taken() == sum(rows for slices in self.runs.values() for _, rows in slices)
        for entry in self.waiting:
            assert self.batcher.rows_before(entry.rank, entry.deadline) == rows_before(self.waiting, entry)

    @invariant()
    def rows_run_once_each_and_in_order(self):
        for entry, slices in getattr(self, "runs", {}).items():
            assert [start for start, _ in slices] == [sum(rows for _, rows in slices[:i]) for i in range(len(slices))]
            assert sum(rows for _, rows in slices) <= entry.rows
            assert entry in self.waiting or entry in self.gone or sum(rows for _, rows in slices) == entry.rows


def slot(entry):
    return NEVER if entry.deadline == math.inf else int(entry.deadline / SLOT)


def rows_before(waiting, newcomer):
    """Work it out without a calendar, at its resolution."""
    last = newcomer.deadline / SLOT
    return sum(
        rows
        for entry, rows in waiting.items()
        if entry.rank < newcomer.rank or (entry.rank == newcomer.rank and slot(entry) <= last)
    )


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(1, 4), st.booleans()), max_size=40),
    st.integers(0, 60),
    st.data(),
)
def test_rows_before_a_newcomer_are_counted_whether_it_comes_last_or_not(waiting, deadline, data):
    batcher = Batcher(BatchPolicy(enabled=True), CostCurve([(1, 1e-6), (8, 1e-6)]), 8)
    rows = {}
    for at, count, _ in waiting:
        entry = Entry(count, at * 0.3 * SLOT, 0.0)
        batcher.add(entry)
        rows[entry] = count
    for entry, (_, _, leaves) in zip(list(rows), waiting, strict=True):
        if leaves:
            batcher.discard(entry)
            del rows[entry]
    for entry, _, taken in batcher.take(-1.0).pieces if data.draw(st.booleans()) else ():
        rows[entry] -= taken

    assert batcher.rows_before(0, deadline * 0.3 * SLOT) == rows_before(rows, Entry(1, deadline * 0.3 * SLOT, 0.0))


BatcherMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestBatcher = BatcherMachine.TestCase
