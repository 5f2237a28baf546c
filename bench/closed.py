"""Closed loop with h2load, a client in C that costs a few microseconds a call.

h2load knows HTTP, not gRPC: it counts responses with status 200, which a refused gRPC call has as well. What it also
counts is bytes of DATA, and only an answered call has any, so the sum must be that of as many answers; besides, our own
client reads the status of some calls before.
"""

import re
import resource
import shutil
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.targets import Target
from server.load.generator import OK, Generator

CONNECTIONS = {1: (1, 1), 8: (1, 8), 16: (2, 8), 256: (4, 64), 1024: (8, 128)}
"""Calls in flight -> connections, streams on each."""
SERVER_BOUND_SHARE = 0.9
"""Share of a core from which h2load, one thread, counts as the bottleneck."""
FEWEST = 200
FEWEST_ANSWERED = 0.9
"""Part of the calls below which a run says nothing."""
COUNTED_WITHIN = 2.0
"""Seconds."""
Seconds = np.ndarray[tuple[int], np.dtype[np.float64]]
_HEADERS = ("-H", "content-type: application/grpc", "-H", "te: trailers")


@dataclass(frozen=True)
class Closed:
    """One closed-loop run."""

    in_flight: int
    rate: float
    """Answers a second."""
    p50_ms: float
    p99_ms: float
    p999_ms: float
    cpu_us: float | None
    """CPU microseconds a call of the server and its children; None for a peer elsewhere."""
    switches: float | None
    """Context switches a call of the server's threads: what handing the interpreter's lock over costs."""
    batch_rows: float | None
    padded_rows: float | None
    generator_share: float
    caution: str


class H2Load:
    """Measures one call of one server; `rate` is carried from run to run to choose how many calls make up a run."""

    def __init__(
        self, target: Target, model: str, message: bytes, folder: Path, answer: int = -1, deadline: float | None = None
    ) -> None:
        """Get ready.

        Args:
            target: who is asked.
            model: whose counters are read.
            message: what is asked.
            folder: where h2load reads it.
            answer: how long one is, found out by asking unless it is given.
            deadline: seconds that each call has, for who compares with calls that have as many; None for none.
        """
        self._deadline = () if deadline is None else ("-H", f"grpc-timeout: {1000 * deadline:.0f}m")
        self._target = target
        self._model = model
        self._body = folder / f"{target.name}-{model}-{len(message)}.bin"
        self._body.write_bytes(struct.pack(">BI", 0, len(message)) + message)
        self._rates: dict[int, float] = {}
        self.answer = _answer(target, message) if answer < 0 else answer

    def run(self, in_flight: int, seconds: float) -> Closed:
        """Measure for about so long.

        Raises:
            RuntimeError: not every call was answered with OK.
        """
        if in_flight not in self._rates:
            self._rates[in_flight] = self._load(in_flight, FEWEST + 2 * in_flight)[0]
        calls = max(int(self._rates[in_flight] * seconds), FEWEST)
        target = self._target
        before, cpu, switches = target.scrape(self._model), target.cpu_seconds(), target.switches()
        rate, times, share, answered = self._load(in_flight, calls)
        used = (target.cpu_seconds() - cpu) / calls * 1e6 if target.process else None
        switched = (target.switches() - switches) / calls if target.process else None
        self._rates[in_flight] = rate
        delta = self._counted(before, round(answered * calls))
        p50, p99, p999 = (float(np.percentile(times, q)) / 1000 for q in (50, 99, 99.9))
        caution = f"h2load took {share:.0%} of a core" if share > SERVER_BOUND_SHARE else ""
        if answered < 1:
            caution = f"{1 - answered:.2%} of the calls were not answered with OK"
        rows = delta["rows"] / delta["batches"] if delta else None
        return Closed(
            in_flight,
            rate * answered,
            p50,
            p99,
            p999,
            used,
            switched,
            rows,
            delta["padded_rows"] if delta else None,
            share,
            caution,
        )

    def ends(self, in_flight: int, seconds: float, switch: Callable[[], float]) -> "tuple[list[float], Seconds]":
        """Load for about so long, calling `switch` all the time, which returns when it has acted and some time after.

        Returns:
            What `switch` returned, and when each answer came, ascending; both in seconds since 1970.

        Raises:
            RuntimeError: as `run`, or h2load broke off.
        """
        calls = max(int(self.run(in_flight, 0.2).rate * seconds), FEWEST)
        switched = []
        with tempfile.NamedTemporaryFile("r", suffix=".tsv") as log:
            command = self._command(in_flight, calls, log.name)
            with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:  # noqa: S603 - as above
                while process.poll() is None:
                    switched.append(switch())
            if process.returncode:
                raise RuntimeError(f"h2load ended with {process.returncode}")
            times = np.loadtxt(log.name, dtype=np.int64, usecols=(0, 2), ndmin=2)
        return switched, np.sort(times.sum(axis=1) / 1e6)

    def _counted(self, before: dict[str, float], calls: int) -> dict[str, float]:
        """Return what the server has counted since; a call is counted just after its answer has left."""
        give_up = time.monotonic() + COUNTED_WITHIN
        while True:
            after = self._target.scrape(self._model)
            delta = {name: after[name] - before[name] for name in after}
            if not delta or delta["requests"] == calls:
                return delta
            if time.monotonic() > give_up:
                raise RuntimeError(f"{calls} calls answered, {self._target.name} says {delta['requests']:.0f} with OK")

    def _load(
        self, in_flight: int, calls: int
    ) -> tuple[float, "np.ndarray[tuple[int], np.dtype[np.int64]]", float, float]:
        """Run h2load; return calls a second, microseconds of each, its share of a core, and the part answered."""
        with tempfile.NamedTemporaryFile("r", suffix=".tsv") as log:
            command = self._command(in_flight, calls, log.name)
            before = _children_cpu()
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603
            used = _children_cpu() - before
            times = np.loadtxt(log.name, dtype=np.int64, usecols=2, ndmin=1)
        rate = float(re.findall(r"([\d.]+) req/s", output)[0])
        return rate, times, used * rate / calls, self._answered(output, calls)

    def _command(self, in_flight: int, calls: int, log: str) -> list[str]:
        connections, streams = CONNECTIONS[in_flight]
        return [
            "h2load", "-n", str(calls), "-c", str(connections), "-m", str(streams), "-d", str(self._body),
            *_HEADERS, *self._deadline, f"--log-file={log}", f"http://{self._target.address}{self._target.path}",
        ]  # fmt: skip

    def _answered(self, output: str, calls: int) -> float:
        """Return the part of the calls that were answered with OK; a refused one brings no data."""
        data = int(re.findall(r"\((\d+)\) data", output)[0])
        part = data / (calls * (5 + self.answer))
        if f"{calls} succeeded" not in output or not FEWEST_ANSWERED <= part <= 1:
            raise RuntimeError(
                f"{self._target.name}: expected {calls} answers of {5 + self.answer} bytes, h2load says:\n{output}"
            )
        return part


def installed() -> bool:
    """Whether h2load is here."""
    return shutil.which("h2load") is not None


def _answer(target: Target, message: bytes) -> int:
    """Return the bytes of an answer; a few calls must all get one of the same size."""
    sizes: set[int] = set()

    def check(code: int, answer: bytes) -> None:
        if code != OK:
            raise RuntimeError(f"{target.name} ended a call with status {code}")
        sizes.add(len(answer))

    generator = Generator(target.address, target.path, message, connections=1)
    generator.closed_loop(4, 0.3, check=check)
    generator.close()
    if len(sizes) != 1:
        raise RuntimeError(f"{target.name}: expected answers of one size, they had {sorted(sizes)} bytes")
    return sizes.pop()


def _children_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
