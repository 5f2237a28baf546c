"""Large requests beside the bare transport: how many megabytes a second, and what becomes of them on the way.

    python -m bench.large [--rounds 5] [--seconds 1]

The model reads one number of its tensor, so what is measured is the way there: received, checked, copied into shared
memory, run, answered. The bare transport receives the same message and answers with nothing.
"""

import argparse
import statistics
import struct
import sys
import tempfile
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path

import grpc
import onnx
from onnx import TensorProto, helper

from bench.closed import H2Load, installed
from bench.targets import ECHO, Target, echo, sluice, started
from server.pb import open_inference_pb2 as oip

SIZES = {"1 MB": 1_000_000, "16 MB": 16_000_000}
IN_FLIGHT = 8
BAR = 0.6


def main() -> int:
    """Measure both sizes, turn by turn; 1 when Sluice is slower than promised."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--bar", type=float, default=BAR)
    options = parser.parse_args()
    if not installed():
        print("h2load was not found; it comes with the package nghttp2-client", file=sys.stderr)
        return 2
    rates: defaultdict[str, list[dict[str, float]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        store = Path(folder) / "store"
        write_store(store)
        servers = {
            "sluice": stack.enter_context(started("sluice", sluice(store))),
            "bare": stack.enter_context(started("bare", echo("silent"), ECHO)),
        }
        loads = {
            (size, name): H2Load(target, name_of(size), message(size), Path(folder), answer(target, message(size)))
            for size in SIZES
            for name, target in servers.items()
        }
        for _ in range(options.rounds):
            for size in SIZES:
                found = {name: loads[size, name].run(IN_FLIGHT, options.seconds).rate for name in servers}
                rates[size].append(found)
    return report(rates, options.bar)


def report(rates: dict[str, list[dict[str, float]]], bar: float) -> int:
    """Print medians and verdicts."""
    worst = 0
    for size, rounds in rates.items():
        share = statistics.median(found["sluice"] / found["bare"] for found in rounds)
        speeds = [
            f"{name} {statistics.median(found[name] for found in rounds) * SIZES[size] / 1e6:.0f} MB/s"
            for name in ("sluice", "bare")
        ]
        held = share >= bar
        worst |= not held
        print(f"{'held  ' if held else 'BROKEN'} {size} requests: {', '.join(speeds)}, {share:.2f} (at least {bar})")
    return worst


def answer(target: Target, request: bytes) -> int:
    """Return how many bytes a server answers; our own generator sends no message larger than a flow-control window."""
    with grpc.insecure_channel(target.address, options=[("grpc.max_send_message_length", -1)]) as channel:
        return len(channel.unary_unary(target.path)(request, timeout=30))


def name_of(size: str) -> str:
    """Return the model that takes requests of a size."""
    return f"wide{SIZES[size]}"


def message(size: str) -> bytes:
    """Return a request of so many bytes."""
    request = oip.ModelInferRequest(model_name=name_of(size))
    request.inputs.add(name="x", datatype="FP32", shape=[SIZES[size] // 4])
    request.raw_input_contents.append(struct.pack("<f", 1.5) * (SIZES[size] // 4))
    return request.SerializeToString()


def write_store(store: Path) -> None:
    """Write a model for each size."""
    for size, nbytes in SIZES.items():
        folder = store / name_of(size) / "1"
        folder.mkdir(parents=True)
        onnx.save(_first_number(nbytes // 4), folder / "model.onnx")
        (folder.parent / "config.pbtxt").write_text(f'name: "{name_of(size)}"\nmax_batch_size: 0\n')


def _first_number(count: int) -> onnx.ModelProto:
    one = helper.make_tensor("one", TensorProto.INT64, [1], [0])
    graph = helper.make_graph(
        [helper.make_node("Gather", ["x", "one"], ["y"])],
        "first",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [count])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
        [one],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


if __name__ == "__main__":
    sys.exit(main())
