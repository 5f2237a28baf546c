import struct
from io import BytesIO

import pytest
from PIL import Image, ImageDraw

from server.messages import InferResponse, Tensor
from server.pb import sluice_pb2 as pb
from server.transports.base import Fast, StatusCode, StatusError
from server.wire.services import PREDICTIONS, paths
from tests import wire
from tests.wire import Bench, FakeCall

PATH = paths(PREDICTIONS)
CUSTOMER = {
    "credit_score": 500, "geography": "Spain", "gender": "Female", "age": 40, "tenure": 3, "balance": 50_000,
    "num_of_products": 2, "has_credit_card": True, "is_active_member": True, "estimated_salary": 40_000,
}  # fmt: skip


def call(bench, method, request, metadata=()):
    handler = bench.methods[PATH[method]]
    assert isinstance(handler, Fast)
    made = FakeCall(PATH[method], metadata)
    handler.handler(made, request if isinstance(request, bytes) else request.SerializeToString())
    assert made.ended.wait(10)
    if made.message is None:
        raise StatusError(made.code, made.details, made.trailers)
    return getattr(pb, f"{method}Response").FromString(made.message)


def answering(bench, name, width, rows):
    """Let the queue answer with these floats."""
    data = b"".join(struct.pack(f"<{width}f", *row) for row in rows)

    def outcome(request):
        output = Tensor(name, "FP32", (request.rows, width), data)
        return InferResponse(request.model_name, request.model_version, request.id, (output,))

    bench.queue.outcome = outcome


def test_customers_become_the_tensors_of_the_model():
    bench = Bench()
    answering(bench, "probability", 1, [(0.25,), (0.75,)])
    other = {**CUSTOMER, "age": 61.5, "geography": "Germany", "is_active_member": False}
    answer = call(
        bench, "PredictChurn", pb.PredictChurnRequest(customers=[pb.Customer(**CUSTOMER), pb.Customer(**other)])
    )

    assert [p.probability for p in answer.predictions] == [0.25, 0.75]
    assert answer.model_version == "1"
    (request,) = bench.queue.submitted
    raws = {tensor.name: bytes(tensor.data) for tensor in request.inputs}
    assert [tensor.name for tensor in request.inputs] == [tensor.name for tensor in wire.CHURN.inputs]
    assert all(tensor.shape == (2, 1) for tensor in request.inputs)
    assert raws["Age"] == struct.pack("<2f", 40, 61.5)
    assert raws["IsActiveMember"] == struct.pack("<2f", 1, 0)
    assert raws["Geography"] == wire.text(b"Spain", b"Germany")


@pytest.mark.parametrize("field", sorted(CUSTOMER))
def test_a_forgotten_field_is_named_with_its_row(field):
    short = {name: value for name, value in CUSTOMER.items() if name != field}
    request = pb.PredictChurnRequest(customers=[pb.Customer(**CUSTOMER), pb.Customer(**short)])
    with pytest.raises(StatusError, match=rf"customers\[1\].{field}: expected a value, got none") as error:
        call(Bench(), "PredictChurn", request)

    assert error.value.code is StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("geography", "Atlantis", r"customers\[0\].geography: expected one of France, Germany, Spain, got 'Atlantis'"),
        ("gender", "female", "gender: expected one of Female, Male, got 'female'"),
        ("age", float("nan"), "age: expected a finite number, got nan"),
        ("balance", float("inf"), "balance: expected a finite number, got inf"),
    ],
)
def test_a_value_the_model_cannot_know_is_named(field, value, says):
    with pytest.raises(StatusError, match=says) as error:
        call(Bench(), "PredictChurn", pb.PredictChurnRequest(customers=[pb.Customer(**{**CUSTOMER, field: value})]))

    assert error.value.code is StatusCode.INVALID_ARGUMENT


def seven():
    picture = Image.new("L", (100, 100), 255)
    ImageDraw.Draw(picture).line([(30, 20), (70, 20), (45, 80)], fill=0, width=9)
    file = BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def test_pictures_and_pixels_share_a_call():
    bench = Bench()
    rows = [[0.0] * 7 + [0.9, 0.1, 0.0], [1.0] + [0.0] * 9]
    answering(bench, "probabilities", 10, rows)
    images = [pb.DigitImage(encoded=seven()), pb.DigitImage(pixels=bytes(range(256)) * 3 + bytes(16))]
    answer = call(bench, "ClassifyDigit", pb.ClassifyDigitRequest(images=images))

    assert [p.digit for p in answer.predictions] == [7, 0]
    assert answer.predictions[0].probability == pytest.approx(0.9)
    assert len(answer.predictions[0].probabilities) == 10
    (tensor,) = bench.queue.submitted[0].inputs
    assert (tensor.shape, len(tensor.data)) == ((2, 28, 28), 2 * 784)
    assert bytes(tensor.data[784:]) == bytes(range(256)) * 3 + bytes(16)


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (pb.DigitImage(), r"images\[1\]: expected encoded or pixels, got neither"),
        (pb.DigitImage(pixels=bytes(783)), r"images\[1\].pixels: expected 784 bytes, got 783"),
        (pb.DigitImage(encoded=b"GIF89a"), r"images\[1\].encoded: expected a PNG or JPEG file"),
    ],
)
def test_a_picture_that_cannot_be_used_is_named(image, says):
    bench = Bench()
    with pytest.raises(StatusError, match=says) as error:
        call(bench, "ClassifyDigit", pb.ClassifyDigitRequest(images=[pb.DigitImage(pixels=bytes(784)), image]))

    assert error.value.code is StatusCode.INVALID_ARGUMENT
    assert bench.admission.inflight == 0


def test_texts_come_back_with_a_mood_each():
    bench = Bench()
    answering(bench, "probabilities", 2, [(0.1, 0.9), (0.8, 0.2)])
    answer = call(bench, "AnalyzeSentiment", pb.AnalyzeSentimentRequest(texts=["a wonderful film", "très mauvais"]))

    assert [p.sentiment for p in answer.predictions] == [pb.POSITIVE, pb.NEGATIVE]
    assert answer.predictions[0].positive == pytest.approx(0.9)
    (request,) = bench.queue.submitted
    assert bytes(request.inputs[0].data) == wire.text(b"a wonderful film", "très mauvais".encode())
    assert request.size == len(request.inputs[0].data) // 2


@pytest.mark.parametrize("method", sorted(PATH))
def test_a_call_without_rows_or_with_damaged_bytes_is_refused(method):
    for data, says in ((b"", "expected 1 to 4096 rows, got 0"), (b"\x0a\xff", "not a well-formed protobuf")):
        with pytest.raises(StatusError, match=says) as error:
            call(Bench(), method, data)
        assert error.value.code is StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("request_version", "code"), [("7", StatusCode.NOT_FOUND), ("new", StatusCode.INVALID_ARGUMENT)]
)
def test_the_version_asked_for_must_exist(request_version, code):
    with pytest.raises(StatusError) as error:
        call(Bench(), "AnalyzeSentiment", pb.AnalyzeSentimentRequest(texts=["x"], model_version=request_version))

    assert error.value.code is code


@pytest.mark.parametrize(
    ("given", "gives"),
    [
        (("tokens", "INT64", (-1, -1)), ("probabilities", "FP32", (-1, 2))),
        (("text", "BYTES", (-1, 1)), ("probabilities", "FP32", (-1, 5))),
        (("text", "BYTES", (-1, 1)), ("stars", "FP32", (-1, 2))),
    ],
)
def test_another_model_under_the_name_is_not_guessed_at(given, gives):
    bench = Bench(wire.spec("sentiment", [given], [gives]))
    with pytest.raises(StatusError, match="has other tensors than this method knows") as error:
        call(bench, "AnalyzeSentiment", pb.AnalyzeSentimentRequest(texts=["x"]))

    assert error.value.code is StatusCode.FAILED_PRECONDITION
