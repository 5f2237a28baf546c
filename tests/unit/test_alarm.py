import threading
import time

import pytest

from server.alarm import ManualAlarm, ThreadAlarm


class Real:
    """The thread's alarm; waiting means waiting for an event."""

    def __init__(self):
        self.alarm = ThreadAlarm()
        self.now = time.monotonic
        self.epoch = self.now()

    def until(self, event):
        assert event.wait(5)


class Manual:
    def __init__(self):
        self.alarm = ManualAlarm(100.0)
        self.now = self.alarm.clock
        self.epoch = self.now()

    def until(self, event):
        self.alarm.advance(self.epoch + 5)
        assert event.is_set()


@pytest.fixture(params=[Real, Manual])
def world(request):
    made = request.param()
    yield made
    made.alarm.close()


def test_alarms_ring_in_the_order_of_their_instants_and_not_early(world):
    rung = []
    last = threading.Event()

    def note(name):
        return lambda: rung.append((name, world.now()))

    world.alarm.call_at(world.epoch + 0.03, lambda: (note("third")(), last.set()))
    world.alarm.call_at(world.epoch + 0.01, note("first"))
    world.alarm.call_at(world.epoch + 0.02, note("second"))
    world.until(last)

    assert [name for name, _ in rung] == ["first", "second", "third"]
    assert all(at >= world.epoch + due for (_, at), due in zip(rung, (0.01, 0.02, 0.03), strict=True))


def test_an_instant_in_the_past_rings_soon(world):
    event = threading.Event()
    world.alarm.call_at(world.epoch - 10, event.set)
    world.until(event)


def test_a_callback_may_ask_for_another(world):
    event = threading.Event()
    world.alarm.call_at(world.epoch, lambda: world.alarm.call_at(world.epoch + 0.01, event.set))
    world.until(event)


def test_after_close_nothing_rings_and_asking_is_harmless(world):
    rung = []
    world.alarm.call_at(world.epoch + 3600, lambda: rung.append(1))
    world.alarm.close()
    world.alarm.close()
    world.alarm.call_at(world.epoch, lambda: rung.append(2))

    assert not rung


def test_a_callback_that_raises_is_reported_and_the_next_one_rings(monkeypatch):
    reported = []
    monkeypatch.setattr(threading, "excepthook", reported.append)
    alarm = ThreadAlarm()
    event = threading.Event()
    alarm.call_at(0.0, lambda: 1 / 0)
    alarm.call_at(0.0, event.set)

    assert event.wait(5)
    assert reported[0].exc_type is ZeroDivisionError

    alarm.close()


def test_close_ends_the_thread():
    alarm = ThreadAlarm()
    alarm.close()

    assert not alarm._thread.is_alive()
