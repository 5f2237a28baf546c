"""The link under the contract: both ends of a socket pair in this process, a scheduler in real time behind one."""

import socket
import threading
import time
from collections.abc import Callable

from server.alarm import ThreadAlarm
from server.errors import DeadlineExceeded, DeadlineUnreachable, ModelNotReady, QueueFull, ShuttingDown
from server.link.desk import Desk
from server.link.end import End
from server.link.linked_queue import LinkedQueue
from server.messages import NO_DEADLINE
from server.queues.memory import MemoryQueue
from server.scheduler import Scheduler
from server.sessions.base import CostPoint
from tests.unit.simulation import limits, request, spec

WAIT = 20.0
REFUSALS = (QueueFull, DeadlineUnreachable, DeadlineExceeded, ModelNotReady, ShuttingDown)


class Held:
    """An instance in real time: runs last until there is nothing to hold them."""

    name = "held"
    restarts = 0
    available = True

    def __init__(self, behaviour) -> None:
        self.free = threading.Event()
        self.free.set()
        self.batches = []
        self._behaviour = behaviour

    def run(self, parts, timeout, done):
        self.batches.append(list(parts))

        def finish():
            self.free.wait(WAIT)
            done(self._behaviour(parts))

        threading.Thread(target=finish, daemon=True).start()

    def read_by(self, add_reader):
        pass

    def on_available(self, callback):
        """Never dies."""

    def terminate(self):
        """What runs is computed and thrown away."""


class LinkHarness:
    """See `QueueHarness`."""

    def __init__(self, answer: Callable[[], object], bound: int, behaviour) -> None:
        self._new_answer = answer
        self._instance = Held(behaviour)
        self._alarm = ThreadAlarm()
        costs = [CostPoint(1, 0.001), CostPoint(64, 0.005)]
        self._changed = threading.Condition()
        self._scheduler = Scheduler(
            spec(), [self._instance], costs, alarm=self._alarm, limits=limits(max_requests=bound)
        )
        self._served = {("m", "1"): self._scheduler}
        behind = MemoryQueue(lambda name, version: self._served.get((name, version)), self._served.values)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.desk = Desk(behind, lambda _: None)
        self.engine = End(theirs, self.desk.handlers, lambda _: self.desk.cancel_all())
        self.desk.attach(self.engine)
        self.queue = LinkedQueue(lambda _: 0)
        self.frontend = End(ours, self.queue.handlers, lambda _: self.queue.fail_all())
        self.queue.attach(self.frontend)
        self.engine.start("engine")
        self.frontend.start("frontend")

    def submit(self, values=(1,), *, budget=NO_DEADLINE, reply=None, **fields):
        """Submit; a refusal that comes as the reply is raised, as the contract allows a queue like this to give it."""
        answer, start = self._new_answer(), time.monotonic()

        def keep(outcome):
            answer.seconds = time.monotonic() - start
            with self._changed:
                answer.outcomes.append(outcome)
                self._changed.notify_all()
            if reply:
                reply(outcome)

        answer.ticket = self.queue.submit(request(values, deadline=start + budget, **fields), keep)
        if threading.get_ident() != self.frontend.receiver:  # there nothing could be heard
            self.queue.statistics()  # comes back behind what was refused on arrival
            if answer.outcomes and isinstance(answer.outcome, REFUSALS) and not 0 <= budget <= answer.seconds:
                raise answer.outcome
        return answer

    def wait(self, *answers):
        with self._changed:
            assert self._changed.wait_for(lambda: all(answer.outcomes for answer in answers), WAIT)

    def advance(self, seconds):
        time.sleep(seconds)
        self.queue.statistics()

    def hold(self):
        self._instance.free.clear()

    def resume(self):
        self.queue.statistics()  # what was submitted or cancelled before has arrived
        self._instance.free.set()

    def computed(self):
        return [value for batch in self._instance.batches for part in batch for value in bytes(part.inputs[0].data)]

    def retire(self):
        self.queue.statistics()
        self._served.pop(("m", "1")).drain(lambda: None)

    def close(self):
        self._instance.free.set()
        self._scheduler.close()
        self.frontend.close()
        self.engine.close()
        self._alarm.close()
