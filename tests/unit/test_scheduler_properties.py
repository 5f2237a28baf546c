"""Whatever happens in whatever order, every accepted request is answered exactly once, and rightly."""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from server.errors import Cancelled, DeadlineExceeded, Exhausted, InferenceFailed, InvalidValues, ShuttingDown
from server.messages import InferResponse
from server.sessions.base import InstanceDied, OutOfMemory, RunFailed
from tests.unit.simulation import Simulation, echo, limits, spec

INVALID, DEADLY, HUNG = 251, 252, 253
"""Values of rows that the runtime refuses, that kill it, that never end."""


QUEUE_POLICIES = [{"default_timeout": 0.05}, {"default_timeout": 0.05, "timeout_action": "delay"}]


def behave(parts):
    rows = b"".join(bytes(part.inputs[0].data) for part in parts)
    if len(rows) > 6 and rows[0] % 16 == 5:
        return OutOfMemory("fits only sometimes")
    if DEADLY in rows:
        return InstanceDied("poison")
    return RunFailed("values") if INVALID in rows else echo(parts)


def cost(parts):
    rows = b"".join(bytes(part.inputs[0].data) for part in parts)
    return 1e9 if HUNG in rows else 0.005 + 0.001 * len(rows)


ordinary = st.integers(0, 250)
rows = st.one_of(
    st.lists(ordinary, min_size=1, max_size=3),
    st.lists(ordinary, min_size=1, max_size=30),
    st.lists(st.sampled_from([1, INVALID, DEADLY, HUNG]), min_size=1, max_size=4),
)


class SchedulerMachine(RuleBasedStateMachine):
    @initialize(
        max_batch_size=st.sampled_from([1, 4, 8]),
        instances=st.integers(1, 3),
        policy=st.fixed_dictionaries(
            {},
            optional={
                "preserve_ordering": st.just(True),
                "max_queue_delay": st.just(0.004),
                "queue": st.sampled_from(QUEUE_POLICIES),
            },
        ),
    )
    def start(self, max_batch_size, instances, policy):
        self.simulation = Simulation(
            spec(max_batch_size, priority_levels=2, default_priority_level=2, **policy),
            instances=instances,
            behaviour=behave,
            limits=limits(max_requests=20, run_timeout=0.5, max_deadline=2.0),
        )
        for instance in self.simulation.instances:
            instance.part_cost = cost
        self.ordered = "preserve_ordering" in policy
        self.sent = {}
        self.tickets = {}
        self.cancelled = set()
        self.drained = []
        self.draining = False

    @rule(
        values=rows,
        budget=st.sampled_from([0.01, 0.05, 0.2, 10.0]),
        priority=st.integers(0, 2),
        size=st.sampled_from([0, 100, 200]),
    )
    def submit(self, values, budget, priority, size):
        try:
            number, ticket = self.simulation.submit(values, budget=budget, priority=priority, size=size)
        except Exhausted as refusal:
            assert refusal.retry_after > 0
        except ShuttingDown:
            assert self.draining
        else:
            assert not self.draining

            self.sent[number] = (values, self.simulation.now + min(budget, 2.0))
            self.tickets[number] = ticket

    @rule(values=st.lists(ordinary, min_size=5, max_size=12))
    def submit_many(self, values):
        for value in values:
            self.submit([value], 0.2, 0, 0)

    @rule(seconds=st.sampled_from([0.001, 0.006, 0.02, 0.1]))
    def wait(self, seconds):
        self.simulation.advance(seconds)

    @precondition(lambda self: getattr(self, "tickets", None))
    @rule(which=st.integers(0, 1000))
    def cancel(self, which):
        number = list(self.tickets)[which % len(self.tickets)]
        self.cancelled.add(number)
        self.tickets[number].cancel()

    @rule(which=st.integers(0, 2))
    def kill(self, which):
        instance = self.simulation.instances[which % len(self.simulation.instances)]
        if instance.available:
            instance.die(back_after=0.03)

    @precondition(lambda self: not self.draining)
    @rule(really=st.sampled_from([False] * 9 + [True]))
    def drain(self, really):
        if really:
            self.draining = True
            self.simulation.scheduler.drain(lambda: self.drained.append(self.simulation.now))

    @invariant()
    def nobody_is_answered_twice_and_every_answer_is_right(self):
        if not hasattr(self, "simulation"):
            return
        for number, outcomes in self.simulation.outcomes.items():
            assert len(outcomes) <= 1

            if outcomes:
                self.check(number, outcomes[0])

    def check(self, number, outcome):
        values, deadline = self.sent[number]
        if isinstance(outcome, InferResponse):
            assert list(outcome.outputs[0].data) == values
        elif isinstance(outcome, InvalidValues):
            assert INVALID in values
        elif isinstance(outcome, Cancelled):
            assert number in self.cancelled
        elif isinstance(outcome, DeadlineExceeded):
            assert self.ordered or self.simulation.answered_at[number] <= deadline + 0.02
        else:
            assert isinstance(outcome, InferenceFailed)

    def teardown(self):
        if not hasattr(self, "simulation"):
            return
        self.simulation.advance(60)
        self.nobody_is_answered_twice_and_every_answer_is_right()

        assert all(len(outcomes) == 1 for outcomes in self.simulation.outcomes.values())
        assert self.simulation.scheduler.queue_statistics().depth == 0
        assert self.simulation.scheduler._dispatcher._bytes == 0
        assert len(self.drained) == int(self.draining)

        if not self.draining:
            number, _ = self.simulation.submit([9], budget=10)
            self.simulation.advance(1)

            assert self.simulation.values(number) == [9]


SchedulerMachine.TestCase.settings = settings(
    max_examples=150, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestScheduler = SchedulerMachine.TestCase
