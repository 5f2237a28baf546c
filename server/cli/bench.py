"""`sluice bench`: open-loop (Poisson) and closed-loop load against any Open Inference Protocol server.

It says when it was itself the bottleneck: a generator at the end of its core measures itself.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from server.cli.channel import CallFailed, Client, add_flags, credentials, tls_context
from server.cli.main import CommandError
from server.codec import encode_bytes
from server.load.generator import Generator
from server.load.outcome import Outcome, poisson
from server.messages import NUMPY_NAMES, element_count
from server.pb import open_inference_pb2 as oip

INFER = "/inference.GRPCInferenceService/ModelInfer"
BUSY_SHARE = 0.9
"""Share of a core from which the generator counts as the bottleneck."""
LATE_SECONDS = 0.005
"""Median lateness of sends from which it does, too."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags that describe the load."""
    add_flags(parser)
    parser.add_argument("name", metavar="MODEL")
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument(
        "--in-flight", type=at_least_one, default=16, metavar="N", help="closed loop with N calls (default: 16)"
    )
    shape.add_argument("--rate", type=positive, metavar="R", help="open loop with R calls a second, Poisson arrivals")
    parser.add_argument("--seconds", type=positive, default=5.0, help="length of the run (default: %(default)s)")
    parser.add_argument(
        "--warm-up", type=float, default=1.0, metavar="SECONDS", help="closed loop before it (default: 1)"
    )
    parser.add_argument("--deadline", type=positive, default=10.0, metavar="SECONDS", help="of each call (default: 10)")
    parser.add_argument("--connections", type=at_least_one, default=4, help="to spread the calls over (default: 4)")
    parser.add_argument("--rows", type=at_least_one, default=1, help="rows a call (default: 1)")
    parser.add_argument("--text", default="a wonderful film", help="element of BYTES inputs (default: %(default)r)")
    parser.add_argument("--body", type=Path, metavar="FILE", help="a serialised ModelInferRequest to send as it is")
    parser.add_argument("--seed", type=int, default=7, help="of the arrivals (default: 7)")


def run(arguments: argparse.Namespace) -> int:
    """Run the load and print what came of it. Returns 1 when no call succeeded. Raises CommandError."""
    message = _message(arguments)
    try:
        outcome = _load(arguments, message)
    except OSError as error:
        raise CallFailed(f"{arguments.server}: {error.strerror or error}") from error
    report = summary(outcome, arguments.rows)
    print(json.dumps(report) if arguments.json else "\n".join(lines(report)))
    return 0 if outcome.latencies else 1


def _load(arguments: argparse.Namespace, message: bytes) -> Outcome:
    generator = Generator(
        arguments.server,
        INFER,
        message,
        deadline=arguments.deadline,
        connections=arguments.connections,
        metadata=credentials(arguments),
        tls=tls_context(arguments),
    )
    try:
        generator.closed_loop(4, arguments.warm_up)
        if arguments.rate:
            return generator.open_loop(poisson(arguments.rate, arguments.seconds, arguments.seed))
        return generator.closed_loop(arguments.in_flight, arguments.seconds)
    finally:
        generator.close()


def summary(outcome: Outcome, rows: int) -> dict[str, object]:
    """Return throughput (calls and rows a second), latency percentiles (milliseconds), statuses and cautions."""
    good = np.sort(np.array(outcome.latencies)) * 1000
    percentiles = {
        f"p{q:g}_ms": round(float(np.percentile(good, q)), 3) if len(good) else None for q in (50, 90, 99, 99.9)
    }
    share = outcome.cpu_seconds / outcome.seconds if outcome.seconds else 0.0
    late = float(np.median(outcome.late)) if outcome.late else 0.0
    caution = ""
    if share > BUSY_SHARE or late > LATE_SECONDS:
        caution = f"the load generator was the bottleneck: {share:.0%} of a core, sends {late * 1000:.1f} ms late"
    return {
        "sent": outcome.sent,
        "ok_per_second": round(len(good) / outcome.seconds, 1),
        "rows_per_second": round(rows * len(good) / outcome.seconds, 1),
        **percentiles,
        "codes": {str(code): count for code, count in sorted(outcome.codes.items())},
        "seconds": round(outcome.seconds, 3),
        "generator_cpu": round(share, 2),
        "caution": caution,
    }


def lines(report: dict[str, object]) -> Sequence[str]:
    """Return the report as a person reads it."""
    percentiles = "   ".join(f"{name[:-3]} {report[name]}" for name in report if name.endswith("_ms"))
    throughput = f"{report['ok_per_second']} ok/s, {report['rows_per_second']} rows/s"
    return [
        f"{report['sent']} calls in {report['seconds']} s, {throughput}",
        f"latency ms   {percentiles}",
        f"status codes {report['codes']}   generator {report['generator_cpu']} of a core",
        *([f"CAUTION: {report['caution']}"] if report["caution"] else []),
    ]


def _message(arguments: argparse.Namespace) -> bytes:
    if arguments.body is not None:
        try:
            body: bytes = arguments.body.read_bytes()
        except OSError as error:
            raise CommandError(f"cannot read {arguments.body}: {error.strerror}") from error
        return body
    with Client(arguments) as client:
        request = oip.ModelMetadataRequest(name=arguments.name)
        metadata = client.call("/inference.GRPCInferenceService/ModelMetadata", request, oip.ModelMetadataResponse)
    return made_up(metadata, arguments.rows, arguments.text).SerializeToString()


def positive(text: str) -> float:
    """Read a flag's number. Raises ArgumentTypeError."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return value


def at_least_one(text: str) -> int:
    """Read a flag's count. Raises ArgumentTypeError."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {text!r}")
    return value


def made_up(metadata: oip.ModelMetadataResponse, rows: int, text: str) -> oip.ModelInferRequest:
    """Return a request of `rows` rows with zeros and ones for numbers and `text` for strings; -1 dimensions are 1."""
    random = np.random.default_rng(7)
    request = oip.ModelInferRequest(model_name=metadata.name)
    for tensor in metadata.inputs:
        shape = [rows if i == 0 and size == -1 else max(size, 1) for i, size in enumerate(tensor.shape)]
        count = element_count(shape)
        request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=shape)
        if tensor.datatype == "BYTES":
            request.raw_input_contents.append(encode_bytes([text.encode()] * count))
        else:
            numbers = random.integers(0, 2, count)
            request.raw_input_contents.append(_little_endian(numbers, tensor.datatype))
    return request


def _little_endian(numbers: "np.ndarray[tuple[int], np.dtype[np.int64]]", datatype: str) -> bytes:
    if datatype == "BF16":  # the upper half of FP32
        return numbers.astype("<f4").view("<u2")[1::2].tobytes()
    return numbers.astype(NUMPY_NAMES[datatype]).tobytes()
