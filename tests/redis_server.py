"""Real redis-servers for tests: own process, free port, AOF in a directory of its own; they may be killed."""

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

START_SECONDS = 10.0
DURABLE = ("--appendonly", "yes", "--appendfsync", "everysec", "--maxmemory-policy", "noeviction")


class RedisServer:
    """One server on one port for its whole life, through kills and restarts."""

    def __init__(self, directory: Path, *flags: str, port: int = 0) -> None:
        self.directory = directory
        self.port = port or free_port()
        self.flags = flags or DURABLE
        self.kills = 0
        """How often a chaos run has killed it; kept by the run."""
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> "RedisServer":
        self.process = subprocess.Popen(
            ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.directory),
             "--save", "", "--daemonize", "no", *self.flags],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        until(self._answers, START_SECONDS, f"redis-server on port {self.port} answers")
        return self

    def _answers(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"redis-server on port {self.port} ended with {self.process.poll()}")
        return self.ask("PING") in {b"+PONG", b"-NOAUTH", b"-DENIED"}

    def ask(self, *command: str) -> bytes:
        """Send one command and return the first word of the reply; b"" if nobody answers."""
        parts = "".join(f"${len(c)}\r\n{c}\r\n" for c in command)
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as line:
                line.sendall(f"*{len(command)}\r\n{parts}".encode())
                return (line.recv(4096).split() or [b""])[0]
        except OSError:
            return b""

    def kill(self) -> None:
        """SIGKILL: no goodbye, no last fsync."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def pause(self) -> None:
        os.kill(self.process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)

    def _end(self, how: signal.Signals) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(how)
            self.process.send_signal(signal.SIGCONT)
            self.process.wait(timeout=20)


def until(condition: Callable[[], bool], timeout: float, what: str) -> None:
    """Wait for a condition of another process, which no event of ours can announce."""
    give_up, pause = time.monotonic() + timeout, threading.Event()
    while not condition():
        if time.monotonic() > give_up:
            raise AssertionError(f"expected within {timeout} s: {what}")
        pause.wait(0.005)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def require_redis() -> None:
    """Skip at home without a redis-server, fail in CI."""
    if shutil.which("redis-server") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("expected redis-server on PATH in CI, found none")
        pytest.skip("needs redis-server (apt-get install redis-server)")


@contextmanager
def redis_server(*flags: str) -> Iterator[RedisServer]:
    """Run a server with AOF (or with `flags` instead) for the length of the block."""
    require_redis()
    with TemporaryDirectory(prefix="sluice-redis-") as directory:
        server = RedisServer(Path(directory), *flags)
        try:
            yield server.start()
        finally:
            server.kill()
