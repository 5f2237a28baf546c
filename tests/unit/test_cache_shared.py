"""What a cached scheduler does with answers that other processes know; the others answer when a test says so."""

import pytest

from server.cache import CachedScheduler
from server.errors import Cancelled, DeadlineExceeded, InvalidValues, QueueFull, ShuttingDown
from server.sessions.base import RunFailed
from tests.unit.simulation import Simulation, limits


class Others:
    """The shared answers; a question waits until `hear`."""

    def __init__(self):
        self.known = {}
        self.asked = []
        self.available = True
        self._waiting = []

    def fetch(self, key, found):
        if self.available:
            self.asked.append(key)
            self._waiting.append((key, found))
        return self.available

    def put(self, key, outputs):
        self.known[key] = outputs

    def hear(self):
        waiting, self._waiting = self._waiting, []
        for key, found in waiting:
            found(self.known.get(key))


@pytest.fixture
def others():
    return Others()


def process(others, **options):
    """One of several server processes that share."""
    simulation = Simulation(**options)
    simulation.bare = simulation.scheduler
    simulation.scheduler = CachedScheduler(simulation.bare, 1 << 20, simulation.alarm.clock, others)
    return simulation


def runs(simulation):
    return sum(len(batch) for batch in simulation.instances[0].batches)


def counted(simulation):
    statistics = simulation.scheduler.statistics()
    return statistics.cache_hit.count, statistics.cache_miss.count, statistics.success.count


def test_what_one_process_computed_the_other_answers_without_a_run(others):
    one, other = process(others), process(others)
    one.submit([5])
    assert runs(one) == 0
    others.hear()
    one.advance(1)
    number, _ = other.submit([5], id="b")
    others.hear()

    assert (runs(one), runs(other)) == (1, 0)
    assert other.values(number) == [5]
    assert other.outcome(number).id == "b"
    assert counted(one) == (0, 1, 1)
    assert counted(other) == (1, 0, 1)


def test_what_was_heard_is_remembered_here(others):
    one, other = process(others), process(others)
    for simulation in (one, other):
        simulation.submit([5])
        others.hear()
        simulation.advance(1)
    number, _ = other.submit([5])

    assert other.values(number) == [5]
    assert len(others.asked) == 2
    assert counted(other) == (2, 0, 2)


def test_equal_requests_ask_once_and_are_computed_once(others):
    simulation = process(others)
    numbers = [simulation.submit([5], id=str(i))[0] for i in range(10)]
    assert len(others.asked) == 1
    others.hear()
    numbers += [simulation.submit([5], id="late")[0]]
    simulation.advance(1)

    assert [simulation.values(number) for number in numbers] == [[5]] * 11
    assert len(others.asked) == runs(simulation) == 1
    assert counted(simulation) == (0, 11, 11)


def test_a_hit_answers_everybody_on_board(others):
    one, other = process(others), process(others)
    one.submit([5])
    others.hear()
    one.advance(1)
    numbers = [other.submit([5])[0] for _ in range(3)]
    others.hear()

    assert [other.values(number) for number in numbers] == [[5]] * 3
    assert counted(other) == (3, 0, 3)
    assert runs(other) == 0


def test_where_nobody_can_be_asked_the_request_is_computed_at_once(others):
    others.available = False
    simulation = process(others)
    number, _ = simulation.submit([5])
    simulation.advance(1)

    assert simulation.values(number) == [5]
    assert others.asked == []
    assert counted(simulation) == (0, 1, 1)


def test_a_question_that_everybody_gave_up_is_not_computed(others):
    simulation = process(others)
    tickets = [simulation.submit([5])[1] for _ in range(2)]
    for ticket in tickets:
        ticket.cancel()
    others.hear()
    simulation.advance(1)

    assert all(isinstance(simulation.outcome(number), Cancelled) for number in (0, 1))
    assert runs(simulation) == 0

    number, _ = simulation.submit([5])
    others.hear()
    simulation.advance(1)

    assert simulation.values(number) == [5]


def test_one_who_leaves_while_the_question_is_out_leaves_the_others_theirs(others):
    simulation = process(others)
    _, ticket = simulation.submit([5])
    number, _ = simulation.submit([5])
    ticket.cancel()
    others.hear()
    simulation.advance(1)

    assert simulation.values(number) == [5]


def test_failures_are_not_told(others):
    simulation = process(others, behaviour=lambda _: RunFailed("no"))
    number, _ = simulation.submit([5])
    others.hear()
    simulation.advance(1)

    assert isinstance(simulation.outcome(number), InvalidValues)
    assert others.known == {}


def test_a_refusal_after_the_question_reaches_everybody_on_board(others):
    simulation = process(others, limits=limits(max_requests=1))
    for value in (1, 2, 3, 3):
        simulation.submit([value])
    others.hear()

    assert [isinstance(simulation.outcome(number), QueueFull) for number in (2, 3)] == [True, True]

    simulation.advance(1)

    assert [simulation.values(number) for number in (0, 1)] == [[1], [2]]


def test_a_deadline_that_passes_while_the_question_is_out_is_told(others):
    simulation = process(others)
    number, _ = simulation.submit([5], budget=0.1)
    simulation.advance(1)
    others.hear()

    assert isinstance(simulation.outcome(number), DeadlineExceeded)
    assert runs(simulation) == 0


def test_a_drain_waits_for_the_questions_that_are_out(others):
    simulation, drained = process(others), []
    numbers = [simulation.submit([value])[0] for value in (5, 6)]
    simulation.scheduler.drain(lambda: drained.append(1))
    with pytest.raises(ShuttingDown):
        simulation.submit([7])
    assert drained == []
    others.hear()
    assert drained == []
    simulation.advance(1)

    assert [simulation.values(number) for number in numbers] == [[5], [6]]
    assert drained == [1]


def test_a_closed_scheduler_answers_a_question_that_comes_back(others):
    simulation = process(others)
    number, _ = simulation.submit([5])
    simulation.scheduler.close()
    others.hear()

    assert isinstance(simulation.outcome(number), ShuttingDown)


def test_a_hastier_request_asks_for_itself(others):
    simulation = process(others)
    patient, _ = simulation.submit([5], budget=10)
    hasty, _ = simulation.submit([5], budget=1)
    assert len(others.asked) == 2
    others.hear()
    simulation.advance(1)

    assert simulation.values(patient) == simulation.values(hasty) == [5]
