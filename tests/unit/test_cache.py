import pytest

from server.answers import ENTRY_BYTES, TENSOR_BYTES, ResponseCache, content_key
from server.cache import CachedScheduler
from server.errors import Cancelled, DeadlineExceeded, DeadlineUnreachable, InvalidValues, QueueFull, ShuttingDown
from server.messages import InferRequest, InferResponse, Tensor
from server.sessions.base import RunFailed
from tests.unit.simulation import Simulation, limits


@pytest.fixture
def simulation():
    return cached()


def cached(**options):
    simulation = Simulation(**options)
    simulation.bare = simulation.scheduler
    simulation.scheduler = CachedScheduler(simulation.bare, 1 << 20, simulation.alarm.clock)
    return simulation


def runs(simulation):
    return sum(len(batch) for batch in simulation.instances[0].batches)


def outputs(size):
    return (Tensor("y", "UINT8", (size,), bytes(size)),)


# The store


def numbered(number):
    return key(Tensor("x", "INT8", (1, 1), bytes([number])))


SIZE = ENTRY_BYTES + 2 * TENSOR_BYTES + 10
"""Of an entry with one input and one output of ten bytes."""


def test_the_least_recently_used_goes_when_the_bytes_are_used_up():
    cache = ResponseCache(3 * SIZE)
    for number in (0, 1, 2):
        cache.put(numbered(number), outputs(10))
    cache.get(numbered(0))
    cache.put(numbered(3), outputs(10))

    assert [cache.get(numbered(number)) is not None for number in range(4)] == [True, False, True, True]
    assert cache.bytes == 3 * SIZE


def test_what_is_larger_than_the_cache_is_not_kept_and_drives_nothing_out():
    cache = ResponseCache(2 * SIZE)
    cache.put(numbered(0), outputs(10))
    cache.put(numbered(1), outputs(10_000))

    assert cache.get(numbered(0)) is not None
    assert cache.get(numbered(1)) is None


def test_putting_the_same_twice_counts_once():
    cache = ResponseCache(2 * SIZE)
    for _ in range(2):
        cache.put(numbered(0), outputs(10))

    assert cache.bytes == SIZE


def key(*tensors, wanted=()):
    return content_key(InferRequest("m", "1", "", tensors, 1, outputs=wanted))


def test_the_key_tells_contents_apart_that_look_alike():
    x = Tensor("x", "UINT8", (1, 2), b"ab")
    different = [
        key(x),
        key(Tensor("x", "UINT8", (2, 1), b"ab")),
        key(Tensor("x", "INT8", (1, 2), b"ab")),
        key(Tensor("z", "UINT8", (1, 2), b"ab")),
        key(Tensor("x", "UINT8", (1, 2), b"ac")),
        key(x, wanted=("y",)),
        key(Tensor("x", "UINT8", (1, 100), bytes(100))),
        key(Tensor("x", "UINT8", (1, 100), bytes(99) + b"a")),
        key(Tensor("x", "UINT8", (1, 1), b"a"), Tensor("x", "UINT8", (1, 1), b"b")),
    ]

    assert len(set(different)) == len(different)
    assert key(x) == key(Tensor("x", "UINT8", (1, 2), memoryview(b"ab")))


# Hits


def test_the_second_of_two_equal_requests_is_answered_from_memory(simulation):
    simulation.submit([5], id="a")
    simulation.advance(1)
    number, _ = simulation.submit([5], id="b")

    assert simulation.values(number) == [5]
    assert simulation.outcome(number).id == "b"
    assert runs(simulation) == 1

    counted = simulation.scheduler.statistics()

    assert (counted.cache_hit.count, counted.cache_miss.count, counted.success.count) == (1, 1, 2)


def test_other_contents_are_computed(simulation):
    for value in (5, 6):
        simulation.submit([value])
        simulation.advance(1)

    assert runs(simulation) == 2


def test_failures_are_not_remembered():
    simulation = cached(behaviour=lambda _: RunFailed("no"))
    simulation.submit([5])
    simulation.advance(1)
    number, _ = simulation.submit([5])
    simulation.advance(1)

    assert isinstance(simulation.outcome(number), InvalidValues)
    assert runs(simulation) == 2


# Flights


def test_equal_requests_in_flight_are_computed_once(simulation):
    numbers = [simulation.submit([5], id=str(i))[0] for i in range(10)]
    simulation.advance(1)

    assert [simulation.values(number) for number in numbers] == [[5]] * 10
    assert [simulation.outcome(number).id for number in numbers] == [str(i) for i in range(10)]
    assert runs(simulation) == 1
    assert simulation.scheduler.statistics().success.count == 10


def test_a_cancelled_leader_does_not_fail_its_followers(simulation):
    leader, ticket = simulation.submit([5])
    follower, _ = simulation.submit([5])
    ticket.cancel()
    simulation.advance(1)

    assert isinstance(simulation.outcome(leader), Cancelled)
    assert simulation.values(follower) == [5]
    assert simulation.instances[0].terminated == 0


def test_a_flight_is_given_up_with_its_last_waiter_and_the_next_one_flies_anew(simulation):
    simulation.instances[0].cost = lambda _: 0.2
    tickets = [simulation.submit([5])[1] for _ in range(3)]
    for ticket in tickets:
        ticket.cancel()
        ticket.cancel()

    assert all(isinstance(simulation.outcome(n), Cancelled) for n in range(3))

    number, _ = simulation.submit([5])
    simulation.advance(1)

    assert simulation.values(number) == [5]
    assert simulation.scheduler.statistics().execution_count == 2


def test_a_failure_is_shared():
    simulation = cached(behaviour=lambda _: RunFailed("no"))
    numbers = [simulation.submit([5])[0] for _ in range(3)]
    simulation.advance(1)

    assert all(isinstance(simulation.outcome(number), InvalidValues) for number in numbers)
    assert runs(simulation) == 1


def test_a_leaders_missed_deadline_is_its_own():
    simulation = cached()
    simulation.instances[0].cost = lambda _: 0.2
    leader, _ = simulation.submit([5], budget=0.1)
    followers = [simulation.submit([5], budget=budget)[0] for budget in (0.1, 2, 3)]
    simulation.advance(5)

    assert [type(simulation.outcome(n)) for n in (leader, followers[0])] == [DeadlineExceeded] * 2
    assert [simulation.values(n) for n in followers[1:]] == [[5], [5]]
    assert runs(simulation) == 2


def test_a_follower_with_less_time_than_the_leader_flies_itself():
    simulation = cached(instances=2)
    simulation.instances[0].cost = simulation.instances[1].cost = lambda _: 1.0
    patient, _ = simulation.submit([5], budget=10)
    hasty, _ = simulation.submit([5], budget=0.5)
    simulation.advance(5)

    assert isinstance(simulation.outcome(hasty), DeadlineExceeded)
    assert simulation.answered_at[hasty] <= 0.52
    assert simulation.values(patient) == [5]


def test_a_refused_leader_hears_it_and_leaves_no_flight_behind():
    simulation = cached(limits=limits(max_requests=1))
    simulation.submit([1])
    simulation.submit([2])
    for _ in range(2):
        with pytest.raises(QueueFull):
            simulation.submit([3])
    simulation.advance(1)
    number, _ = simulation.submit([3])
    simulation.advance(1)

    assert simulation.values(number) == [3]


def test_followers_whose_second_flight_is_refused_are_told():
    simulation = cached()
    simulation.instances[0].cost = lambda _: 0.2
    simulation.submit([5], budget=0.1)
    follower, _ = simulation.submit([5], budget=0.102)
    simulation.advance(5)

    assert isinstance(simulation.outcome(follower), DeadlineUnreachable | DeadlineExceeded)


def test_draining_and_closing_reach_everybody_on_board(simulation):
    numbers = [simulation.submit([5])[0] for _ in range(3)]
    drained = []
    simulation.scheduler.drain(lambda: drained.append(1))
    with pytest.raises(ShuttingDown):
        simulation.submit([6])
    simulation.scheduler.close()
    simulation.advance(1)

    assert all(isinstance(simulation.outcome(number), ShuttingDown) for number in numbers)
    assert drained == [1]


def test_it_stands_in_for_the_scheduler(simulation):
    simulation.submit([1])
    simulation.submit([2])

    assert simulation.scheduler.spec is simulation.spec
    assert simulation.scheduler.max_batch_rows == simulation.bare.max_batch_rows
    assert simulation.scheduler.cost_points() == simulation.bare.cost_points()
    assert simulation.scheduler.queue_statistics().depth == 1
    assert all(type(outcome) is InferResponse for outcomes in simulation.outcomes.values() for outcome in outcomes)
