"""A simulated machine for the scheduler: time stands still until told, instances finish when their cost says so."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from server.admission import Limits
from server.alarm import ManualAlarm
from server.bundle import Bundle
from server.errors import ServingError
from server.messages import NO_DEADLINE, InferRequest, InferResponse, Tensor
from server.scheduler import Scheduler
from server.sessions.base import BatchDone, BatchError, BatchOutputs, CostPoint, InstanceDied, Part, RunTimedOut
from server.spec import BatchPolicy, ModelConfig, ModelSpec, QueuePolicy, TensorSpec

Outcome = InferResponse | ServingError
Behaviour = Callable[[Sequence[Part]], BatchOutputs | BatchError]

LIMITS = Limits(max_requests=10_000, max_rows=100_000, max_bytes=1 << 30, max_deadline=60.0, run_timeout=10.0)


def linear(rows: int) -> float:
    """The cost of design.md's simulation: 5 + 0.5 b milliseconds."""
    return 0.005 + 0.0005 * rows


def limits(**changes) -> Limits:
    """Return generous limits with some changed."""
    return replace(LIMITS, **changes)


def echo(parts: Sequence[Part]) -> BatchOutputs:
    """The usual model: each row's answer is its input, which proves that rows find their way back."""
    outputs = [(Tensor("y", "UINT8", part.inputs[0].shape, bytes(part.inputs[0].data)),) for part in parts]
    return BatchOutputs(outputs, 0.0001, 0.0008, 0.0001)


@dataclass
class FakeInstance:
    """An instance in simulated time. `behaviour` decides what comes back; `cost` when."""

    alarm: ManualAlarm
    cost: Callable[[int], float] = linear
    behaviour: Behaviour = echo
    name: str = "fake"
    available: bool = True
    part_cost: Callable[[Sequence[Part]], float] | None = None
    """Where the time depends on more than the number of rows."""
    batches: list[list[Part]] = field(default_factory=list)
    terminated: int = 0
    held: list[Callable[[], None]] | None = None
    """While this is a list, runs do not finish but wait in it for `let_go`."""
    _running: tuple[Sequence[Part], BatchDone] | None = None
    _watchers: list[Callable[[], None]] = field(default_factory=list)

    def run(self, parts: Sequence[Part], timeout: float, done: BatchDone) -> None:
        assert self._running is None, "a second run was started before the first was done"
        if not self.available:
            done(InstanceDied("not available"))
            return
        self.batches.append(list(parts))
        job = self._running = (parts, done)
        seconds = self.part_cost(parts) if self.part_cost else self.cost(sum(part.rows for part in parts))
        if seconds <= timeout:
            self.alarm.call_at(self.alarm.now + seconds, lambda: self._finish(job, self.behaviour))
        else:
            self.alarm.call_at(self.alarm.now + timeout, lambda: self._finish(job, lambda _: RunTimedOut("bound")))

    def let_go(self) -> None:
        """Let runs finish again, those held included."""
        held, self.held = self.held or [], None
        for finish in held:
            finish()

    def _finish(self, job, behaviour: Behaviour) -> None:
        if self._running is job and self.held is not None and behaviour is self.behaviour:
            self.held.append(lambda: self._finish(job, behaviour))
        elif self._running is job:
            self._running = None
            job[1](behaviour(job[0]))

    def terminate(self) -> None:
        self.terminated += 1
        job = self._running
        self.alarm.call_at(self.alarm.now + 0.001, lambda: self._finish(job, lambda _: RunTimedOut("terminated")))

    def die(self, back_after: float) -> None:
        """Die under whatever runs and be replaced a while later."""
        job, self._running, self.available = self._running, None, False
        self.alarm.call_at(self.alarm.now + back_after, self._back)
        if job is not None:
            job[1](InstanceDied("killed"))

    def _back(self) -> None:
        self.available = True
        for callback in self._watchers:
            callback()

    def read_by(self, add_reader):
        pass

    def on_available(self, callback: Callable[[], None]) -> None:
        self._watchers.append(callback)

    def close(self, grace: float) -> None:
        self.available = False


def request(values: Iterable[int] = (1,), *, deadline: float = NO_DEADLINE, **fields) -> InferRequest:
    """Return a request with one row per value (0 to 255)."""
    data = bytes(values)
    rows = len(data)
    return InferRequest(
        "m",
        fields.pop("version", "1"),
        fields.pop("id", ""),
        (Tensor("x", "UINT8", (rows, 1), data),),
        rows,
        deadline=deadline,
        **fields,
    )


def spec(max_batch_size: int = 32, dims: tuple[int, ...] = (1,), *, queue=None, levels=None, **policy) -> ModelSpec:
    """Return a model with one input and one output; `queue` is its default queue policy, `levels` those by priority."""
    shape = (-1, *dims) if max_batch_size else dims
    batching = BatchPolicy(
        **{"enabled": True, **policy},
        default_queue_policy=QueuePolicy(**(queue or {})),
        priority_queue_policies={level: QueuePolicy(**fields) for level, fields in (levels or {}).items()},
    )
    config = ModelConfig("m", max_batch_size=max_batch_size, batching=batching)
    one = (TensorSpec("x", "UINT8", shape),)
    return ModelSpec("m", "1", "onnx_onnxv1", one, (TensorSpec("y", "UINT8", shape),), max_batch_size, config)


class Simulation:
    """A scheduler, its instances and everything that was answered, in simulated time."""

    def __init__(
        self, model: ModelSpec | None = None, *, instances: int = 1, cost=linear, behaviour=echo, limits=LIMITS
    ):
        self.alarm = ManualAlarm()
        self.spec = model or spec()
        self.instances = [FakeInstance(self.alarm, cost, behaviour) for _ in range(instances)]
        sizes = [size for size in (1, 2, 4, 8, 16, 32, 64) if size <= max(self.spec.max_batch_size, 1)]
        costs = [CostPoint(size, cost(size)) for size in sizes]
        self.bundle = Bundle()
        self.scheduler = Scheduler(
            self.spec,
            self.instances,
            costs,
            alarm=self.alarm,
            limits=limits,
            clock=self.alarm.clock,
            bundle=self.bundle,
        )
        self.outcomes: dict[int, list[Outcome]] = {}
        self.answered_at: dict[int, float] = {}

    @property
    def now(self) -> float:
        return self.alarm.now

    def request(self, values: Iterable[int]) -> InferRequest:
        return request(values)

    def submit(self, values: Iterable[int] = (1,), *, budget: float = NO_DEADLINE, **fields):
        """Submit a request with `budget` seconds; returns (number, ticket)."""
        number = len(self.outcomes)
        outcomes = self.outcomes[number] = []

        def reply(outcome: Outcome) -> None:
            outcomes.append(outcome)
            self.answered_at[number] = self.now

        try:
            ticket = self.scheduler.submit(request(values, deadline=self.now + budget, **fields), reply)
        except ServingError:
            del self.outcomes[number]
            raise
        return number, ticket

    def advance(self, seconds: float) -> None:
        self.alarm.advance(self.now + seconds)

    def outcome(self, number: int) -> Outcome:
        """Return the one answer of a request."""
        (outcome,) = self.outcomes[number]
        return outcome

    def values(self, number: int) -> list[int]:
        """Return the rows a request was answered with."""
        outcome = self.outcome(number)
        assert isinstance(outcome, InferResponse), outcome
        return list(outcome.outputs[0].data)
