import pytest

from server.transports.base import StatusCode, StatusError
from server.transports.http2.backlog import CALM, SHARE, SLICE, Backlog

COST = 0.001


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class Call:
    """As much of a call as the backlog sees."""

    def __init__(self):
        self.gone = False

    def handle(self, handler, message):
        handler(self, message)


class Shed:
    """Remembers what it was told."""

    status = StatusError(StatusCode.RESOURCE_EXHAUSTED, "too many")

    def __init__(self):
        self.told = []

    def count(self, calls):
        self.told.append(calls)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def backlog(clock):
    return Backlog(clock)


@pytest.fixture
def handled(clock):
    return Handled(clock)


class Handled(list):
    """A handler that takes its time and remembers."""

    def __init__(self, clock):
        super().__init__()
        self._clock = clock

    def __call__(self, call, message):
        self._clock.now += COST
        self.append(message)


def learn(backlog, enter):
    """Let the backlog see what a call costs."""
    for _ in range(200):
        for _ in range(SLICE):
            enter(Call(), b"")
        backlog.serve()


def test_calls_are_handled_in_order_a_slice_at_a_time(backlog, handled):
    enter = backlog.entry(handled)
    for number in range(SLICE + 1):
        enter(Call(), number)

    assert handled == []
    backlog.serve()
    assert handled == list(range(SLICE))
    assert len(backlog) == 1
    backlog.serve()
    backlog.serve()
    assert handled == list(range(SLICE + 1))
    assert not len(backlog)


def test_calls_whose_callers_have_gone_keep_nobody_waiting(backlog, handled):
    enter = backlog.entry(handled)
    calls = [Call() for _ in range(10 * SLICE)]
    for number, call in enumerate(calls):
        enter(call, number)
        call.gone = number % 10 != 9
    backlog.serve()

    assert handled == list(range(9, 10 * SLICE, 10))
    assert not len(backlog)


def test_a_call_that_would_wait_for_most_of_its_time_is_hopeless(backlog, handled):
    enter = backlog.entry(handled)
    learn(backlog, enter)
    for _ in range(CALM):
        enter(Call(), b"before")
    waits = CALM * COST

    assert backlog.hopeless(0.9 * waits / SHARE)
    assert not backlog.hopeless(1.1 * waits / SHARE)


def test_behind_a_few_calls_nobody_is_hopeless_whatever_they_cost(backlog, handled):
    enter = backlog.entry(handled)
    learn(backlog, enter)
    for _ in range(CALM - 1):
        enter(Call(), b"")

    assert not backlog.hopeless(COST)


def test_what_a_call_costs_is_learnt_from_the_latest(backlog, handled):
    learn(backlog, backlog.entry(handled))
    learn(backlog, backlog.entry(lambda *_: None))
    enter = backlog.entry(handled)
    for _ in range(CALM):
        enter(Call(), b"")

    assert not backlog.hopeless(COST)


def test_time_spent_elsewhere_while_calls_wait_is_part_of_what_they_wait_for(backlog, clock):
    enter = backlog.entry(lambda *_: None)
    for _ in range(200):
        for _ in range(SLICE):
            enter(Call(), b"")
    for _ in range(100):
        backlog.serve()
        clock.now += SLICE * COST  # reading, say
    assert len(backlog) == 100 * SLICE

    assert backlog.hopeless(0.9 * len(backlog) * COST / SHARE)
    assert not backlog.hopeless(1.1 * len(backlog) * COST / SHARE)


def test_calls_that_were_shed_are_told_of_once_a_slice(backlog, handled):
    shed = Shed()
    shedder, enter = backlog.shedder(shed), backlog.entry(handled)
    enter(Call(), b"")
    backlog.serve()
    shedder.shed_calls = 7
    enter(Call(), b"")
    backlog.serve()
    enter(Call(), b"")
    backlog.serve()

    assert shed.told == [7]
