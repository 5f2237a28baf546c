"""What test_queue.py needs of a queue and the world around it; one harness per implementation.

A harness owns a queue with one model `m` (input `x`, output `y`, both UINT8 [-1, 1], y = x) behind it. Time may be
simulated or real: tests only say "let this much pass" and "wait until". To add an implementation, write a harness and
name it in `HARNESSES`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from server.messages import NO_DEADLINE, Ticket
from server.queues.base import Queue
from server.queues.memory import MemoryQueue
from server.sessions.base import RunFailed
from tests.contract.link_harness import LinkHarness
from tests.contract.redis_harness import RedisHarness
from tests.unit.simulation import Outcome, Simulation, echo, limits, request

REFUSED = 251
"""A row of this value makes the runtime refuse its batch."""

BOUND = 50
"""Requests that may wait."""


@dataclass(eq=False)
class Answer:
    """What became of one submitted request; `seconds` is how long it took."""

    outcomes: list[Outcome] = field(default_factory=list)
    seconds: float = 0.0
    ticket: Ticket | None = None

    @property
    def outcome(self) -> Outcome:
        (outcome,) = self.outcomes
        return outcome

    @property
    def values(self) -> list[int]:
        return list(self.outcome.outputs[0].data)


class QueueHarness(Protocol):
    """A queue and a worker behind it."""

    queue: Queue

    def submit(self, values: Iterable[int] = (1,), *, budget: float = NO_DEADLINE, **fields: object) -> Answer:
        """Submit one request of the model; errors of `Queue.submit` come through."""

    def wait(self, *answers: Answer) -> None:
        """Return once all are answered; fail the test after some seconds."""

    def advance(self, seconds: float) -> None:
        """Let time pass."""

    def hold(self) -> None:
        """Let runs that start from now on go on for ever: every instance gets busy and stays so."""

    def resume(self) -> None:
        """Let runs finish again, those held included."""

    def computed(self) -> list[int]:
        """Return the values of all rows that ran, in order."""

    def retire(self) -> None:
        """Take the model out of service: what was accepted is answered, nothing new is."""

    def close(self) -> None:
        """Stop everything."""


class MemoryHarness:
    """The in-process queue over a scheduler in simulated time."""

    def __init__(self) -> None:
        self._simulation = Simulation(
            cost=lambda rows: 0.001 + 0.0001 * rows, behaviour=_refuse, limits=limits(max_requests=BOUND), instances=1
        )
        scheduler = self._simulation.scheduler
        self._served = {("m", "1"): scheduler}
        self.queue: Queue = MemoryQueue(lambda name, version: self._served.get((name, version)), self._served.values)
        self._instance = self._simulation.instances[0]

    def submit(self, values=(1,), *, budget=NO_DEADLINE, reply: Callable[[Outcome], None] | None = None, **fields):
        answer = Answer()
        start = self._simulation.now

        def keep(outcome: Outcome) -> None:
            answer.outcomes.append(outcome)
            answer.seconds = self._simulation.now - start
            if reply:
                reply(outcome)

        answer.ticket = self.queue.submit(request(values, deadline=start + budget, **fields), keep)
        return answer

    def wait(self, *answers):
        self.advance(5)

        assert all(answer.outcomes for answer in answers)

    def advance(self, seconds):
        self._simulation.advance(seconds)

    def hold(self):
        self._instance.held = []

    def resume(self):
        self._instance.let_go()

    def computed(self):
        return [value for batch in self._instance.batches for part in batch for value in bytes(part.inputs[0].data)]

    def retire(self):
        scheduler = self._served.pop(("m", "1"))
        scheduler.drain(lambda: None)

    def close(self):
        self._simulation.scheduler.close()


def _refuse(parts):
    if any(REFUSED in bytes(part.inputs[0].data) for part in parts):
        return RunFailed("as asked")
    return echo(parts)


HARNESSES: dict[str, Callable[[], QueueHarness]] = {
    "memory": MemoryHarness,
    "link": lambda: LinkHarness(Answer, BOUND, _refuse),
    "redis": lambda: RedisHarness(Answer, BOUND, REFUSED),
}
