"""Starts session children and holds on to what belongs to one: its process, sockets and areas.

Everything is the child's own, the areas too, so that whatever still writes to a dead one disturbs nobody.
Never knows batches.
"""

import json
import os
import select
import socket
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict

from server.sessions import frames
from server.sessions.area import Area
from server.sessions.forking import FORKS
from server.sessions.plans import ChildPlan, Report
from server.spec import TensorSpec


class ChildFailed(Exception):
    """A child did not come up; the text says why."""


class SessionChild:
    """One child process and the parent's ends of what connects to it."""

    def __init__(self, plan: ChildPlan) -> None:
        """Have a process forked.

        Raises:
            ModelLoadFailed: the model file cannot be opened.
            OSError: no process, memory or descriptor is to be had.
        """
        self._plan = plan
        with ExitStack() as stack:
            model = plan.model.open()
            stack.callback(os.close, model)
            self._errors = os.memfd_create("errors", os.MFD_CLOEXEC)
            stack.callback(os.close, self._errors)
            self.inputs = stack.enter_context(closing(Area.create(plan.area_limit_bytes)))
            self.outputs = stack.enter_context(closing(Area.create(plan.area_limit_bytes)))
            self.data, data = _pair(stack)
            self.control, control = _pair(stack)
            descriptors = [data.fileno(), control.fileno(), model, self.inputs.fd, self.outputs.fd, self._errors]
            self.process = FORKS.fork(descriptors, plan.area_limit_bytes, plan.load_timeout)
            stack.callback(self.process.close)
            data.close()
            control.close()
            self._resources = stack.pop_all()

    def load(self) -> Report:
        """Have the model opened and return what was found.

        Raises:
            ChildFailed: it was refused, took too long, or the child died over it.
        """
        order = {
            "plan": asdict(self._plan.session),
            "load_seconds": self._plan.load_timeout,
            "memory_limit_bytes": self._plan.memory_limit_bytes,
        }
        self._send(json.dumps(order).encode())
        packet = self._receive(time.monotonic() + self._plan.load_timeout)
        kind, _, text = frames.unpack_text(packet)
        if kind != frames.READY:
            raise ChildFailed(text)
        fields = json.loads(text)
        fields["inputs"], fields["outputs"] = _specs(fields["inputs"]), _specs(fields["outputs"])
        fields["unserved"] = tuple(fields["unserved"])
        return Report(**fields)

    def serve(self, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        """Tell the child the order of the tensors; after this it takes batches."""
        self._send(json.dumps({"inputs": inputs, "outputs": outputs}).encode())

    def stop(self, sequence: int) -> None:
        """Ask the child to end a run."""
        with suppress(OSError):  # it is dead already, and whoever reads `data` knows
            self.control.send(frames.pack((frames.STOP, sequence)))

    def hang_up(self) -> None:
        """End the conversation: the child leaves after the packet in hand, and our reader hears an end of file."""
        with suppress(OSError):  # it is dead already
            self.data.shutdown(socket.SHUT_RDWR)

    def kill(self) -> None:
        """End the process at once."""
        self.process.kill()

    def last_words(self) -> str:
        """Return the end of what the child wrote to its standard error."""
        size = os.fstat(self._errors).st_size
        return os.pread(self._errors, 2000, max(0, size - 2000)).decode("utf-8", "replace").strip()

    def close(self, timeout: float = 1.0) -> int:
        """Let the child go, reap it and give everything back; returns its exit status. Idempotent."""
        self.control.close()
        self.data.close()
        status = self.process.wait(timeout)
        while status is None:
            self.process.kill()
            status = self.process.wait(timeout)
        self._resources.close()
        return status

    def discard(self) -> None:
        """End a child that is of no use."""
        self.kill()
        self.close()

    def _send(self, packet: bytes) -> None:
        try:
            self.data.send(packet)
        except OSError as error:
            raise ChildFailed(f"the session process cannot be told what to do: {error}") from error

    def _receive(self, deadline: float) -> bytes:
        poll = select.poll()
        poll.register(self.data, select.POLLIN)
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise ChildFailed(f"opening the model took longer than {self._plan.load_timeout:g} s")
        try:
            packet = self.data.recv(frames.MAX_PACKET_BYTES)
        except ConnectionError:
            packet = b""
        if not packet:
            raise ChildFailed(f"the session process died while it opened the model: {self.obituary()}")
        return packet

    def obituary(self) -> str:
        """Return how the child ended, once it has: its signal or status, and its last words."""
        status = self.process.wait(1.0)
        if status is None:
            return "it closed its socket"
        how = f"signal {-status}" if status < 0 else f"status {status}"
        words = self.last_words().splitlines()
        return f"{how} ({words[0]})" if words else how


def _pair(stack: ExitStack) -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return stack.enter_context(ours), stack.enter_context(theirs)


def _specs(rows: list[dict[str, object]]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(str(row["name"]), str(row["datatype"]), tuple(row["shape"])) for row in rows)  # type: ignore[arg-type]
