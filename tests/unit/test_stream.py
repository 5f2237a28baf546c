import asyncio

import pytest

from server.errors import QueueFull
from server.pb import open_inference_pb2 as pb
from server.transports.base import StatusCode, StatusError
from server.wire.services import INFERENCE, paths
from tests.wire import CHURN, Bench, FakeStream, message

PATH = paths(INFERENCE)["ModelStreamInfer"]


def asks(*ids):
    return [message(CHURN, request_id=request_id).SerializeToString() for request_id in ids]


def answers(stream):
    return [pb.ModelStreamInferResponse.FromString(stream.sent.get_nowait()) for _ in range(stream.sent.qsize())]


async def until(condition):
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - turns of the loop, not time
            await asyncio.sleep(0)


async def test_answers_come_in_the_order_of_the_questions_and_say_they_are_final():
    bench = Bench()
    bench.queue.hold = True
    stream = FakeStream(asks("a", "b", "c"), PATH)
    running = asyncio.create_task(bench.stream(stream))
    await until(lambda: len(bench.queue.replies) == 3)
    for index in (2, 0, 1):
        bench.queue.answer(index)
    await running

    found = [answer.infer_response for answer in answers(stream)]
    assert [answer.id for answer in found] == ["a", "b", "c"]
    assert all(answer.parameters["triton_final_response"].bool_param for answer in found)
    assert [list(answer.outputs[0].shape) for answer in found] == [[1, 1]] * 3


async def test_an_error_travels_in_band_and_the_stream_goes_on():
    bench = Bench()
    wrong = message(CHURN, request_id="b")
    wrong.inputs[0].datatype = "INT8"
    stream = FakeStream([*asks("a"), wrong.SerializeToString(), *asks("c")], PATH)
    await bench.stream(stream)

    found = answers(stream)
    assert [answer.infer_response.id for answer in found] == ["a", "b", "c"]
    assert [bool(answer.error_message) for answer in found] == [False, True, False]
    assert "expected datatype FP32" in found[1].error_message


async def test_an_error_ends_the_stream_as_a_status_where_the_caller_asked_for_that():
    bench = Bench()
    bench.queue.hold = True
    stream = FakeStream([*asks("a"), b"\xff"], PATH, [("triton_grpc_error", "true")], closed=False)
    running = asyncio.create_task(bench.stream(stream))
    await until(lambda: bench.queue.replies)
    bench.queue.answer(0)
    with pytest.raises(StatusError) as error:
        await running

    assert error.value.code is StatusCode.INVALID_ARGUMENT
    assert len(answers(stream)) == 1


async def test_a_stream_is_read_no_further_than_its_answers_allow():
    bench = Bench(max_stream_inflight=2)
    bench.queue.hold = True
    stream = FakeStream(asks("a", "b", "c", "d"), PATH)
    running = asyncio.create_task(bench.stream(stream))
    await until(lambda: len(bench.queue.replies) == 2)
    for _ in range(20):
        await asyncio.sleep(0)
    assert stream.taken == 2

    for index in range(4):
        await until(lambda index=index: len(bench.queue.replies) > index)
        bench.queue.answer(index)
    await running
    assert len(answers(stream)) == 4


async def test_a_caller_who_leaves_cancels_what_is_in_flight():
    bench = Bench()
    bench.queue.hold = True
    stream = FakeStream(asks("a", "b"), PATH, closed=False)
    running = asyncio.create_task(bench.stream(stream))
    await until(lambda: len(bench.queue.replies) == 2)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert bench.queue.cancelled == 2
    assert bench.admission.inflight == 0


async def test_a_full_queue_refuses_one_request_not_the_stream():
    bench = Bench()
    bench.queue.refusals = [QueueFull("the queue is full")]
    stream = FakeStream(asks("a", "b"), PATH)
    await bench.stream(stream)

    assert [answer.error_message for answer in answers(stream)] == ["the queue is full", ""]


async def test_a_silent_stream_is_ended():
    bench = Bench(stream_idle=0.01)
    with pytest.raises(StatusError) as error:
        await bench.stream(FakeStream([], PATH, closed=False))

    assert error.value.code is StatusCode.DEADLINE_EXCEEDED
