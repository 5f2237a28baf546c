import gc
from types import SimpleNamespace

import pytest

from server.errors import InferenceFailed, ModelNotReady, QueueFull
from server.messages import InferResponse, Tensor
from server.queues.memory import MemoryQueue
from server.transports.base import StatusCode, StatusError
from server.wire.infer import InferHandler
from server.wire.reader import Reader
from tests import wire
from tests.wire import Bench, FakeCall


def test_a_request_is_answered_with_its_id_and_the_concrete_version():
    bench = Bench()

    answer = bench.infer(wire.message(wire.CHURN, rows=2, request_id="r1"))

    assert (answer.model_name, answer.model_version, answer.id) == ("churn", "1", "r1")
    assert [(o.name, o.datatype, list(o.shape)) for o in answer.outputs] == [("probability", "FP32", [2, 1])]
    assert list(answer.raw_output_contents) == [bytes(8)]


def test_the_second_request_of_a_kind_means_the_same_as_the_first():
    bench = Bench()
    for request_id in ("a", "b"):
        bench.infer(wire.message(wire.CHURN, request_id=request_id, Geography=wire.text("Genève".encode())))

    first, second = bench.queue.submitted
    second.id = first.id
    second.deadline = first.deadline

    assert first == second


def test_everything_is_counted_out_however_it_ends():
    bench = Bench()
    bench.infer(wire.message(wire.CHURN))
    bench.queue.outcome = lambda _: InferenceFailed("secret cause")
    with pytest.raises(StatusError):
        bench.infer(wire.message(wire.CHURN))
    bench.queue.refusals = [QueueFull("full", retry_after=0.25)]
    with pytest.raises(StatusError) as full:
        bench.infer(wire.message(wire.CHURN))
    with pytest.raises(StatusError):
        bench.infer(b"\xff")

    assert (bench.admission.inflight, bench.admission.inflight_bytes) == (0, 0)
    assert list(full.value.trailers) == [("grpc-retry-pushback-ms", "250")]
    assert [outcome.code.name for outcome in bench.recorder.outcomes] == [
        "OK",
        "INTERNAL",
        "RESOURCE_EXHAUSTED",
        "INVALID_ARGUMENT",
    ]


def test_our_own_failures_say_nothing_but_an_id():
    bench = Bench()
    bench.queue.outcome = lambda _: InferenceFailed("secret cause")

    with pytest.raises(StatusError) as error:
        bench.infer(wire.message(wire.CHURN))

    assert error.value.code is StatusCode.INTERNAL
    assert error.value.details.startswith("internal error")
    assert "secret" not in error.value.details


def test_a_caller_who_leaves_cancels_the_request_and_nobody_answers_twice():
    bench = Bench()
    bench.queue.hold = True
    call = bench.start(wire.message(wire.CHURN))
    call.leave()

    assert bench.queue.cancelled == 1
    assert (call.ends, call.code) == (1, StatusCode.CANCELLED)
    assert bench.admission.inflight == 0


def test_a_version_swapped_between_look_up_and_queue_is_found_again():
    bench = Bench()
    bench.infer(wire.message(wire.CHURN))
    successor = wire.spec(
        "churn", [(t.name, t.datatype, t.shape) for t in wire.CHURN.inputs],
        [(t.name, t.datatype, t.shape) for t in wire.CHURN.outputs], version="2",
    )  # fmt: skip

    def swap(_, __, submit=bench.queue.submit):
        bench.catalog.replace(successor)
        bench.queue.submit = submit
        raise ModelNotReady("version 1 left")

    bench.queue.submit = swap
    answer = bench.infer(wire.message(wire.CHURN))

    assert answer.model_version == "2"


def test_a_model_that_stays_away_is_given_up_after_three_looks():
    bench = Bench()
    bench.queue.refusals = [ModelNotReady("gone")] * 5

    with pytest.raises(StatusError) as error:
        bench.infer(wire.message(wire.CHURN))

    assert error.value.code is StatusCode.UNAVAILABLE
    assert len(bench.queue.refusals) == 2


class Reloading:
    """What serves `m`: `look` reloads it under the same version, so that the look-up of the queue meets another."""

    def __init__(self, catalog, *successors):
        self._catalog = catalog
        self._successors = list(successors)
        self.spec = None
        self.taken = []

    def look(self, name, version):
        if self._successors:
            self._catalog.replace(self._successors.pop(0))
        self.spec = self._catalog.find(name, version).spec
        return self

    def submit(self, request, reply):
        self.taken.append(request)
        tensor = Tensor("y", "FP32", (1, 1), bytes(4))
        reply(InferResponse(request.model_name, request.model_version, request.id, (tensor,)))
        return SimpleNamespace(cancel=lambda: None)


def reloaded(datatype):
    """Return `m` version 1 as it is after a reload."""
    return wire.spec("m", [("x", datatype, (-1, 1))], [("y", "FP32", (-1, 1))])


@pytest.mark.parametrize(("successor", "code"), [("FP32", StatusCode.OK), ("INT32", StatusCode.INVALID_ARGUMENT)])
def test_a_request_is_checked_again_when_its_version_is_reloaded_before_it_is_queued(successor, code):
    bench = Bench(reloaded("FP32"))
    serving = Reloading(bench.catalog, reloaded(successor))
    handler = InferHandler(bench.gate, Reader(bench.catalog, bench.limits), MemoryQueue(serving.look, list))

    for _ in range(2):  # the second is recognised by its bytes
        call = FakeCall()
        handler(call, wire.message(reloaded("FP32")).SerializeToString())

        assert (call.code, call.ends) == (code, 1)
        assert all(request.spec is serving.spec for request in serving.taken)
    assert len(serving.taken) == (2 if code is StatusCode.OK else 0)


def test_a_version_that_is_reloaded_again_and_again_is_not_ready():
    bench = Bench(reloaded("FP32"))
    serving = Reloading(bench.catalog, *(reloaded("FP32") for _ in range(3)))
    call = FakeCall()

    InferHandler(bench.gate, Reader(bench.catalog, bench.limits), MemoryQueue(serving.look, list))(
        call, wire.message(reloaded("FP32")).SerializeToString()
    )

    assert call.code is StatusCode.UNAVAILABLE
    assert serving.taken == []


@pytest.mark.parametrize(("refusals", "code"), [(2, StatusCode.OK), (3, StatusCode.UNAVAILABLE)])
def test_a_distant_queue_that_replies_that_the_version_has_left_is_asked_again(refusals, code):
    bench, left = Bench(), [ModelNotReady("gone")] * refusals
    bench.queue.outcome = lambda request: left.pop() if left else bench.queue.zeros(request)
    handler = InferHandler(bench.gate, Reader(bench.catalog, bench.limits), bench.queue, distant=True)
    call = FakeCall()
    handler(call, wire.message(wire.CHURN).SerializeToString())

    assert (call.code, call.ends) == (code, 1)
    assert len(bench.queue.submitted) == 3
    assert bench.admission.inflight == 0


def test_what_a_distant_queue_may_be_asked_again_leaves_nothing_for_the_garbage_collector():
    bench = Bench()
    data = wire.message(wire.CHURN).SerializeToString()

    def found(*, distant):
        handler = InferHandler(bench.gate, Reader(bench.catalog, bench.limits), bench.queue, distant=distant)
        handler(call := FakeCall(), data)
        call.callbacks.clear()  # by which the fakes know each other
        gc.collect()
        gc.disable()
        try:
            for _ in range(50):
                handler(call := FakeCall(), data)
                call.callbacks.clear()
            return gc.collect()
        finally:
            gc.enable()

    assert found(distant=True) <= found(distant=False)
