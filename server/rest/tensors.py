"""JSON and binary tensors to the protocol's raw bytes and back: KServe's HTTP form with Triton's binary extension."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from server.codec import decode_bytes, encode_bytes
from server.errors import InvalidRequest
from server.messages import NUMPY_NAMES
from server.pb import open_inference_pb2 as oip

Json = Mapping[str, Any]


def parse_request(body: bytes, header_length: int | None, model: str, version: str) -> oip.ModelInferRequest:
    """Return the request of an infer body: JSON, followed by binary tensors when `header_length` is given.

    Raises:
        InvalidRequest: naming the field, what was expected and what came.
    """
    head = body if header_length is None else body[:header_length]
    try:
        document = json.loads(head)
    except (ValueError, RecursionError):
        raise InvalidRequest(f"the body: expected JSON, got {len(head)} bytes that are not") from None
    if not isinstance(document, dict):
        raise InvalidRequest(f"the body: expected a JSON object, got {type(document).__name__}")
    request = oip.ModelInferRequest(model_name=model, model_version=version, id=_text(document, "id", default=""))
    _parameters(request.parameters, document)
    blobs = _Blobs(b"" if header_length is None else body[header_length:])
    for given in _objects(document, "inputs"):
        _add_input(request, given, blobs)
    blobs.expect_end()
    for given in _objects(document, "outputs"):
        output = request.outputs.add(name=_text(given, "name"))
        _parameters(output.parameters, given)
    return request


class _Blobs:
    """The binary tensors behind the JSON, taken in order."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, name: str, size: object) -> bytes:
        if not isinstance(size, int) or size < 0 or size > len(self._data) - self._at:
            left = len(self._data) - self._at
            raise InvalidRequest(f"{name}: binary_data_size {str(size)[:20]} does not fit, {left} bytes are left")
        self._at += size
        return self._data[self._at - size : self._at]

    def expect_end(self) -> None:
        if self._at != len(self._data):
            raise InvalidRequest(f"the body: {len(self._data) - self._at} bytes are left behind the binary tensors")


def _add_input(request: oip.ModelInferRequest, given: Json, blobs: _Blobs) -> None:
    name, datatype = _text(given, "name"), _text(given, "datatype")
    shape = given.get("shape")
    if not isinstance(shape, list) or not all(type(size) is int and abs(size) < 2**63 for size in shape):
        raise InvalidRequest(f"{name[:64]}: expected shape to be a list of integers")
    request.inputs.add(name=name, datatype=datatype, shape=shape)
    parameters = given.get("parameters") or {}
    if isinstance(parameters, dict) and "binary_data_size" in parameters:
        request.raw_input_contents.append(blobs.take(name[:64], parameters["binary_data_size"]))
    else:
        request.raw_input_contents.append(_encode(name[:64], datatype, given.get("data")))


def _encode(name: str, datatype: str, data: object) -> bytes:
    if not isinstance(data, list):
        raise InvalidRequest(f"{name}: expected data to be a list, or parameters.binary_data_size")
    flat = _flatten(data)
    if datatype == "BYTES":
        if not all(isinstance(element, str) for element in flat):
            raise InvalidRequest(f"{name}: expected strings, got something else")
        try:
            return encode_bytes(element.encode() for element in cast("list[str]", flat))
        except UnicodeEncodeError:
            raise InvalidRequest(f"{name}: expected text that has a UTF-8 form") from None
    if datatype not in NUMPY_NAMES:
        raise InvalidRequest(f"{name}: expected a datatype that JSON can carry, got {datatype[:64]!r}")
    kinds = (bool, int, float) if datatype.startswith("FP") else (bool, int)
    if not all(isinstance(element, kinds) for element in flat):
        raise InvalidRequest(f"{name}: expected {'numbers' if float in kinds else 'integers'}, got something else")
    try:
        return np.array(flat, dtype=NUMPY_NAMES[datatype]).tobytes()
    except (OverflowError, ValueError):
        raise InvalidRequest(f"{name}: a value does not fit {datatype}") from None


def _flatten(data: Sequence[object]) -> list[object]:
    flat: list[object] = []
    stack = [iter(data)]
    while stack:
        for element in stack[-1]:
            if isinstance(element, list):
                stack.append(iter(element))
                break
            flat.append(element)
        else:
            stack.pop()
    return flat


def render_response(response: oip.ModelInferResponse, *, binary: set[str] | None) -> tuple[bytes, int | None]:
    """Return the body, and the length of its JSON part when binary tensors follow.

    `binary` names the outputs that the caller wants as binary; None means all of them.
    """
    outputs, blobs = [], []
    for tensor, raw in zip(response.outputs, response.raw_output_contents, strict=True):
        output: dict[str, object] = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        if binary is None or tensor.name in binary or tensor.datatype == "BF16":
            output["parameters"] = {"binary_data_size": len(raw)}
            blobs.append(raw)
        else:
            output["data"] = _decode(tensor.datatype, raw)
        outputs.append(output)
    head: dict[str, object] = {"model_name": response.model_name, "model_version": response.model_version}
    if response.id:
        head["id"] = response.id
    body = json.dumps({**head, "outputs": outputs}).encode()
    return (body + b"".join(blobs), len(body)) if blobs else (body, None)


def _decode(datatype: str, raw: bytes) -> list[object]:
    if datatype == "BYTES":
        return [element.decode("utf-8", "replace") for element in decode_bytes(raw)]
    numbers = np.frombuffer(raw, NUMPY_NAMES[datatype]).tolist()
    return [number if not isinstance(number, float) or math.isfinite(number) else str(number) for number in numbers]


def wanted_as_binary(request: oip.ModelInferRequest) -> set[str] | None:
    """Return the names of the outputs asked for as binary; None for all (`binary_data_output`)."""
    everything = (
        request.parameters["binary_data_output"].bool_param if "binary_data_output" in request.parameters else False
    )
    if everything and not request.outputs:
        return None
    return {
        output.name
        for output in request.outputs
        if "binary_data" in output.parameters and output.parameters["binary_data"].bool_param
    }


def _objects(document: Json, field: str) -> list[Json]:
    given = document.get(field, [])
    if not isinstance(given, list) or not all(isinstance(entry, dict) for entry in given):
        raise InvalidRequest(f"{field}: expected a list of objects")
    return given


def _text(document: Json, field: str, default: str | None = None) -> str:
    value = document.get(field, default)
    if not isinstance(value, str):
        raise InvalidRequest(f"{field}: expected a string")
    return value


def _parameters(target: Any, document: Json) -> None:  # noqa: ANN401 - protobuf's map has no public type
    given = document.get("parameters") or {}
    if not isinstance(given, dict):
        raise InvalidRequest("parameters: expected an object")
    for key, value in given.items():
        if isinstance(value, bool):
            target[key].bool_param = value
        elif isinstance(value, int) and abs(value) < 2**63:
            target[key].int64_param = value
        elif isinstance(value, float):
            target[key].double_param = value
        elif isinstance(value, str):
            target[key].string_param = value
        else:
            raise InvalidRequest(f"parameters.{key[:64]}: expected a boolean, a number or a string")
