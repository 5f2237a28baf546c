"""ONNX Runtime as the trainer uses it: run a graph over many rows, time it, compare it with PyTorch."""

import statistics
import time
from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from trainer.errors import ExportError
from trainer.examples import Inputs
from trainer.scores import Floats

PARITY = 1e-5  # largest difference of a probability between ONNX Runtime and PyTorch, and between batched and single


def open_session(model: bytes, threads: int = 0) -> onnxruntime.InferenceSession:
    """A CPU session; `threads` 0 lets ONNX Runtime choose.

    Raises:
        ExportError: ONNX Runtime does not take the model.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions share no public base
        raise ExportError(f"ONNX Runtime refuses the model: {' '.join(str(error).split())[:300]}") from error


def run(session: onnxruntime.InferenceSession, inputs: Inputs, batch_rows: int = 64) -> Floats:
    """The first output for all rows, in their order; rows of similar length share a batch, which saves padding."""
    order = by_length(inputs)
    parts: list[NDArray[np.float32]] = []
    for start in range(0, len(order), batch_rows):
        chosen = order[start : start + batch_rows]
        parts.append(session.run(None, {name: array[chosen] for name, array in inputs.items()})[0])
    answer = np.concatenate(parts)
    restored = np.empty_like(answer)
    restored[order] = answer
    return restored


def by_length(inputs: Inputs) -> NDArray[np.intp]:
    """Row numbers, the shortest text first; models without text keep their order."""
    rows = len(next(iter(inputs.values())))
    lengths = np.zeros(rows, dtype=np.int64)
    for array in inputs.values():
        if array.dtype == object:
            lengths += np.array([sum(len(text) for text in row) for row in array])
    return np.argsort(lengths, kind="stable")


def median_microseconds(session: onnxruntime.InferenceSession, inputs: Inputs, repeats: int = 200) -> float:
    """Median wall time of one run of `inputs` as one batch, after ten runs to warm up."""
    for _ in range(10):
        session.run(None, inputs)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        session.run(None, inputs)
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e6


def check_parity(graph: onnx.ModelProto, predict: Callable[[Inputs], Floats], inputs: Inputs) -> dict[str, float]:
    """Compare the graph with PyTorch row by row, and its batched answers with its single ones.

    Returns:
        The largest differences seen, for the card.

    Raises:
        ExportError: either is above `PARITY`.
    """
    session = open_session(graph.SerializeToString())
    batched = run(session, inputs)
    single = run(session, inputs, batch_rows=1)
    differences = {
        "largest_difference_from_pytorch": float(np.abs(batched - predict(inputs)).max()),
        "largest_difference_batched_from_single": float(np.abs(batched - single).max()),
    }
    for what, difference in differences.items():
        if not difference <= PARITY:
            raise ExportError(f"the exported graph is not the trained network: {what} is {difference:.2e} > {PARITY}")
    return differences
