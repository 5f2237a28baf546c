"""The server's side of the zygote: starts it, asks it for session children, and knows how they ended.

A child is not ours to wait for, so the zygote reports: its process id and a pidfd when it is born, its status when it
has ended. Where the zygote itself has died meanwhile the pidfd still tells that a child is gone, only not how, and the
next child that is wanted brings up another zygote. Never knows what a child does.
"""

import atexit
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from server.sessions.frames import WORD, pack, unpack

UNKNOWN_STATUS = -signal.SIGKILL
"""What is said of a child that nobody could reap: it is gone, and nothing but a signal takes the zygote away."""

_ROOT = str(Path(__file__).resolve().parents[2])
_PASSED_ON = (
    "PATH",
    "HOME",
    "LANG",
    "LC_",
    "LD_",
    "TZ",
    "TMPDIR",
    "CUDA_",
    "NVIDIA_",
    "PYTHON",
    "COVERAGE_",
    "MALLOC_",
)
"""Beginnings of the environment variables a child gets: no secret of the server's, and none of ONNX Runtime's
switches (ORT_LOAD_CONFIG_FROM_MODEL would let a model file choose its session options)."""


class Forked:
    """One child of the zygote."""

    def __init__(self, report: socket.socket, pid: int, pidfd: int) -> None:
        self.pid = pid
        self._report = report
        self._pidfd = pidfd
        self._status: int | None = None
        self._waiting = threading.Lock()
        self._lock = threading.Lock()

    def kill(self) -> None:
        """End the process at once; nothing happens to one that has ended. Never blocks."""
        with self._lock, suppress(ProcessLookupError):
            if self._pidfd >= 0:
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def wait(self, timeout: float) -> int | None:
        """Return the exit status, negative for a signal, once the process has ended; None after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        with self._waiting:
            if self._status is None and _readable(self._report.fileno(), deadline):
                word = self._report.recv(WORD)
                if word:
                    (self._status,) = unpack(word)
                elif _readable(self._pidfd, deadline):
                    self._status = UNKNOWN_STATUS
            return self._status

    def close(self) -> None:
        """Forget the process. Idempotent."""
        with self._lock:
            if self._pidfd >= 0:
                self._report.close()
                os.close(self._pidfd)
                self._pidfd = -1


class Forks:
    """Where children come from. Thread-safe; the zygote starts with the first of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._orders: socket.socket | None = None

    def fork(self, descriptors: Sequence[int], area_limit: int, timeout: float) -> Forked:
        """Return a new child that owns copies of `descriptors`: data, control, model, inputs, outputs, errors.

        Raises:
            OSError: no process, memory or descriptor is to be had, or not within `timeout` seconds.
        """
        with suppress(ChildProcessError):  # the zygote died over it, or just before: the next one may not
            return self._try(descriptors, area_limit, timeout)
        return self._try(descriptors, area_limit, timeout)

    @property
    def pid(self) -> int | None:
        """The zygote's process id, None before the first child."""
        return None if self._process is None else self._process.pid

    def close(self) -> None:
        """Let the zygote go; its children stay. Idempotent."""
        with self._lock:
            if self._process is not None and self._orders is not None:
                self._orders.close()
                self._process.wait()
            self._process = self._orders = None

    def _try(self, descriptors: Sequence[int], area_limit: int, timeout: float) -> Forked:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                self._order(area_limit, [*descriptors, theirs.fileno()])
            return _born(ours, timeout)
        except BaseException:
            ours.close()
            raise

    def _order(self, area_limit: int, descriptors: list[int]) -> None:
        with self._lock:
            if self._orders is not None:
                with suppress(OSError):  # it has died
                    socket.send_fds(self._orders, [pack((area_limit,))], descriptors)
                    return
            socket.send_fds(self._start(), [pack((area_limit,))], descriptors)

    def _start(self) -> socket.socket:
        """Start a zygote in the place of a dead one."""
        if self._process is not None and self._orders is not None:
            self._orders.close()
            self._process.wait()
        self._orders, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603  (our own module, with a file descriptor as argument)
                [sys.executable, "-P", "-X", "faulthandler", "-m", "server.sessions.zygote", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=environment(),
                start_new_session=True,
            )
        return self._orders


FORKS = Forks()
"""This process's own: one zygote serves every model, as one of anything that is shared for its memory must."""
atexit.register(FORKS.close)


def _born(report: socket.socket, timeout: float) -> Forked:
    if not _readable(report.fileno(), time.monotonic() + timeout):
        raise TimeoutError(f"opening the model took longer than {timeout:g} s: no process has come up for it")
    word, fds, _, _ = socket.recv_fds(report, WORD, 1, socket.MSG_CMSG_CLOEXEC)
    if not word or not fds:
        raise ChildProcessError("no session process could be forked")
    return Forked(report, *unpack(word), *fds)


def _readable(fd: int, deadline: float) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))


def environment() -> dict[str, str]:
    """Return the environment of session processes."""
    kept = {name: value for name, value in os.environ.items() if name.startswith(_PASSED_ON)}
    path = kept.get("PYTHONPATH", "")
    kept["PYTHONPATH"] = f"{_ROOT}{os.pathsep}{path}" if path else _ROOT
    kept["ORT_DISABLE_TELEMETRY"] = "1"  # else ONNX Runtime keeps a database of its own below $HOME, and a thread
    kept["OPENBLAS_NUM_THREADS"] = "1"  # numpy's threads, which nothing here uses, and which forking would not carry
    return kept
