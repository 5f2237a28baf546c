"""What the benchmarks ask: one made-up row for each shipped model, the same for every server."""

from pathlib import Path

import numpy as np

from server.codec import encode_bytes
from server.pb import open_inference_pb2 as oip

MODELS = ("churn", "mnist", "sentiment")
CUSTOMER = {
    "CreditScore": 608.0, "Age": 41.0, "Tenure": 1.0, "Balance": 83807.86,
    "NumOfProducts": 1.0, "HasCrCard": 0.0, "IsActiveMember": 1.0, "EstimatedSalary": 112542.58,
}  # fmt: skip
REVIEW = (
    "I came for the music and stayed for the story. It takes its time, the first half hour is slow and the jokes are "
    "old, but then the sister comes home and everything that was said before means something else. The camera hardly "
    "moves, the actors hardly speak, and still nobody in the room looked at the clock. Not perfect, a little too proud "
    "of itself at the end, but warm, strange and worth the evening."
)
"""72 words: about what people write under a film in one paragraph."""


def example(model: str) -> dict[str, np.ndarray]:
    """Return one row of a model's inputs by name."""
    if model == "mnist":
        image = np.zeros((1, 28, 28), np.uint8)
        image[0, 5:23, 12:15] = 255  # a one
        return {"image": image}
    if model == "sentiment":
        return {"text": np.array([[REVIEW]], dtype=object)}
    words = {"Geography": "Spain", "Gender": "Female"}
    numbers = {name: np.array([[value]], np.float32) for name, value in CUSTOMER.items()}
    return numbers | {name: np.array([[value]], dtype=object) for name, value in words.items()}


def body(model: str, rows: int = 1) -> bytes:
    """Return the row, so many times over, as a serialised ModelInferRequest."""
    request = oip.ModelInferRequest(model_name=model)
    for name, one in example(model).items():
        array = np.repeat(one, rows, axis=0)
        datatype = {"float32": "FP32", "uint8": "UINT8"}.get(str(array.dtype), "BYTES")
        request.inputs.add(name=name, datatype=datatype, shape=array.shape)
        strings = datatype == "BYTES"
        raw = encode_bytes([value.encode() for value in array.flat]) if strings else array.tobytes()
        request.raw_input_contents.append(raw)
    return request.SerializeToString()


def newest_version(store: Path, model: str) -> Path:
    """Return the directory of a model's newest version, which is the one that is served."""
    versions = [folder for folder in (store / model).iterdir() if folder.name.isdecimal()]
    return max(versions, key=lambda folder: int(folder.name))
