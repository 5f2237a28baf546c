"""The three questions of sluice.v1.Predictions: rows with named fields to raw tensors, raw outputs to named fields.

What a field may hold is checked here, because the message can then name the row and the field; whether the tensors fit
the model is typed.py's business.
"""

import math
import struct
from collections.abc import Iterator, Sequence

from server.codec import encode_bytes
from server.errors import InvalidRequest
from server.messages import InferResponse
from server.pb import sluice_pb2 as pb
from server.wire.images import SIDE, digit_pixels
from server.wire.limits import Limits
from server.wire.text import quote
from server.wire.typed import Question

_NUMBERS = (
    ("CreditScore", "credit_score"),
    ("Age", "age"),
    ("Tenure", "tenure"),
    ("Balance", "balance"),
    ("NumOfProducts", "num_of_products"),
    ("HasCrCard", "has_credit_card"),
    ("IsActiveMember", "is_active_member"),
    ("EstimatedSalary", "estimated_salary"),
)
_WORDS = (
    ("Geography", "geography", ("France", "Germany", "Spain")),
    ("Gender", "gender", ("Female", "Male")),
)
_DIGITS = 10


def _customers(rows: Sequence[pb.Customer], _: Limits) -> list[bytes]:
    numbers = [
        struct.pack(f"<{len(rows)}f", *(_number(row, index, field) for index, row in enumerate(rows)))
        for _, field in _NUMBERS
    ]
    words = [
        encode_bytes(_word(row, index, field, known) for index, row in enumerate(rows)) for _, field, known in _WORDS
    ]
    return numbers + words


def _number(row: pb.Customer, index: int, field: str) -> float:
    value = float(_present(row, index, field))
    if not math.isfinite(value):
        raise InvalidRequest(f"customers[{index}].{field}: expected a finite number, got {value}")
    return value


def _word(row: pb.Customer, index: int, field: str, known: tuple[str, ...]) -> bytes:
    value = str(_present(row, index, field))
    if value not in known:
        raise InvalidRequest(f"customers[{index}].{field}: expected one of {', '.join(known)}, got {quote(value)}")
    return value.encode()


def _present(row: pb.Customer, index: int, field: str) -> float | bool | str:
    if not row.HasField(field):
        raise InvalidRequest(f"customers[{index}].{field}: expected a value, got none")
    value: float | bool | str = getattr(row, field)
    return value


def _images(rows: Sequence[pb.DigitImage], limits: Limits) -> list[bytes]:
    if len(rows) > limits.max_images:
        raise InvalidRequest(f"images: expected at most {limits.max_images}, got {len(rows)}")
    return [b"".join(_image(row, f"images[{index}]", limits) for index, row in enumerate(rows))]


def _image(row: pb.DigitImage, where: str, limits: Limits) -> bytes:
    source = row.WhichOneof("source")
    if source is None:
        raise InvalidRequest(f"{where}: expected encoded or pixels, got neither")
    if source == "pixels":
        if len(row.pixels) != SIDE * SIDE:
            raise InvalidRequest(f"{where}.pixels: expected {SIDE * SIDE} bytes, got {len(row.pixels)}")
        return row.pixels
    try:
        return digit_pixels(row.encoded, limits)
    except InvalidRequest as error:
        raise InvalidRequest(f"{where}.encoded: {error}") from error


def _texts(rows: Sequence[str], _: Limits) -> list[bytes]:
    return [encode_bytes(row.encode() for row in rows)]


def _churn_answer(response: InferResponse) -> pb.PredictChurnResponse:
    return pb.PredictChurnResponse(
        model_version=response.model_version,
        predictions=[pb.ChurnPrediction(probability=row[0]) for row in _floats(response, 1)],
    )


def _digit_answer(response: InferResponse) -> pb.ClassifyDigitResponse:
    answer = pb.ClassifyDigitResponse(model_version=response.model_version)
    for row in _floats(response, _DIGITS):
        digit = max(range(_DIGITS), key=row.__getitem__)
        answer.predictions.add(digit=digit, probability=row[digit], probabilities=row)
    return answer


def _sentiment_answer(response: InferResponse) -> pb.AnalyzeSentimentResponse:
    answer = pb.AnalyzeSentimentResponse(model_version=response.model_version)
    for negative, positive in _floats(response, 2):
        answer.predictions.add(sentiment=pb.POSITIVE if positive > negative else pb.NEGATIVE, positive=positive)
    return answer


def _floats(response: InferResponse, width: int) -> Iterator[tuple[float, ...]]:
    return struct.iter_unpack(f"<{width}f", response.outputs[0].data)


PREDICT_CHURN = Question(
    model="churn",
    request=pb.PredictChurnRequest,
    inputs=(*((name, "FP32", (1,)) for name, _ in _NUMBERS), *((name, "BYTES", (1,)) for name, _, __ in _WORDS)),
    output=("probability", 1),
    rows=lambda request: request.customers,
    tensors=_customers,
    answer=_churn_answer,
)
CLASSIFY_DIGIT = Question(
    model="mnist",
    request=pb.ClassifyDigitRequest,
    inputs=(("image", "UINT8", (SIDE, SIDE)),),
    output=("probabilities", _DIGITS),
    rows=lambda request: request.images,
    tensors=_images,
    answer=_digit_answer,
    slow=True,
)
ANALYZE_SENTIMENT = Question(
    model="sentiment",
    request=pb.AnalyzeSentimentRequest,
    inputs=(("text", "BYTES", (1,)),),
    output=("probabilities", 2),
    rows=lambda request: request.texts,
    tensors=_texts,
    answer=_sentiment_answer,
)
QUESTIONS = {
    "PredictChurn": PREDICT_CHURN,
    "ClassifyDigit": CLASSIFY_DIGIT,
    "AnalyzeSentiment": ANALYZE_SENTIMENT,
}
"""By method name of sluice.v1.Predictions."""
