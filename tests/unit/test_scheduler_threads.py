"""The scheduler among real threads: callers who cancel, instances that die, an alarm. Nothing waits by sleeping."""

import itertools
import queue
import random
import sys
import threading
import time

import pytest

from server.alarm import ThreadAlarm
from server.errors import Cancelled, DeadlineExceeded, Exhausted, ServingError
from server.messages import InferResponse
from server.scheduler import Scheduler
from server.sessions.base import CostPoint, InstanceDied, RunTimedOut
from tests.unit.simulation import echo, limits, request, spec

CALLERS = 4
EACH = 1000
PATIENCE = 30


class ThreadInstance:
    """An instance with a thread of its own that dies under one batch in twenty and comes back at once."""

    name = "thread"

    def __init__(self, seed):
        self.available = True
        self.overlaps = 0
        self._busy = False
        self._rng = random.Random(seed)
        self._jobs = queue.SimpleQueue()
        self._stop = threading.Event()
        self._watchers = []
        threading.Thread(target=self._work, daemon=True).start()

    def run(self, parts, timeout, done):
        self.overlaps += self._busy
        self._busy = True
        self._stop.clear()
        self._jobs.put((parts, done))

    def _work(self):
        while (job := self._jobs.get()) is not None:
            parts, done = job
            self._busy = False
            if self._stop.is_set():
                done(RunTimedOut("terminated"))
            elif self._rng.random() < 0.05:
                self.available = False
                done(InstanceDied("chaos"))
                self.available = True
                for callback in self._watchers:
                    callback()
            else:
                done(echo(parts))

    def terminate(self):
        self._stop.set()

    def read_by(self, add_reader):
        pass

    def on_available(self, callback):
        self._watchers.append(callback)

    def close(self, grace):
        self._jobs.put(None)


class Caller(threading.Thread):
    """Submits requests one after the other, cancels some, and keeps what it hears."""

    def __init__(self, scheduler, number):
        super().__init__(daemon=True)
        self.scheduler = scheduler
        self.rng = random.Random(number)
        self.heard = [[] for _ in range(EACH)]
        self.refused = set()
        self.answered = threading.Semaphore(0)

    def run(self):
        for index, heard in enumerate(self.heard):
            values = [index % 200] * self.rng.choice([1, 1, 1, 3, 20])
            deadline = time.monotonic() + self.rng.choice([0.02, 1, 60])
            try:
                ticket = self.scheduler.submit(
                    request(values, deadline=deadline, id=str(index)),
                    lambda outcome, heard=heard: (heard.append(outcome), self.answered.release()),
                )
            except (Exhausted, DeadlineExceeded):
                self.refused.add(index)
                self.answered.release()
                continue
            if self.rng.random() < 0.2:
                ticket.cancel()

    def wait(self):
        self.join(PATIENCE)
        for _ in range(EACH):
            assert self.answered.acquire(timeout=PATIENCE)


@pytest.fixture
def frequent_switches():
    """Let threads take turns a hundred times as often as usual, in places they seldom do."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(usual / 100)
    yield
    sys.setswitchinterval(usual)


@pytest.mark.usefixtures("frequent_switches")
@pytest.mark.parametrize("ordered", [False, True])
def test_everybody_is_answered_exactly_once_among_threads_cancels_and_deaths(ordered):
    alarm = ThreadAlarm()
    instances = [ThreadInstance(seed) for seed in range(2)]
    scheduler = Scheduler(
        spec(8, preserve_ordering=ordered),
        instances,
        [CostPoint(1, 0.0001), CostPoint(8, 0.0002)],
        alarm=alarm,
        limits=limits(),
    )
    callers = [Caller(scheduler, number) for number in range(CALLERS)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.wait()
    drained = threading.Event()
    scheduler.drain(drained.set)

    assert drained.wait(PATIENCE)

    for instance in instances:
        instance.close(0)
    alarm.close()

    assert [instance.overlaps for instance in instances] == [0, 0]

    answers = [(index, *heard) for c in callers for index, heard in enumerate(c.heard) if index not in c.refused]

    assert all(len(answer) == 2 for answer in answers)
    assert all(isinstance(outcome, InferResponse | ServingError) for _, outcome in answers)

    right = [(index, outcome) for index, outcome in answers if isinstance(outcome, InferResponse)]

    assert all(set(outcome.outputs[0].data) == {index % 200} for index, outcome in right)
    assert len(right) > CALLERS * EACH / 4
    assert any(isinstance(outcome, Cancelled) for _, outcome in answers)


def test_what_expires_is_answered_without_anybody_asking():
    alarm = ThreadAlarm()
    scheduler = Scheduler(spec(), [], [CostPoint(1, 0.001)], alarm=alarm, limits=limits())
    heard = queue.SimpleQueue()
    start = time.monotonic()
    for budget in itertools.islice(itertools.cycle([0.05, 0.1]), 20):
        due = start + budget
        scheduler.submit(request(deadline=due), lambda _, due=due: heard.put(time.monotonic() - due))
    late = [heard.get(timeout=PATIENCE) for _ in range(20)]
    alarm.close()

    assert min(late) >= 0
