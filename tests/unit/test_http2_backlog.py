import pytest

from server.transports.base import StatusCode, StatusError
from server.transports.http2.backlog import CALM, SHARE, SLICE, Backlog, Doom
from server.transports.http2.frames import END_HEADERS, END_STREAM, HEAD_SIZE, HEADERS, PREFIX_SIZE, read_head
from server.transports.http2.hpack import HeaderDecoder

COST = 0.001


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class Call:
    """As much of a call as the backlog sees."""

    metadata = ()

    def __init__(self, deadline=None):
        self.gone = False
        self.deadline = deadline
        self.timeout = None if deadline is None else deadline - 1000.0
        self.ended = None

    def shed(self, answer):
        self.ended = words(Doom(answer, 0, None))

    def handle(self, handler, message):
        handler(self, message)


class Refused:
    """A refusal with these words of messages that begin like this one."""

    def __init__(self, message, words):
        self.status = StatusError(StatusCode.RESOURCE_EXHAUSTED, words)
        self.alike = len(message)
        self.calls = 0

    def count(self, calls):
        self.calls += calls


class Shed:
    """Refuses messages with these words, and remembers what it was asked and told."""

    status = StatusError(StatusCode.RESOURCE_EXHAUSTED, "too many")

    def __init__(self, refused=()):
        self.told, self.asked = [], []
        self.recent = self.refused = {message: Refused(message, words) for message, words in dict(refused).items()}

    def refuse(self, *asked):
        self.asked.append(asked)
        return self.refused.get(asked[0])

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


def test_how_long_a_call_waits_is_what_those_before_it_cost(backlog, handled):
    enter = backlog.entry(handled)
    learn(backlog, enter)
    for _ in range(CALM):
        enter(Call(), b"before")

    assert backlog.wait() == pytest.approx(CALM * COST, rel=0.1)


def test_behind_a_few_calls_nobody_waits_whatever_they_cost(backlog, handled):
    enter = backlog.entry(handled)
    learn(backlog, enter)
    for _ in range(CALM - 1):
        enter(Call(), b"")

    assert backlog.wait() == 0.0


def test_what_a_call_costs_is_learnt_from_the_latest(backlog, handled):
    learn(backlog, backlog.entry(handled))
    learn(backlog, backlog.entry(lambda *_: None))
    enter = backlog.entry(handled)
    for _ in range(CALM):
        enter(Call(), b"")

    assert backlog.wait() < COST


def test_time_spent_elsewhere_while_calls_wait_is_part_of_what_they_wait_for(backlog, clock):
    enter = backlog.entry(lambda *_: None)
    for _ in range(200):
        for _ in range(SLICE):
            enter(Call(), b"")
    for _ in range(100):
        backlog.serve()
        clock.now += SLICE * COST  # reading, say
    assert len(backlog) == 100 * SLICE

    assert backlog.wait() == pytest.approx(len(backlog) * COST, rel=0.1)


def words(doom):
    """Return the words that a call ends with, None for one that goes on."""
    if doom is None:
        return None
    assert read_head(doom.answer, 0) == (len(doom.answer) - HEAD_SIZE << 8 | HEADERS, END_HEADERS | END_STREAM, 0)
    return dict(HeaderDecoder().decode(doom.answer[HEAD_SIZE:]))[b"grpc-message"].decode()


def crowded(backlog, seconds):
    """Have as many calls wait as take so long."""
    backlog._cost = seconds / CALM
    backlog.waiting.extend([None] * CALM)


def test_a_call_that_would_wait_for_most_of_its_time_is_shed_by_its_headers(backlog):
    shedder = backlog.shedder(Shed())
    crowded(backlog, SHARE)

    assert words(shedder.judge(0.99, None, ())) == "too many"
    assert words(shedder.judge(0.99, b"", ())) == "too many"
    assert shedder.judge(0.99, b"", ()).alike == 0
    assert shedder.judge(1.01, b"", ()) is None


def test_a_call_whose_like_was_refused_is_shed_by_its_message_and_the_time_left_when_it_is_its_turn(backlog):
    shed = Shed({b"full": "no room", b"also full": "no room either"})
    shedder = backlog.shedder(shed)
    crowded(backlog, 0.25)

    assert words(shedder.judge(1.0, b"full", (("key", "value"),))) == "no room"
    assert words(shedder.judge(1.0, b"also full", ())) == "no room either"
    assert words(shedder.judge(1.0, b"full", ())) == "no room"
    assert shedder.judge(1.0, b"full", ()).alike == PREFIX_SIZE + len(b"full")
    assert shedder.judge(1.0, b"welcome", ()) is None
    assert shedder.judge(1.0, None, ()) is None
    assert shed.asked[0] == (b"full", 0.75, (("key", "value"),), 0.0)
    assert len(shed.asked) == 5


def test_a_call_whose_like_was_refused_while_it_waited_is_shed_when_it_is_its_turn(backlog, handled, clock):
    shed = Shed()
    enter = backlog.entry(handled, backlog.shedder(shed))
    early, late, patient = Call(clock.now + 1), Call(clock.now + 2), Call()
    for call in (early, late, patient):
        enter(call, b"full")
    shed.refused[b"full"] = Refused(b"full", "no room")
    clock.now += 0.5
    backlog.serve()

    assert [early.ended, late.ended, patient.ended] == ["no room", "no room", None]
    assert handled == [b"full"]
    assert [(seconds, waited) for _, seconds, _, waited in shed.asked] == [(0.5, 0.5), (1.5, 0.5)]
    assert (shed.refused[b"full"].calls, shed.told) == (2, [0])


def test_calls_that_were_shed_are_told_of_once_a_turn(backlog):
    shed, quiet = Shed({b"full": "no room"}), Shed()
    shedder = backlog.shedder(shed)
    backlog.shedder(quiet)
    crowded(backlog, 1.0)
    for _ in range(3):
        shedder.judge(1.0, b"", ()).count(2)
    backlog.waiting.clear()
    assert shed.told == []
    backlog.serve()
    backlog.serve()
    shedder.judge(1.0, b"full", ()).count(1)
    backlog.serve()

    assert shed.told == [6, 0]
    assert quiet.told == []
