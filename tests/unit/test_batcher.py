import math

import pytest

from server.batcher import Batcher
from server.cost import CostCurve
from server.lanes import MAX_WASTE, Entry
from server.spec import BatchPolicy
from tests.unit.simulation import linear


class Item(Entry):
    """An entry with a name to recognise it by."""

    __slots__ = ("name",)


def item(name="", *, rows=1, deadline=math.inf, arrival=0.0, **fields):
    made = Item(rows, deadline, arrival)
    made.name = name
    for field, value in fields.items():
        setattr(made, field, value)
    return made


def batcher(limit=32, cost=linear, **policy):
    costs = CostCurve((size, cost(size)) for size in (1, 2, 4, 8, 16, 32))
    return Batcher(BatchPolicy(**{"enabled": True, **policy}), costs, limit)


def names(batch):
    return [entry.name for entry, _, _ in batch.pieces]


def fill(queue, *items):
    for each in items:
        queue.add(each)
    return items


def test_an_empty_queue_gives_an_empty_batch():
    batch = batcher().take(0.0)

    assert (batch.pieces, batch.rows, batch.dropped) == ([], 0, [])


def test_everything_that_waits_runs_together():
    queue = batcher()
    fill(queue, *(item(i) for i in range(5)))

    assert names(queue.take(0.0)) == [0, 1, 2, 3, 4]
    assert (queue.rows, queue.entries) == (0, 0)


def test_the_earliest_deadline_goes_first():
    queue = batcher(limit=2)
    fill(queue, item("c", deadline=3), item("a", deadline=1), item("none"), item("b", deadline=2))

    assert names(queue.take(0.0)) == ["a", "b"]
    assert names(queue.take(0.0)) == ["c", "none"]


def test_equal_deadlines_go_in_order_of_arrival():
    queue = batcher(limit=2)
    fill(queue, *(item(i, deadline=9) for i in range(4)))

    assert [names(queue.take(0.0)), names(queue.take(0.0))] == [[0, 1], [2, 3]]


def test_rows_are_counted_not_requests():
    queue = batcher(limit=8)
    fill(queue, item("a", rows=5), item("b", rows=3), item("c", rows=1))
    batch = queue.take(0.0)

    assert names(batch) == ["a", "b"]
    assert batch.rows == 8


def test_a_request_larger_than_a_batch_is_split_and_the_rest_shares_the_last_batch():
    queue = batcher(limit=32)
    big, small = fill(queue, item("big", rows=70), item("small"))
    pieces = [queue.take(0.0).pieces for _ in range(3)]

    assert [[(big, 0, 32)], [(big, 32, 32)], [(big, 64, 6), (small, 0, 1)]] == pieces


def test_a_request_that_does_not_fit_whole_gives_the_rows_that_fit():
    queue = batcher(limit=8)
    a, b = fill(queue, item("a", rows=5), item("b", rows=5))

    assert [(a, 0, 5), (b, 0, 3)] == queue.take(0.0).pieces
    assert [(b, 3, 2)] == queue.take(0.0).pieces


def test_requests_of_different_shapes_never_share_a_batch():
    queue = batcher()
    fill(queue, item("a", shapes=(3,)), item("b", shapes=(4,)), item("c", shapes=(3,)))

    assert names(queue.take(0.0)) == ["a", "c"]
    assert names(queue.take(0.0)) == ["b"]


def test_without_dynamic_batching_each_request_runs_alone():
    queue = batcher(enabled=False)
    fill(queue, item("a", rows=3), item("b"))

    assert [names(queue.take(0.0)) for _ in range(3)] == [["a"], ["b"], []]


def test_a_cancelled_entry_is_never_handed_out_and_its_place_is_free_at_once():
    queue = batcher()
    a, b, c = fill(queue, item("a", deadline=1), item("b", deadline=2, rows=4), item("c", deadline=3))

    assert queue.discard(a)
    assert queue.discard(b)
    assert not queue.discard(b)
    assert (queue.rows, queue.entries) == (1, 1)
    assert names(queue.take(0.0)) == ["c"]
    assert not queue.discard(c)


def test_cancelled_entries_do_not_pile_up_behind_one_that_waits():
    queue = batcher()
    queue.add(item("first", deadline=1))
    for i in range(10_000):
        late = item(i, deadline=2)
        queue.add(late)
        queue.discard(late)

    assert sum(len(lane.heap) for lane in queue._lanes.values()) < 200


def test_shapes_that_never_come_again_leave_nothing_behind():
    queue = batcher()
    for i in range(1000):
        queue.add(item(i, shapes=(i,)))
        queue.take(0.0)

    assert len(queue._lanes) <= 65


def test_a_lane_opened_again_is_not_closed_by_what_is_left_of_the_old_one():
    queue = batcher()
    fill(queue, *(item(i, shapes=(i,)) for i in range(100)))
    for _ in range(100):
        queue.take(0.0)
    again = item("again", shapes=(3,))
    queue.add(again)
    queue.take(0.0)
    fill(queue, *(item(i, shapes=(i,)) for i in range(100)))

    assert sorted(range(100)) == sorted(names(queue.take(0.0))[0] for _ in range(100))


# Deadlines


def test_the_doomed_are_dropped_before_launch_when_others_wait():
    queue = batcher(limit=2, cost=lambda rows: 0.010)
    fill(queue, item("late", deadline=0.009), item("a", deadline=0.02), item("b", deadline=0.03))
    batch = queue.take(0.0)

    assert [entry.name for entry in batch.dropped] == ["late"]
    assert names(batch) == ["a", "b"]


def test_with_nothing_left_behind_a_smaller_batch_saves_the_urgent_one():
    queue = batcher(limit=32)
    fill(queue, item("urgent", deadline=0.007, arrival=-1), *(item(i, deadline=1) for i in range(20)))
    batch = queue.take(0.0)

    assert batch.dropped == []
    assert names(batch) == ["urgent", 0, 1, 2]


def test_an_urgent_request_among_patient_ones_gets_a_batch_it_can_finish_in():
    queue = batcher()
    fill(queue, *(item(i, deadline=60) for i in range(500)), item("urgent", deadline=0.0101, arrival=-1))
    batch = queue.take(0.0)

    assert batch.dropped == []
    assert names(batch)[0] == "urgent"
    assert batch.rows == 10


def test_a_tight_budget_makes_small_batches():
    queue = batcher()
    fill(queue, *(item(i, deadline=0.020) for i in range(100)))

    assert queue.take(0.0).rows == 14
    assert queue.rows_for(0.020) == 14
    assert queue.rows_for(1.0) == 32
    assert queue.rows_for(0.001) == 1


def test_a_request_that_cannot_finish_even_alone_is_dropped():
    queue = batcher()
    fill(queue, item("late", deadline=0.005))
    batch = queue.take(0.0)

    assert [entry.name for entry in batch.dropped] == ["late"]
    assert batch.pieces == []


def test_expired_entries_are_returned_once_and_the_others_stay():
    queue = batcher()
    fill(queue, item("a", deadline=1), item("b", deadline=2, shapes=(7,)), item("c", deadline=3))

    assert [entry.name for entry in queue.expire(2.0)] == ["a", "b"]
    assert queue.expire(2.0) == []
    assert queue.next_deadline() == 3
    assert names(queue.take(2.0)) == ["c"]
    assert math.inf == queue.next_deadline()


def test_where_the_policy_delays_a_missed_timeout_moves_behind_the_others_of_its_level():
    queue = batcher(limit=1)
    fill(queue, item("slow", deadline=1, delayed_deadline=9), item("a", deadline=20), item("low", deadline=2, rank=2))

    assert queue.expire(1.0) == []
    assert [names(queue.take(1.0)) for _ in range(3)] == [["a"], ["slow"], ["low"]]


def test_an_entry_whose_both_deadlines_have_passed_ends_at_once():
    queue = batcher()
    fill(queue, item("slow", deadline=1, delayed_deadline=9))

    assert [entry.name for entry in queue.expire(9.0)] == ["slow"]


def test_a_delayed_entry_still_ends_at_its_callers_deadline():
    queue = batcher()
    fill(queue, item("slow", deadline=1, delayed_deadline=9))
    queue.expire(1.0)

    assert [entry.name for entry in queue.expire(9.0)] == ["slow"]


# Priorities


def test_a_more_urgent_class_goes_first_and_the_rest_of_the_batch_is_filled_from_the_next():
    queue = batcher(limit=3)
    fill(queue, item("low", rank=4, deadline=1), *(item(i, rank=2) for i in range(2)), item("low2", rank=4))

    assert names(queue.take(0.0)) == [0, 1, "low"]


def test_a_doomed_entry_of_a_lower_class_is_not_computed():
    queue = batcher(limit=8)
    fill(queue, item("high", rank=2), item("low", rank=4, deadline=0.001))

    assert names(queue.take(0.0)) == ["high"]
    assert [entry.name for entry in queue.take(0.0).dropped] == ["low"]


def test_a_backlog_of_a_lower_class_dooms_nobody_above_it():
    queue = batcher()
    fill(queue, *(item(i, rank=4, deadline=0.1) for i in range(100)), item("high", rank=2, deadline=0.0101, arrival=-1))
    batch = queue.take(0.0)

    assert batch.dropped == []
    assert names(batch)[0] == "high"
    assert batch.rows == 10


def test_rows_before_a_newcomer_are_those_more_urgent():
    queue = batcher()
    fill(queue, item(rank=2, rows=3, deadline=1), item(rank=2, rows=5, deadline=2), item(rank=4, rows=7, deadline=0.5))

    assert queue.rows_before(2, 1.5) == 3
    assert queue.rows_before(2, 5.0) == 8
    assert queue.rows_before(0, 5.0) == 0
    assert queue.rows_before(4, 5.0) == 15


# Sizes


def test_rows_of_like_size_run_together_around_the_most_urgent_one():
    queue = batcher()
    fill(
        queue,
        item("long", size=1000, deadline=2),
        item("short", size=100, deadline=1),
        item("short2", size=103, deadline=3),
        item("long2", size=980, deadline=4),
    )

    assert names(queue.take(0.0)) == ["short", "short2"]
    assert names(queue.take(0.0)) == ["long", "long2"]


def test_padding_in_a_batch_stays_within_its_bound():
    queue = batcher()
    fill(queue, *(item(i, size=100 + i, deadline=1 + i) for i in range(100)))
    while queue.rows:
        batch = queue.take(0.0)
        padded = batch.size * batch.rows

        assert padded - batch.sizes <= MAX_WASTE * padded


def test_the_largest_of_a_neighbouring_class_stays_out_where_it_would_pad_all_the_others():
    queue = batcher()
    fill(queue, *(item(i, size=102, deadline=1) for i in range(20)), item("long", size=127, deadline=2))

    assert "long" not in names(queue.take(0.0))
    assert names(queue.take(0.0)) == ["long"]


def test_the_odd_size_is_not_starved_by_a_stream_of_others():
    queue = batcher(limit=4)
    fill(queue, item("odd", size=5000, deadline=1.0))
    for i in range(50):
        fill(queue, *(item(i, size=100, deadline=0.5 + 0.1 * i) for _ in range(4)))
        if "odd" in names(queue.take(0.0)):
            break

    assert i == 5


# Preferred sizes and queue delay


def test_a_preferred_size_is_made_where_there_are_rows_enough():
    queue = batcher(limit=8, preferred_batch_sizes=(2, 4))
    fill(queue, *(item(i) for i in range(7)))

    assert [queue.take(0.0).rows for _ in range(3)] == [4, 2, 1]


def test_a_queue_delay_holds_the_batch_back_from_its_oldest_entry_on():
    queue = batcher(limit=4, max_queue_delay=0.01)
    fill(queue, item("a", arrival=1.0), item("b", arrival=1.005))
    held = queue.take(1.006)

    assert (held.pieces, held.not_before) == ([], 1.01)
    assert names(queue.take(1.01)) == ["a", "b"]


def test_a_full_batch_does_not_wait_for_the_delay():
    queue = batcher(limit=2, max_queue_delay=0.01)
    fill(queue, item("a"), item("b"))

    assert names(queue.take(0.0)) == ["a", "b"]


def test_a_preferred_size_does_not_wait_for_the_delay():
    queue = batcher(limit=8, max_queue_delay=0.01, preferred_batch_sizes=(2,))
    fill(queue, item("a"), item("b"))

    assert names(queue.take(0.0)) == ["a", "b"]


def test_the_delay_ends_early_enough_for_the_closest_deadline():
    queue = batcher(limit=8, max_queue_delay=1.0)
    fill(queue, item("a", deadline=0.1))

    assert 0.1 - linear(1) == pytest.approx(queue.take(0.0).not_before)
    assert names(queue.take(0.1 - linear(1))) == ["a"]
