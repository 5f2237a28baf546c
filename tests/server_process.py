"""A real `sluice serve` in its own process, and the other commands, for tests that talk to them as a user would."""

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.request import urlopen

from grpc import Channel, insecure_channel

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 90.0
FREE_PORTS = ("--grpc-port", "0", "--http-port", "0", "--metrics-port", "0")


def sluice(*words: str, stdin: str | None = None, timeout: float = 120) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end, whatever that is."""
    return subprocess.run(
        [sys.executable, "-m", "server", *words], cwd=ROOT, input=stdin, capture_output=True, text=True, timeout=timeout
    )


@dataclass
class ServerProcess:
    """A running server: its addresses, its output, and how to stop it."""

    process: "subprocess.Popen[str]"
    grpc: str = ""
    http: str = ""
    metrics: str = ""
    log: list[str] = field(default_factory=list)

    def channel(self) -> Channel:
        return insecure_channel(
            self.grpc, [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
        )

    def ask(self, *words: str) -> str:
        """Run a command against this server and return what it prints; it must succeed."""
        done = sluice(*words, "--server", self.grpc)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def scrape(self) -> dict[str, float]:
        """Return every sample of /metrics by its text, e.g. sluice_rows_total{model="churn",version="1"}."""
        with urlopen(f"http://{self.metrics}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[:1] != "#")}

    def stop(self, grace: float = 40.0) -> int:
        """Send SIGTERM and return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=grace)


@contextmanager
def serve(
    *flags: str, store: Path = ROOT / "model_store", env: dict[str, str] | None = None
) -> Iterator[ServerProcess]:
    """Start a server on free ports, wait until it says where it listens, and stop it at the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "server", "serve", *FREE_PORTS, "--model-store", str(store), *flags],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env,
    )  # fmt: skip
    server = ServerProcess(process)
    errors = threading.Thread(target=lambda: server.log.extend(process.stderr), daemon=True)
    errors.start()
    watchdog = threading.Timer(START_SECONDS, process.kill)
    watchdog.start()
    try:
        for line in process.stdout:
            if line.startswith("listening "):
                for part in line.split()[1:]:
                    name, _, address = part.partition("=")
                    setattr(server, name, address)
                break
        else:
            errors.join(5)
            raise AssertionError("the server ended before it listened:\n" + "".join(server.log))
        watchdog.cancel()
        yield server
    finally:
        watchdog.cancel()
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(timeout=40)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            process.stdout.close()
            errors.join(5)
            process.stderr.close()
