"""The physical limit of a model: ONNX Runtime called in a loop with a full batch, and nothing around it.

python -m bench.baselines.session_loop MODEL_DIR [--seconds S]; prints JSON: rows a second by threads and batch size.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import onnxruntime

from bench.bodies import example

BATCHES = (1, 4, 16, 64)


def main() -> None:
    """Measure one model with 1 and 2 threads, spinning (ONNX Runtime's default) and not."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=0.3, help="of each setting")
    options = parser.parse_args()
    rows = example(options.folder.parent.name)
    found = []
    for threads, spinning in ((1, False), (2, False), (2, True)):
        session = open_session(options.folder / "model.onnx", threads, spinning=spinning)
        for batch in BATCHES:
            rows_per_second = rate(session, rows, batch, options.seconds)
            setting = {"threads": threads, "spinning": spinning, "batch": batch}
            found.append(setting | {"rows_per_second": rows_per_second})
    print(json.dumps(found))


def open_session(model: Path, threads: int, *, spinning: bool) -> onnxruntime.InferenceSession:
    """Open a model with so many threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def rate(session: onnxruntime.InferenceSession, row: dict[str, np.ndarray], batch: int, seconds: float) -> float:
    """Return rows a second at one batch size."""
    feeds = {name: np.repeat(array, batch, axis=0) for name, array in row.items()}
    for _ in range(3):
        session.run(None, feeds)
    runs, began = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - began) < seconds:
        session.run(None, feeds)
        runs += 1
    return round(runs * batch / elapsed, 1)


if __name__ == "__main__":
    main()
