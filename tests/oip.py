"""A small Open Inference Protocol client for tests: raw tensors in, numpy out, statuses as they come."""

import struct
from collections.abc import Sequence

import grpc
import numpy as np

from server.pb import open_inference_pb2 as oip
from server.pb import sluice_pb2

NUMPY = {"FP32": np.float32, "UINT8": np.uint8, "INT32": np.int32, "INT64": np.int64, "FP64": np.float64}

CHURN_NUMBERS = (
    "CreditScore", "Age", "Tenure", "Balance", "NumOfProducts", "HasCrCard", "IsActiveMember", "EstimatedSalary",
)  # fmt: skip
CUSTOMER = dict(zip(CHURN_NUMBERS, (500.0, 40.0, 3.0, 50000.0, 2.0, 1.0, 1.0, 40000.0), strict=True))


def strings(values: Sequence[str | bytes]) -> bytes:
    encoded = [value.encode() if isinstance(value, str) else value for value in values]
    return b"".join(struct.pack("<I", len(value)) + value for value in encoded)


def request(
    model: str, tensors: Sequence[tuple[str, str, Sequence[int], bytes]], **fields: object
) -> oip.ModelInferRequest:
    """Build a ModelInferRequest of (name, datatype, shape, raw bytes) tensors."""
    message = oip.ModelInferRequest(model_name=model, **fields)
    for name, datatype, shape, raw in tensors:
        message.inputs.add(name=name, datatype=datatype, shape=shape)
        message.raw_input_contents.append(raw)
    return message


def churn(
    rows: Sequence[dict[str, float]], geography: str = "Spain", gender: str = "Female", **fields: object
) -> oip.ModelInferRequest:
    """Build a churn request of customers that share their words."""
    tensors = [
        (name, "FP32", (len(rows), 1), np.array([row[name] for row in rows], np.float32).tobytes())
        for name in CHURN_NUMBERS
    ]
    tensors += [
        ("Geography", "BYTES", (len(rows), 1), strings([geography] * len(rows))),
        ("Gender", "BYTES", (len(rows), 1), strings([gender] * len(rows))),
    ]
    return request("churn", tensors, **fields)


def mnist(images: np.ndarray, **fields: object) -> oip.ModelInferRequest:
    """Build an mnist request of uint8 images [n, 28, 28]."""
    return request("mnist", [("image", "UINT8", images.shape, images.astype(np.uint8).tobytes())], **fields)


def sentiment(texts: Sequence[str | bytes], **fields: object) -> oip.ModelInferRequest:
    """Build a sentiment request."""
    return request("sentiment", [("text", "BYTES", (len(texts), 1), strings(texts))], **fields)


def outputs(response: oip.ModelInferResponse) -> dict[str, np.ndarray]:
    """Return the outputs by name."""
    return {
        tensor.name: np.frombuffer(raw, NUMPY[tensor.datatype]).reshape(tensor.shape)
        for tensor, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    }


class Stub:
    """Every method by name: `stub.ModelInfer(message)`, `stub.future("ModelInfer", message)`."""

    SERVICE = "/inference.GRPCInferenceService/"
    TYPED = "/sluice.v1.Predictions/"

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel

    def _method(self, name: str) -> grpc.UnaryUnaryMultiCallable:
        typed = name in ("PredictChurn", "ClassifyDigit", "AnalyzeSentiment")
        response = getattr(sluice_pb2 if typed else oip, f"{name}Response")
        path = (self.TYPED if typed else self.SERVICE) + name
        return self._channel.unary_unary(path, lambda message: message.SerializeToString(), response.FromString)

    def __getattr__(self, name: str):
        method = self._method(name)
        return lambda message, timeout=30.0, **options: method(message, timeout=timeout, **options)

    def future(self, name: str, message: object, timeout: float = 60.0) -> grpc.Future:
        return self._method(name).future(message, timeout=timeout)

    def raw(self, path: str, message: bytes, timeout: float = 30.0) -> bytes:
        return self._channel.unary_unary(path)(message, timeout=timeout)
