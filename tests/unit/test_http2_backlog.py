import pytest

from server.transports.base import StatusCode, StatusError
from server.transports.http2.backlog import CALM, SHARE, SLICE, Backlog

SHED = StatusError(StatusCode.RESOURCE_EXHAUSTED, "too many")
COST = 0.001


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class Call:
    """As much of a call as the backlog sees."""

    def __init__(self, deadline=None):
        self.deadline = deadline
        self.ended = None
        self.gone = False

    def handle(self, handler, message):
        handler(self, message)

    def shed(self, shed):
        self.ended = shed(self)


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
    enter = backlog.entry(handled, None)
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
    enter = backlog.entry(handled, None)
    calls = [Call() for _ in range(10 * SLICE)]
    for number, call in enumerate(calls):
        enter(call, number)
        call.gone = number % 10 != 9
    backlog.serve()

    assert handled == list(range(9, 10 * SLICE, 10))
    assert not len(backlog)


def test_a_call_that_would_wait_for_most_of_its_time_is_shed_as_it_arrives(backlog, handled, clock):
    enter = backlog.entry(handled, lambda _: SHED)
    learn(backlog, enter)
    for _ in range(CALM):
        enter(Call(), b"before")
    waits = CALM * COST
    hasty, patient, unbounded = Call(clock.now + 0.9 * waits / SHARE), Call(clock.now + 1.2 * waits / SHARE), Call()
    for call in (hasty, patient, unbounded):
        enter(call, b"after")

    assert [call.ended for call in (hasty, patient, unbounded)] == [SHED, None, None]
    assert len(backlog) == CALM + 2


def test_a_few_calls_are_never_shed_whatever_they_cost(backlog, handled, clock):
    enter = backlog.entry(handled, lambda _: SHED)
    learn(backlog, enter)
    calls = [Call(clock.now + COST) for _ in range(CALM)]
    for call in calls:
        enter(call, b"")

    assert not any(call.ended for call in calls)


def test_a_method_that_sheds_nobody_takes_everybody(backlog, handled, clock):
    enter = backlog.entry(handled, None)
    learn(backlog, enter)
    calls = [Call(clock.now) for _ in range(2 * CALM)]
    for call in calls:
        enter(call, b"")

    assert not any(call.ended for call in calls)


def test_what_a_call_costs_is_learnt_from_the_latest(backlog, handled, clock):
    slow = backlog.entry(handled, lambda _: SHED)
    quick = backlog.entry(lambda *_: None, lambda _: SHED)
    learn(backlog, slow)
    learn(backlog, quick)
    for _ in range(CALM):
        quick(Call(), b"")
    call = Call(clock.now + COST)
    quick(call, b"")

    assert call.ended is None
