"""What a thread that submits several requests is told of when they start, and of how long others may wait."""

import threading
from functools import partial

import pytest

from server.bundle import Bundle
from server.cost import CostCurve
from server.dispatch import PAUSE
from server.errors import DeadlineUnreachable
from tests.unit.simulation import Simulation, linear, spec


def nobody(*_):
    return False


@pytest.fixture
def bundle():
    """One that the test's thread flushes."""
    bundle = Bundle()
    bundle.begin(nobody)
    return bundle


def elsewhere(act, *arguments):
    """Do something on another thread; return what came of it."""
    found = []
    thread = threading.Thread(target=lambda: found.append(act(*arguments)))
    thread.start()
    thread.join()
    return found[0]


def test_nobody_pauses_who_was_not_told_of_a_crowd(bundle):
    assert bundle.pause() == 0.0


def test_the_longest_pause_that_was_said_since_is_said_once(bundle):
    for seconds in (0.001, 0.003, 0.002):
        bundle.crowd(seconds)

    assert [bundle.pause() for _ in range(2)] == [0.003, 0.0]
    bundle.crowd(0.001)
    assert bundle.pause() == 0.001


def test_what_another_thread_submits_makes_nobody_pause(bundle):
    elsewhere(bundle.crowd, 0.003)

    assert bundle.pause() == 0.0


def test_before_anybody_flushes_nobody_pauses():
    bundle = Bundle()
    bundle.crowd(0.003)

    assert bundle.pause() == 0.0
    assert not bundle.leave(list)


def test_what_is_left_is_started_once_by_the_thread_that_flushes(bundle):
    started = []
    start = partial(started.append, "started")

    assert [bundle.leave(start), bundle.leave(start), elsewhere(bundle.leave, start)] == [True, True, False]
    assert (bundle.waiting(), started) == (1, [])
    bundle.flush()
    bundle.flush()
    assert (bundle.waiting(), started) == (0, ["started"])


def busy(rows=8, instances=1):
    """Return a scheduler whose instances run a batch each, and how many rows a full one has."""
    simulation = Simulation(spec(rows), instances=instances)
    for _ in range(instances):
        simulation.submit()
    full = simulation.scheduler.max_batch_rows
    simulation.bundle.begin(nobody)
    return simulation, full


def test_a_scheduler_tells_of_a_crowd_once_more_than_a_full_batch_waits():
    simulation, full = busy()
    expected = PAUSE * CostCurve([(full, linear(full))]).seconds(full)

    pauses = []
    for _ in range(full + 3):
        simulation.submit()
        pauses.append(simulation.bundle.pause())

    assert pauses == [0.0] * full + [pytest.approx(expected)] * 3
    assert full > 1


def test_a_crowd_counts_rows():
    simulation, full = busy()
    simulation.submit(range(full))
    assert simulation.bundle.pause() == 0.0
    simulation.submit([1])

    assert simulation.bundle.pause() > 0.0


def test_a_crowd_that_was_worked_off_is_none():
    simulation, full = busy()
    for _ in range(full + 1):
        simulation.submit()
    assert simulation.bundle.pause() > 0.0
    simulation.advance(1)
    simulation.submit()

    assert simulation.bundle.pause() == 0.0


def test_while_an_instance_is_free_a_crowd_is_started_and_nobody_pauses():
    simulation = Simulation(spec(8))
    simulation.bundle.begin(nobody)
    for _ in range(3 * simulation.scheduler.max_batch_rows):
        simulation.submit()

    assert (simulation.bundle.waiting(), simulation.bundle.pause()) == (1, 0.0)
    simulation.bundle.flush()
    simulation.submit()
    assert simulation.bundle.pause() > 0.0


def test_what_other_threads_submit_tells_nobody_of_a_crowd():
    simulation, full = busy()
    for _ in range(full + 3):
        elsewhere(simulation.submit)

    assert simulation.bundle.pause() == 0.0


def test_a_request_that_is_refused_tells_nobody_of_a_crowd():
    simulation, full = busy()
    for _ in range(full + 1):
        simulation.submit()
    simulation.bundle.pause()

    with pytest.raises(DeadlineUnreachable):
        simulation.submit(budget=linear(full) / 2)
    assert simulation.bundle.pause() == 0.0
