"""Bad requests over the wire: the right status, a sentence that helps, neighbours answered, the server alive."""

import grpc
import numpy as np
import pytest

from server.pb import sluice_pb2 as typed
from tests import oip as wire

INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND


def image(**changes):
    message = wire.mnist(np.zeros((1, 28, 28), np.uint8))
    for key, value in changes.items():
        if key == "raw":
            message.raw_input_contents[0] = value
        elif key == "shape":
            message.inputs[0].shape[:] = value
        elif key in ("model_name", "model_version"):
            setattr(message, key, value)
        else:
            setattr(message.inputs[0], key, value)
    return message


def without_age():
    message = wire.churn([wire.CUSTOMER])
    at = [tensor.name for tensor in message.inputs].index("Age")
    del message.inputs[at], message.raw_input_contents[at]
    return message


BAD = {
    "unknown model": (image(model_name="mnits"), NOT_FOUND, ["mnits"]),
    "unknown version": (image(model_version="99"), NOT_FOUND, ["99"]),
    "no model": (image(model_name=""), INVALID, ["model_name"]),
    "wrong tensor name": (image(name="picture"), INVALID, ["picture", "image"]),
    "wrong datatype": (image(datatype="FP32"), INVALID, ["image", "UINT8", "FP32"]),
    "wrong shape": (image(shape=[1, 27, 28]), INVALID, ["image", "28", "27"]),
    "wrong rank": (image(shape=[784]), INVALID, ["image", "784"]),
    "negative dimension": (image(shape=[-1, 28, 28]), INVALID, ["image", "-1"]),
    "truncated bytes": (image(raw=b"\0" * 783), INVALID, ["image", "784", "783"]),
    "too many bytes": (image(raw=b"\0" * 785), INVALID, ["image", "784", "785"]),
    "wrapping shape": (image(shape=[2**32, 2**32, 28]), INVALID, ["image"]),
    "missing tensor": (without_age(), INVALID, ["Age"]),
    "text that is not UTF-8": (wire.sentiment([b"\xff\xfe"]), INVALID, ["text", "UTF-8"]),
    "bytes cut short": (
        wire.request("sentiment", [("text", "BYTES", (1, 1), b"\x05\0\0\0abc")]),
        INVALID,
        ["text", "5", "3"],
    ),
    "no rows": (image(shape=[0, 28, 28], raw=b""), INVALID, ["image", "0"]),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_request_is_refused_with_a_sentence_that_helps_and_disturbs_nobody(stub, case):
    message, code, words = BAD[case]
    neighbours = [stub.future("ModelInfer", wire.mnist(np.full((1, 28, 28), shade, np.uint8))) for shade in range(8)]

    with pytest.raises(grpc.RpcError) as refusal:
        stub.ModelInfer(message)

    assert refusal.value.code() is code
    for word in words:
        assert word in refusal.value.details()
    assert "\n" not in refusal.value.details()
    for call in neighbours:
        assert wire.outputs(call.result())["probabilities"].sum() == pytest.approx(1, abs=1e-4)


TYPED = {
    "a PNG that is no PNG": (
        "ClassifyDigit",
        typed.ClassifyDigitRequest(images=[typed.DigitImage(encoded=b"this is no picture")]),
        ["PNG", "JPEG"],
    ),
    "a picture with too few pixels": (
        "ClassifyDigit",
        typed.ClassifyDigitRequest(images=[typed.DigitImage(pixels=b"\0" * 783)]),
        ["784", "783"],
    ),
    "a customer without an age": (
        "PredictChurn",
        typed.PredictChurnRequest(customers=[typed.Customer(credit_score=500)]),
        ["customers[0]"],
    ),
    "no texts": ("AnalyzeSentiment", typed.AnalyzeSentimentRequest(), ["texts"]),
}


@pytest.mark.parametrize("case", TYPED)
def test_a_bad_typed_request_is_refused_with_a_sentence_that_helps(stub, case):
    method, message, words = TYPED[case]

    with pytest.raises(grpc.RpcError) as refusal:
        getattr(stub, method)(message)

    assert refusal.value.code() is INVALID
    for word in words:
        assert word in refusal.value.details()


def test_bytes_that_are_no_message_are_refused_without_a_class_name(stub):
    with pytest.raises(grpc.RpcError) as refusal:
        stub.raw("/inference.GRPCInferenceService/ModelInfer", b"\xff\xff\xff")

    assert refusal.value.code() is INVALID
    assert "DecodeError" not in refusal.value.details()
    assert "not a well-formed protobuf message" in refusal.value.details()


def test_after_all_that_the_server_serves_and_has_counted_each_kind_once(server, stub):
    before = server.scrape()

    with pytest.raises(grpc.RpcError):
        stub.ModelInfer(image(shape=[1, 27, 28]))
    with pytest.raises(grpc.RpcError):
        stub.ModelInfer(image(model_name="../../etc/passwd"))
    stub.ModelInfer(image())
    after = server.scrape()

    def grown(code, model):
        return sum(
            after[key] - before.get(key, 0)
            for key in after
            if key.startswith("sluice_requests_total") and f'code="{code}"' in key and f'model="{model}"' in key
        )

    assert grown("INVALID_ARGUMENT", "mnist") == 1
    assert grown("OK", "mnist") == 1
    assert grown("INVALID_ARGUMENT", "") + grown("NOT_FOUND", "") == 1
    assert not [key for key in after if "passwd" in key]
    assert after["sluice_inflight"] == 0
