"""The servers that are measured: started one way, asked one way, and what they cost read from /proc."""

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import psutil

ROOT = Path(__file__).resolve().parent.parent
INFER = "/inference.GRPCInferenceService/ModelInfer"
ECHO = "/bench.Echo/Echo"
PORTS = ("--grpc-port", "0", "--http-port", "0", "--metrics-port", "0")


@dataclass(frozen=True)
class Memory:
    """Of a server and all its children, in MB."""

    rss: float
    pss: float


@dataclass
class Target:
    """A server under measurement; a peer given by address has no process of ours."""

    name: str
    address: str
    path: str = INFER
    metrics: str = ""
    process: psutil.Process | None = None

    def cpu_seconds(self) -> float:
        """Return CPU time used so far by the server and its children, user and system."""
        return sum(sum(process.cpu_times()[:2]) for process in self._tree())

    def switches(self) -> int:
        """Return how often the server's threads gave up a core or were made to, its children not counted."""
        return sum(_switches(path) for path in Path(f"/proc/{self.process.pid}/task").iterdir()) if self.process else 0

    def memory(self) -> Memory:
        """Return what the server and its children occupy; PSS counts shared pages once."""
        infos = [process.memory_full_info() for process in self._tree()]
        return Memory(sum(info.rss for info in infos) / 1e6, sum(info.pss for info in infos) / 1e6)

    def scrape(self, model: str) -> dict[str, float]:
        """Return a model's batches, rows, filler and answered calls from /metrics; empty without one."""
        if not self.metrics:
            return {}
        with urlopen(f"http://{self.metrics}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        found: dict[str, float] = {"batches": 0, "rows": 0, "padded_rows": 0, "requests": 0}
        for line in lines:
            match = re.match(r"sluice_(batches|rows|padded_rows|requests)_total\{(.*)\} (\S+)$", line)
            if match and f'model="{model}"' in match[2] and (match[1] != "requests" or 'code="OK"' in match[2]):
                found[match[1]] += float(match[3])
        return found

    def _tree(self) -> list[psutil.Process]:
        return [] if self.process is None else [self.process, *self.process.children(recursive=True)]


def _switches(thread: Path) -> int:
    try:
        status = (thread / "status").read_text()
    except FileNotFoundError:  # it ended meanwhile
        return 0
    return sum(map(int, re.findall(r"ctxt_switches:\s+(\d+)", status)))


@contextmanager
def started(name: str, command: Sequence[str], path: str = INFER) -> Iterator[Target]:
    """Run a server that prints its port, or the line `listening grpc=...`, and end it afterwards.

    Raises:
        RuntimeError: it ended before it listened; with the end of what it wrote to stderr.
    """
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(  # noqa: S603 - our own programs
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):
        assert process.stdout is not None  # noqa: S101 - narrows for mypy
        try:
            line = process.stdout.readline()
            if not line:
                errors.seek(0)
                raise RuntimeError(f"{name} ended before it listened: {errors.read()[-2000:]}")
            addresses = dict(re.findall(r"(\w+)=(\S+)", line))
            address = addresses.get("grpc", f"127.0.0.1:{line.strip()}")
            yield Target(name, address, path, addresses.get("metrics", ""), psutil.Process(process.pid))
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def sluice(store: Path, *flags: str, module: str = "server") -> list[str]:
    """Return the command that serves a store with Sluice."""
    return [sys.executable, "-m", module, "serve", *PORTS, "--model-store", str(store), *flags]


def baseline(module: str, folders: Sequence[Path]) -> list[str]:
    """Return the command of one of bench/baselines."""
    return [sys.executable, "-m", f"bench.baselines.{module}", *map(str, folders)]


def echo(kind: str = "lean") -> list[str]:
    """Return the command of an echo server."""
    return [sys.executable, "-m", "bench.echo", "--serve", kind]
