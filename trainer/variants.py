"""Smaller number formats of a finished graph, and whether they pay: bytes, accuracy and speed side by side.

`int8`: ONNX Runtime's dynamic quantisation (weights int8, activations quantised as they come; matrix products and
LSTMs only, its convolutions are slower than float ones on CPU). `fp16`: half precision weights and arithmetic, meant
for GPUs; inputs and outputs stay as they are.
"""

import tempfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from trainer import runtime, scores
from trainer.errors import ExportError
from trainer.examples import Examples, Inputs

LATENCY = "median of 200 runs of one row, ONNX Runtime on one CPU thread of the machine that trained"
PAYS_SPEED = 0.9  # a variant pays when a row takes at most this share of the time ...
PAYS_ACCURACY = 0.001  # ... and it loses at most this much accuracy
HALF_TOLERANCE = 5e-3  # relative and absolute, of probabilities that were computed in 11 bits


def int8(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Dynamic int8 quantisation of matrix products and LSTMs."""
    from onnxruntime.quantization import QuantType, quantize_dynamic  # noqa: PLC0415 - seconds to import

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "source.onnx", Path(folder) / "target.onnx"
        onnx.save(graph, source)
        quantize_dynamic(source, target, op_types_to_quantize=["MatMul", "Gemm", "LSTM"], weight_type=QuantType.QInt8)
        return onnx.load(target)


def fp16(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Half precision everywhere but at the ends."""
    from onnxruntime.transformers.float16 import convert_float_to_float16  # noqa: PLC0415 - seconds to import

    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    half: onnx.ModelProto = convert_float_to_float16(copy, keep_io_types=True, op_block_list=KEEP_FLOAT)
    return half


KEEP_FLOAT = ["OneHotEncoder", "LabelEncoder", "StringNormalizer", "Tokenizer"]
KINDS: dict[str, Callable[[onnx.ModelProto], onnx.ModelProto]] = {"int8": int8, "fp16": fp16}


def typical_row(examples: Examples) -> Inputs:
    """One row to time: the row of median length where the rows are texts, the first row otherwise."""
    order = runtime.by_length(examples.inputs)
    texts = any(array.dtype == object and array.shape[1] == 1 for array in examples.inputs.values())
    row = order[len(order) // 2] if texts else 0
    return examples.take(np.array([row])).inputs


def latency(graph: onnx.ModelProto, test: Examples) -> dict[str, Any]:
    """Microseconds a typical row takes alone."""
    session = runtime.open_session(graph.SerializeToString(), threads=1)
    return {"single_row_microseconds": runtime.median_microseconds(session, typical_row(test)), "how": LATENCY}


def measure(graph: onnx.ModelProto, test: Examples) -> list[dict[str, Any]]:
    """Every kind of variant beside the graph itself; a kind that cannot be made says why."""
    plain = _figures(graph, test)
    rows: list[dict[str, Any]] = []
    for kind, convert in KINDS.items():
        try:
            found = _figures(convert(graph), test)
        except (ExportError, ValueError, RuntimeError) as error:
            rows.append({"kind": kind, "failed": str(error)[:200], "pays": False})
            continue
        faster = found["single_row_microseconds"] <= PAYS_SPEED * plain["single_row_microseconds"]
        as_good = found["accuracy"] >= plain["accuracy"] - PAYS_ACCURACY
        rows.append({"kind": kind, **found, "pays": faster and as_good})
    return rows


def write_half(path: Path, graph: onnx.ModelProto, card: dict[str, Any], golden: Inputs) -> bool:
    """Write the fp16 variant, its checksum into the card, if it is as accurate and answers the golden inputs alike.

    Otherwise the card's variant says under `left_out` why there is no file. Whether it pays is for the GPU to say: the
    server takes it only there, and config.pbtxt's `precision` overrules it.
    """
    entry = next(row for row in card["variants"] if row["kind"] == "fp16")
    reason = _not_as_good(entry, card["metrics"]["test"]["accuracy"])
    if not reason:
        half = fp16(graph).SerializeToString(deterministic=True)
        answers, wanted = (runtime.run(runtime.open_session(m), golden) for m in (half, graph.SerializeToString()))
        if np.allclose(answers, wanted, HALF_TOLERANCE, HALF_TOLERANCE):
            path.write_bytes(half)
            entry["sha256"] = sha256(half).hexdigest()
            return True
        reason = f"an answer moves by {np.abs(answers - wanted).max():.4f}"
    entry["left_out"] = reason
    return False


def _not_as_good(entry: dict[str, Any], accuracy: float) -> str:
    """Why a measured variant is not worth a file, empty where it is."""
    if "failed" in entry:
        return str(entry["failed"])
    lost = accuracy - float(entry["accuracy"])
    return f"it loses {lost:.4f} accuracy" if lost > PAYS_ACCURACY else ""


def _figures(graph: onnx.ModelProto, test: Examples) -> dict[str, Any]:
    model = graph.SerializeToString()
    probabilities = scores.class_probabilities(runtime.run(runtime.open_session(model), test.inputs))
    session = runtime.open_session(model, threads=1)
    return {
        "bytes": len(model),
        "accuracy": scores.accuracy(probabilities, test.labels),
        "single_row_microseconds": runtime.median_microseconds(session, typical_row(test)),
    }
