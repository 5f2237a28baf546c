"""Admission, reflection, the lifecycle's bell and the texts of errors: the small parts of the wire."""

import asyncio
import threading
from contextlib import suppress

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection_pb2

from server.errors import QueueFull, ShuttingDown, TooLarge
from server.transports.base import StatusCode, StatusError
from server.wire.admission import Admission
from server.wire.lifecycle import Lifecycle
from server.wire.limits import Limits
from server.wire.reflection import SERVICES
from server.wire.text import listing, quote
from tests.wire import CHURN, Bench, FakeStream, message

SMALL = Limits(max_message_bytes=100, max_inflight_requests=3, max_inflight_bytes=250, max_deadline=1.0)


def test_room_is_counted_in_requests():
    admission = Admission(SMALL)
    for _ in range(3):
        admission.enter(10)
    with pytest.raises(QueueFull, match="expected at most 3 requests in flight") as error:
        admission.enter(10)
    assert error.value.retry_after > 0

    admission.leave(10)
    admission.enter(10)
    assert (admission.inflight, admission.inflight_bytes) == (3, 30)


def test_room_is_counted_in_bytes():
    admission = Admission(SMALL)
    admission.enter(100)
    admission.enter(100)
    with pytest.raises(QueueFull, match="expected at most 250 bytes"):
        admission.enter(51)
    admission.enter(50)

    assert admission.inflight_bytes == 250


def test_a_message_over_the_limit_is_too_large_and_one_at_it_is_not():
    admission = Admission(SMALL)
    admission.enter(100)
    with pytest.raises(TooLarge, match="at most 100 bytes, got 101"):
        admission.enter(101)


def test_a_closed_door_says_so():
    admission = Admission(SMALL)
    admission.close()
    with pytest.raises(ShuttingDown):
        admission.enter(1)


def test_many_threads_leave_it_as_they_found_it():
    admission = Admission(SMALL)

    def work():
        for _ in range(2000):
            try:
                admission.enter(7)
            except QueueFull:
                continue
            admission.leave(7)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)

    assert (admission.inflight, admission.inflight_bytes) == (0, 0)


def test_a_deadline_that_has_passed_is_not_queued_and_a_far_one_is_capped():
    bench = Bench(max_deadline=2.0)
    with pytest.raises(StatusError) as error:
        bench.infer(message(CHURN), remaining=-0.1)
    assert error.value.code is StatusCode.DEADLINE_EXCEEDED
    assert bench.queue.submitted == []

    for remaining in (None, 1e9, 0.5):
        bench.infer(message(CHURN), remaining=remaining)
    ends = [request.deadline for request in bench.queue.submitted]
    assert ends[0] <= ends[1] + 1
    assert ends[2] < ends[1] - 1


async def reflect(bench, name, **question):
    request = reflection_pb2.ServerReflectionRequest(**question).SerializeToString()
    stream = FakeStream([request], f"/{name}/ServerReflectionInfo")
    await bench.stream(stream)
    return reflection_pb2.ServerReflectionResponse.FromString(stream.sent.get_nowait())


@pytest.mark.parametrize("name", SERVICES)
async def test_reflection_lists_every_service(name):
    answer = await reflect(Bench(), name, list_services="")

    assert {"inference.GRPCInferenceService", "sluice.v1.Predictions", "sluice.v1.Jobs", "grpc.health.v1.Health"} <= {
        service.name for service in answer.list_services_response.service
    }


async def test_reflection_gives_the_file_of_a_symbol_and_of_what_it_imports():
    bench = Bench()
    for symbol in ("sluice.v1.Jobs", "sluice.v1.Jobs.Submit", "sluice.v1.Job.State"):
        answer = await reflect(bench, SERVICES[0], file_containing_symbol=symbol)
        (data,) = answer.file_descriptor_response.file_descriptor_proto
        file = FileDescriptorProto.FromString(data)
        assert file.package == "sluice.v1"
    for name in ("server/pb/open_inference.proto", "server/pb/model_config.proto"):
        found = await reflect(bench, SERVICES[0], file_by_filename=name)
        assert found.file_descriptor_response.file_descriptor_proto


@pytest.mark.parametrize(
    "question",
    [{"file_by_filename": "/etc/passwd"}, {"file_containing_symbol": "google.protobuf.Any"}, {}],
    ids=["a path", "another package", "nothing"],
)
async def test_reflection_knows_nothing_else(question):
    answer = await reflect(Bench(), SERVICES[1], **question)

    assert answer.error_response.error_code == StatusCode.NOT_FOUND


async def test_the_bell_rings_from_any_thread_and_once():
    lifecycle = Lifecycle()
    with suppress(ConnectionError), lifecycle.bell() as forgotten:
        raise ConnectionError
    with lifecycle.bell() as bell:
        assert len(lifecycle._waiting) == 1
        thread = threading.Thread(target=lifecycle.set, kwargs={"ready": True})
        thread.start()
        thread.join(5)
        async with asyncio.timeout(5):
            await bell.wait()

    assert not forgotten.is_set()
    assert lifecycle.ready
    assert not lifecycle._waiting


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("churn", "'churn'"), ("a\nb", r"'a\nb'"), ("é\udcff", r"'\xe9\udcff'"), ("x" * 64, "'" + "x" * 64 + "'"),
        ("x" * 65, "'" + "x" * 60 + "...'"),
    ],
)  # fmt: skip
def test_a_callers_text_is_escaped_and_cut(text, shown):
    assert quote(text) == shown


@pytest.mark.parametrize("text", ["\n" * 1000, "\u202e" * 70, "'" * 100])
def test_no_text_makes_a_long_or_unprintable_quotation(text):
    assert len(quote(text)) <= 66
    assert quote(text).isprintable()


def test_a_long_listing_is_cut():
    assert listing(map(str, range(20)), most=2) == "'0', '1' and 18 more"


@pytest.mark.parametrize("path", ["/inference.GRPCInferenceService/ModelInfer", "/sluice.v1.Predictions/PredictChurn"])
def test_predictions_may_be_turned_away_with_a_hint_when_to_come_again_and_are_counted(path):
    bench = Bench()
    shed = bench.methods[path].shed
    shed.count(3)

    assert shed.status.code is StatusCode.RESOURCE_EXHAUSTED
    assert dict(shed.status.trailers) == {"grpc-retry-pushback-ms": "100"}
    assert bench.recorder.turned_away == [(path, StatusCode.RESOURCE_EXHAUSTED, "predicted_miss", 3)]


def test_nobody_is_answered_twice():
    bench = Bench()
    bench.queue.hold = True
    call = bench.start(message(CHURN))
    bench.queue.answer(0)
    call.leave()

    assert (call.ends, len(bench.recorder.outcomes)) == (1, 1)
    assert bench.admission.inflight == 0
