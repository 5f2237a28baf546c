import time
import tracemalloc

import pytest

from server.errors import InvalidRequest
from server.pb import open_inference_pb2 as pb
from server.pb import sluice_pb2
from server.wire.prescan import MAX_FIELDS, SMALL, prescan, prescan_rows
from tests import wire
from tests.wire import LIMITS

MANY = 2 << 20


def with_input(**contents):
    request = pb.ModelInferRequest(model_name="m")
    tensor = request.inputs.add(name="x")
    for field, values in contents.items():
        getattr(tensor if field == "shape" else tensor.contents, field).extend(values)
    return request.SerializeToString()


def with_parameters(count):
    request = pb.ModelInferRequest(model_name="m")
    for index in range(count):
        request.parameters[f"parameter {index}"].string_param = "x" * 300
    return request.SerializeToString()


HOSTILE = {
    "2 M empty inputs": (b"\x2a\x00" * MANY, "too many inputs: expected at most 64"),
    "2 M empty outputs": (b"\x32\x00" * MANY, "too many outputs"),
    "2 M empty raw contents": (b"\x3a\x00" * MANY, "too many raw_input_contents"),
    "65 parameters": (with_parameters(65), "too many parameters: expected at most 64"),
    "4 M dimensions": (with_input(shape=[1] * (4 << 20)), "too many dimensions of an input's shape"),
    "2 M packed values": (with_input(int64_contents=[1] * MANY), "too many values in an input's contents"),
    "2 M empty strings": (with_input(bytes_contents=[b""] * MANY), f"at most {MAX_FIELDS} protobuf fields"),
    "100,000 nested groups": (b"\xfb\x7f" * 100_000, "not a well-formed protobuf message"),
    "4 MB of unknown numbers": (b"\xf8\x7f\x00" * MANY, f"at most {MAX_FIELDS} protobuf fields"),
    "a length past the end": (b"\x3a\xff\xff\xff\x7f" + bytes(SMALL), "not a well-formed protobuf message"),
    "a varint of eleven bytes": (b"\x08" + b"\xff" * SMALL, "not a well-formed protobuf message"),
    "a cut fixed64": (b"\x3a\x80\x80\x01" + bytes(SMALL) + b"\x09\x00", "not a well-formed protobuf message"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_bytes_are_refused_before_they_are_parsed(case):
    data, says = HOSTILE[case]
    started = time.thread_time()
    with pytest.raises(InvalidRequest, match=says):
        prescan(data, LIMITS)
    taken = time.thread_time() - started
    tracemalloc.start()
    with pytest.raises(InvalidRequest, match=says):
        prescan(data, LIMITS)
    grown = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert grown < 1 << 20
    assert taken < 0.1  # it takes 0.01 to 4 ms; parsing takes 90 ms and 185 MB


@pytest.mark.parametrize(
    "data",
    [
        wire.message(wire.MNIST, rows=300).SerializeToString(),
        wire.message(wire.CHURN, rows=2000).SerializeToString(),
        with_input(shape=[1] * 8, fp32_contents=[0.5] * 100_000),
        with_input(bytes_contents=[b"x" * 20] * 1000),
        b"\xfa\x7f\x80\x80\x40" + bytes(1 << 20),
    ],
    ids=["pictures", "customers", "typed numbers", "typed texts", "an unknown field of 1 MB"],
)
def test_honest_bytes_pass(data):
    assert len(data) > SMALL
    prescan(data, LIMITS)


def test_a_small_message_is_not_walked():
    prescan(b"\x2a\x00" * (SMALL // 2), LIMITS)


def test_rows_of_a_typed_request_are_counted():
    texts = ["some text"] * LIMITS.max_rows
    prescan_rows(sluice_pb2.AnalyzeSentimentRequest(texts=texts).SerializeToString(), LIMITS)

    with pytest.raises(InvalidRequest, match="too many rows: expected at most 4096"):
        prescan_rows(sluice_pb2.AnalyzeSentimentRequest(texts=[*texts, "x"]).SerializeToString(), LIMITS)
