"""The physical limit of a model on a device: ONNX Runtime in a loop, inputs and outputs bound, and nothing around.

python -m bench.baselines.bound_loop MODEL_FILE DEVICE [--seconds S]; prints JSON: rows a second by batch size. Each run
copies its inputs to the device and its outputs back, as whoever answers requests must. Exits with 1 where the device
does not answer, since ONNX Runtime by itself would quietly take the CPU.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime

from bench.bodies import example

BATCHES = (1, 16, 64, 128, 512)
PROVIDERS = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}


def main() -> int:
    """Measure one file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("device", choices=PROVIDERS)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each batch size")
    options = parser.parse_args()
    session = open_session(options.file, options.device)
    if session.get_providers()[0] != PROVIDERS[options.device]:
        print(
            f"expected ONNX Runtime to run on {options.device}, it runs on {session.get_providers()}", file=sys.stderr
        )
        return 1
    row = example(options.file.parent.parent.name)
    found = []
    for batch in BATCHES:
        feeds = {name: np.repeat(array, batch, axis=0) for name, array in row.items()}
        found.append({"batch": batch, "rows_per_second": batch * rate(bound(session, feeds), options.seconds)})
    print(json.dumps(found))
    return 0


def open_session(file: Path, device: str) -> onnxruntime.InferenceSession:
    """Open a model file on a device; on a GPU with the options that Sluice has, but for graphs."""
    if device == "cuda":
        onnxruntime.preload_dlls()
    options = {"use_tf32": "0", "cudnn_conv_use_max_workspace": "1"} if device == "cuda" else {}
    return onnxruntime.InferenceSession(file, providers=[(PROVIDERS[device], options)], enable_fallback=0)


def bound(session: onnxruntime.InferenceSession, feeds: dict[str, np.ndarray]) -> Callable[[], object]:
    """Return what runs the feeds once. Text cannot be bound: a graph that takes it runs that part on the CPU anyway."""
    if any(array.dtype == object for array in feeds.values()):
        return lambda: session.run(None, feeds)

    def run() -> object:
        binding = session.io_binding()
        for name, array in feeds.items():
            binding.bind_cpu_input(name, array)
        for output in session.get_outputs():
            binding.bind_output(output.name, "cpu")
        session.run_with_iobinding(binding)
        return binding.get_outputs()

    return run


def rate(run: Callable[[], object], seconds: float) -> float:
    """Return runs a second."""
    for _ in range(3):
        run()
    runs, began = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - began) < seconds:
        run()
        runs += 1
    return runs / elapsed


if __name__ == "__main__":
    sys.exit(main())
