"""The real scheduler behind the memory of its refusals, in simulated time: refusing unread must cost no goodput."""

import itertools
import math
import random
from dataclasses import dataclass, replace

import pytest

from server.errors import DeadlineUnreachable
from server.messages import InferResponse
from server.wire.refusals import Refusals
from tests.unit.simulation import Simulation, request, spec

MESSAGE = b"\x0a\x01m\x2a\x00"
DEADLINE = 0.1
TURN = 0.004
"""Seconds between two looks at what has come: calls arrive in clumps, as they do while the thread pauses."""


@dataclass
class Call:
    deadline: float


class Door:
    """Asks the memory before the queue, as the transport does when a call has come."""

    def __init__(self, row, limit, instances, noise):
        rng = random.Random(11)
        self.machine = Simulation(spec(limit), instances=instances, cost=lambda rows: 0.0002 + row * rows)
        for instance in self.machine.instances:
            instance.cost = lambda rows: (0.0002 + row * rows) * math.exp(rng.gauss(0, noise))
        self.capacity = instances * limit / (0.0002 + row * limit)
        self.memory = Refusals(observer=None, reject=None, clock=self.machine.alarm.clock)
        self.arrived: dict[int, float] = {}
        self.asked = self.refused = self.idle = 0

    def offer(self, arrival):
        left = arrival + DEADLINE - self.machine.now
        known = self.memory.find(MESSAGE, left)
        if known is not None and not self.memory.passes(known, 0.0):
            self.idle += self.machine.scheduler._dispatcher.any_free
            return
        self.asked += 1
        try:
            number, _ = self.machine.submit(budget=left)
        except DeadlineUnreachable as refusal:
            self.refused += 1
            asked = replace(request((1,), deadline=self.machine.now + left), spec=self.machine.spec)
            self.memory.remember(Call(self.machine.now + left), MESSAGE, asked, refusal)
        else:
            self.arrived[number] = arrival

    def goodput(self, load, seconds):
        """Return what was answered in time, as a part of what could be."""
        rng = random.Random(7)
        arrivals = itertools.accumulate(rng.expovariate(load * self.capacity) for _ in itertools.count())
        arrival = next(arrivals)
        while self.machine.now < seconds:
            self.machine.advance(TURN)
            while arrival <= self.machine.now:
                self.offer(arrival)
                arrival = next(arrivals)
        good = [
            number
            for number, arrival in self.arrived.items()
            if self.machine.outcomes[number]
            and isinstance(self.machine.outcome(number), InferResponse)
            and self.machine.answered_at[number] <= arrival + DEADLINE
        ]
        return len(good) / seconds / self.capacity


MODELS = {"churn": (0.00001, 128, 1), "sentiment": (0.00014, 128, 2), "mnist": (0.0003, 64, 2), "slow": (0.003, 8, 2)}


@pytest.mark.parametrize("noise", [0.0, 0.2])
@pytest.mark.parametrize("load", [1.5, 5])
@pytest.mark.parametrize("name", MODELS)
def test_refusing_unread_costs_no_goodput_and_spares_the_queue_its_refusals(name, load, noise):
    door = Door(*MODELS[name], noise)
    part = door.goodput(load, 0.5 if name == "churn" else 1.5)

    assert part >= (0.95 if noise == 0 else 0.9)
    assert door.idle == 0  # nobody is refused unread while an instance could take him
    assert door.refused <= 0.1 * door.asked
