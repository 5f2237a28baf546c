"""What a call costs before anybody has looked at it: echo servers, measured side by side with h2load.

    python bench/echo.py [--rounds 5] [--calls 60000] [--payload 60] [--servers lean,core,aio,pool] [--json]

`lean` and `aio` are this server's transports, `handover` is lean answering from a second thread as a collector does,
`core` a loop over grpcio's completion queue, `pool` a plain grpc.server with a thread pool. Rounds are interleaved, so
that a noisy minute hurts all alike, and medians are reported. CPU is the server process's own (user and system), of all
its threads.
"""

import argparse
import asyncio
import json
import queue
import re
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.baselines import core_echo  # isort: skip  sets what gRPC's core reads when it is imported

import grpc

from server.transports.aio import AioTransport
from server.transports.base import Call, Fast, TransportOptions
from server.transports.http2.transport import Http2Transport

METHOD = "/bench.Echo/Echo"


@dataclass(frozen=True)
class Round:
    """One h2load run: CPU microseconds per call and calls per second."""

    cpu_us: float
    rate: float


def main() -> int:
    """Measure and print; 2 when h2load is missing."""
    options = _arguments()
    if options.serve:
        SERVERS[options.serve]()
        return 0
    if shutil.which("h2load") is None:
        print("h2load was not found; it comes with the package nghttp2-client", file=sys.stderr)
        return 2
    names = options.servers.split(",")
    rounds: dict[str, list[Round]] = {name: [] for name in names}
    with tempfile.NamedTemporaryFile(suffix=".bin") as body:
        body.write(struct.pack(">BI", 0, options.payload) + bytes(options.payload))
        body.flush()
        for _ in range(options.rounds):
            for name in names:
                rounds[name].append(_measure(name, Path(body.name), options))
    _report(rounds, as_json=options.json)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=60_000, help="calls per round")
    parser.add_argument("--payload", type=int, default=60, help="bytes per message")
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--streams", type=int, default=64, help="calls in flight on each connection")
    parser.add_argument("--servers", default="lean,handover,core,aio,pool")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", choices=SERVERS, help=argparse.SUPPRESS)
    return parser.parse_args()


def _measure(name: str, body: Path, options: argparse.Namespace) -> Round:
    with _server(name) as (port, cpu_seconds):
        _load(port, body, options, options.calls // 10)
        before = cpu_seconds()
        rate = _load(port, body, options, options.calls)
        return Round((cpu_seconds() - before) / options.calls * 1e6, rate)


@contextmanager
def _server(name: str) -> Iterator[tuple[int, Callable[[], float]]]:
    command = [sys.executable, "-m", "bench.echo", "--serve", name]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:  # noqa: S603
        ask, answer = process.stdin, process.stdout
        assert ask is not None  # noqa: S101
        assert answer is not None  # noqa: S101

        def cpu_seconds() -> float:
            print(file=ask, flush=True)
            return float(answer.readline())

        try:
            yield int(answer.readline()), cpu_seconds
        finally:
            process.kill()


def _load(port: int, body: Path, options: argparse.Namespace, calls: int) -> float:
    """Run h2load; return calls per second, and fail loudly when not every call was answered."""
    in_flight = ["-c", str(options.connections), "-m", str(options.streams)]
    headers = ["-H", "content-type: application/grpc", "-H", "te: trailers"]
    command = ["h2load", "-n", str(calls), *in_flight, "-d", str(body), *headers, f"http://127.0.0.1:{port}{METHOD}"]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603
    if f"{calls} succeeded" not in output:
        msg = f"expected {calls} answers, h2load says:\n{output}"
        raise RuntimeError(msg)
    return float(re.findall(r"([\d.]+) req/s", output)[0])


def _report(rounds: dict[str, list[Round]], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({name: [asdict(one) for one in several] for name, several in rounds.items()}))
        return
    print(f"{'server':<14} {'CPU us/call':>11} {'(min..max)':>13} {'calls/s':>8}")
    for name, several in rounds.items():
        cpu = [one.cpu_us for one in several]
        spread = f"{min(cpu):.1f}..{max(cpu):.1f}"
        rate = statistics.median(one.rate for one in several)
        print(f"{name:<14} {statistics.median(cpu):>11.1f} {spread:>13} {rate:>8.0f}")


def _ready(port: int) -> None:
    """Tell the port, then the CPU seconds used so far at every line that comes in."""
    print(port, flush=True)
    for _ in sys.stdin:
        print(time.process_time(), flush=True)


def _echo(call: Call, message: bytes) -> None:
    call.reply(message)


def _serve_transport(kind: type[Http2Transport | AioTransport], handler: Callable[[Call, bytes], None]) -> None:
    async def serve() -> None:
        transport = kind({METHOD: Fast(handler)}, TransportOptions())
        port = await transport.start("127.0.0.1", 0)
        await asyncio.to_thread(_ready, port)

    asyncio.run(serve())


def _serve_handover() -> None:
    waiting: queue.SimpleQueue[tuple[Call, bytes]] = queue.SimpleQueue()

    def collect() -> None:
        while True:
            call, message = waiting.get()
            call.reply(message)

    threading.Thread(target=collect, daemon=True).start()
    _serve_transport(Http2Transport, lambda call, message: waiting.put((call, message)))


def _serve_pool() -> None:
    def find(details: grpc.HandlerCallDetails) -> object:
        return grpc.unary_unary_rpc_method_handler(lambda message, _: message) if details.method == METHOD else None

    handler = type("Echo", (grpc.GenericRpcHandler,), {"service": staticmethod(find)})()
    server = grpc.server(ThreadPoolExecutor(8), handlers=[handler], options=[("grpc.max_concurrent_streams", 1024)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    _ready(port)


SERVERS: dict[str, Callable[[], None]] = {
    "lean": lambda: _serve_transport(Http2Transport, _echo),
    "handover": _serve_handover,
    "silent": lambda: _serve_transport(Http2Transport, lambda call, _: call.reply(b"")),
    "core": lambda: core_echo.serve(lambda port: threading.Thread(target=_ready, args=(port,)).start()),
    "aio": lambda: _serve_transport(AioTransport, _echo),
    "pool": _serve_pool,
}

if __name__ == "__main__":
    sys.exit(main())
