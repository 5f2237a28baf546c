"""One contract for answers known in this process and for those that processes share in Redis.

`first` and `second` answer for the same model: with memory they are one scheduler, with Redis two of two processes,
each with a memory of its own that has seen nothing of the other's.
"""

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import pytest

from server.cache import CachedScheduler
from server.errors import InvalidValues
from server.messages import Tensor
from server.queues.redis_address import parse_address
from server.queues.redis_cache import RedisCache
from server.sessions.base import BatchOutputs, RunFailed
from server.spec import TensorSpec
from tests.redis_server import redis_server, until
from tests.unit.simulation import Simulation, spec

WAIT = 20.0


@contextmanager
def line(server, **options):
    """One process's line to Redis, up; patient, since no test here is about being late."""
    cache = RedisCache(parse_address(server.url), **{"ttl": 60.0, "patience": WAIT, **options})
    cache.start()
    until(lambda: cache.statistics().available, WAIT, "the cache reaches Redis")
    try:
        yield cache
    finally:
        cache.close()


@dataclass
class Place:
    """Where requests are answered from; `settle` waits until what was computed is known to everybody."""

    simulation: Simulation
    cache: RedisCache | None = None
    told: int = 0

    def ask(self, values, **fields):
        """Return the one outcome of a request."""
        before = self.runs
        number, _ = self.simulation.submit(values, **fields)
        until(lambda: self.simulation.outcomes[number] or self.runs > before, WAIT, "an answer, or a run")
        self.simulation.advance(1)
        outcome = self.simulation.outcome(number)
        if self.cache is not None and self.runs > before and not isinstance(outcome, Exception):
            self.told += 1
            until(lambda: self.cache.statistics().counts.get(("put", "stored")) == self.told, WAIT, "it was told")
        return outcome

    def values(self, values, **fields):
        return list(bytes(self.ask(values, **fields).outputs[0].data))

    @property
    def runs(self):
        return sum(map(len, self.simulation.instances[0].batches))

    @property
    def hits(self):
        return self.simulation.scheduler.statistics().cache_hit.count


def place(cache=None, model=None, digest="d", **options):
    simulation = Simulation(model, **options)
    shelf = cache.shelf(simulation.spec, digest) if cache is not None else None
    simulation.scheduler = CachedScheduler(simulation.scheduler, 1 << 20, simulation.alarm.clock, shelf)
    return Place(simulation, cache)


@pytest.fixture(scope="module")
def redis():
    with redis_server() as server:
        yield server


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
def pair(request):
    """Return what makes (first, second)."""
    with ExitStack() as stack:
        if request.param == "memory":
            yield lambda **options: (place(**options),) * 2
        else:
            server = request.getfixturevalue("redis")
            assert server.ask("FLUSHALL") == b"+OK"
            yield lambda **options: tuple(place(stack.enter_context(line(server)), **options) for _ in range(2))


def test_an_answer_given_first_is_given_second_without_a_run(pair):
    first, second = pair()

    assert first.values([5, 6], id="a") == [5, 6]
    runs = second.runs
    answer = second.ask([5, 6], id="b")

    assert [bytes(tensor.data) for tensor in answer.outputs] == [bytes([5, 6])]
    assert [(t.name, t.datatype, t.shape) for t in answer.outputs] == [("y", "UINT8", (2, 1))]
    assert (answer.id, answer.model_name, answer.model_version) == ("b", "m", "1")
    assert second.runs == runs
    assert second.hits == 1


def test_other_contents_are_computed(pair):
    first, second = pair()
    first.ask([5])
    runs = second.runs

    assert second.values([6]) == [6]
    assert second.values([5, 5]) == [5, 5]
    assert second.runs == runs + 2
    assert second.hits == 0


def test_long_contents_that_differ_in_one_byte_are_told_apart(pair):
    first, second = pair()
    rows = list(range(64))
    first.ask(rows)

    assert second.values([*rows[:-1], 99]) == [*rows[:-1], 99]
    assert second.values(rows) == rows
    assert second.hits == 1


def test_the_outputs_asked_for_are_part_of_the_question(pair):
    first, second = pair()
    first.ask([5])
    runs = second.runs
    second.ask([5], outputs=("y",))

    assert second.runs == runs + 1


def test_failures_are_not_remembered(pair):
    first, second = pair(behaviour=lambda _: RunFailed("no"))

    assert isinstance(first.ask([5]), InvalidValues)
    runs = second.runs
    assert isinstance(second.ask([5]), InvalidValues)
    assert second.runs > runs


def test_every_datatype_and_an_empty_output_come_back_as_they_were(pair):
    tensors = (
        Tensor("y", "BYTES", (1, 2), b"\x01\x00\x00\x00a\x00\x00\x00\x00"),
        Tensor("z", "FP16", (1, 0), b""),
    )
    model = replace(spec(), outputs=tuple(TensorSpec(t.name, t.datatype, (-1, -1)) for t in tensors))
    first, second = pair(model=model, behaviour=lambda parts: BatchOutputs([tensors] * len(parts), 0, 0, 0))
    first.ask([5])
    answer = second.ask([5])

    assert [(t.name, t.datatype, t.shape, bytes(t.data)) for t in answer.outputs] == [
        (t.name, t.datatype, t.shape, t.data) for t in tensors
    ]
    assert second.hits == 1


# What only what is shared can get wrong.


@pytest.mark.redis
@pytest.mark.parametrize(
    "other",
    [
        {"digest": "trained again"},
        {"model": replace(spec(), version="2")},
        {"model": replace(spec(), name="n")},
        {"model": replace(spec(), outputs=spec().outputs * 2)},
    ],
    ids=["files", "version", "name", "outputs"],
)
def test_another_model_is_never_answered_for(redis, other):
    redis.ask("FLUSHALL")
    with line(redis) as cache, line(redis) as another:
        first, second = place(cache), place(another, **other)
        first.ask([5])
        second.simulation.submit([5])
        until(lambda: second.runs, WAIT, "a run")

        assert second.hits == 0
        assert another.statistics().counts == {("get", "miss"): 1}


@pytest.mark.redis
def test_answers_are_forgotten_after_their_time(redis):
    redis.ask("FLUSHALL")
    with line(redis, ttl=45.0) as cache:
        first = place(cache)
        first.ask([5])
        name = cache.shelf(first.simulation.spec, "d").name
        key = next(iter(first.simulation.scheduler._cache._entries))
        left = int(redis.ask("PTTL", name(key)).removeprefix(b":"))

    assert 0 < left <= 45_000
