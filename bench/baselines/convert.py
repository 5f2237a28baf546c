"""ModelInferRequest to numpy and back, as the two baseline servers do it: plainly, and not slower than it has to be."""

import struct

import numpy as np
import onnxruntime

from server.pb import open_inference_pb2 as oip

NUMPY = {"FP32": np.float32, "UINT8": np.uint8}
DATATYPES = {"float32": "FP32"}


def feeds(request: oip.ModelInferRequest) -> dict[str, np.ndarray]:
    """Return a request's inputs as arrays by name."""
    return {
        tensor.name: strings(raw).reshape(tensor.shape)
        if tensor.datatype == "BYTES"
        else np.frombuffer(raw, NUMPY[tensor.datatype]).reshape(tensor.shape)
        for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True)
    }


def strings(raw: bytes) -> np.ndarray:
    """Return the elements of a BYTES tensor, each a 4-byte length and UTF-8."""
    values, at = [], 0
    while at < len(raw):
        (size,) = struct.unpack_from("<I", raw, at)
        values.append(raw[at + 4 : at + 4 + size].decode())
        at += 4 + size
    return np.array(values, dtype=object)


def answer(
    request: oip.ModelInferRequest, session: onnxruntime.InferenceSession, inputs: dict[str, np.ndarray]
) -> oip.ModelInferResponse:
    """Run the session and return its outputs as an answer."""
    response = oip.ModelInferResponse(model_name=request.model_name, id=request.id)
    for node, array in zip(session.get_outputs(), session.run(None, inputs), strict=True):
        response.outputs.add(name=node.name, datatype=DATATYPES[str(array.dtype)], shape=array.shape)
        response.raw_output_contents.append(array.tobytes())
    return response
