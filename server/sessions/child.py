"""The program in which one session runs and may die: `python -m server.sessions.child FDS...`.

Forked from the zygote (zygote.py), never from the server, which has threads and gRPC in it. It reads packets, maps the
input area, runs, writes the output area and answers (frames.py); a second thread hears STOP and the end of the
server. PR_SET_PDEATHSIG would not do for that: the server is not our parent.
This program must never know a wire, a queue or a credential.
"""

import json
import os
import signal
import socket
import sys
import threading
import time
import traceback
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from server.sessions import frames, limits
from server.sessions.area import Area, align
from server.sessions.base import BatchError, InstanceDied, OutOfMemory, RunTimedOut
from server.sessions.confine import confine
from server.sessions.dtypes import NUMPY, Array, to_array, to_raw
from server.sessions.ort import OrtSession, SessionRefused, Stop, may_use_gpu, open_session
from server.sessions.plans import SessionPlan
from server.spec import TensorSpec

CACHED_FEEDS = 256
"""Input views kept by packet: a steady load repeats the same few shapes at the same few places."""


class Child:
    """One session behind a pair of sockets and a pair of areas."""

    def __init__(self, data: socket.socket, control: socket.socket, inputs: Area, outputs: Area) -> None:
        self._data = data
        self._control = control
        self._input_area = inputs
        self._output_area = outputs
        self._inputs: list[TensorSpec] = []
        self._outputs: list[TensorSpec] = []
        self._feeds: dict[tuple[int, ...], dict[str, Array]] = {}
        self._lock = threading.Lock()
        self._stop: Stop | None = None
        self._sequence = 0
        self._stopped = 0

    def listen(self) -> None:
        """Hear the control socket until the parent is gone, then go too, whatever is running."""
        while packet := self._control.recv(frames.MAX_PACKET_BYTES):
            _, sequence = frames.unpack(packet)
            with self._lock:
                self._stopped = sequence
                if self._stop is not None and self._sequence == sequence:
                    self._stop.stop()
        os._exit(0)

    def serve(self, session: OrtSession) -> None:
        """Answer packets until the parent closes the socket."""
        names = json.loads(self._data.recv(frames.MAX_PACKET_BYTES))
        known = {spec.name: spec for spec in (*session.inputs, *session.outputs)}
        self._inputs = [known[name] for name in names["inputs"]]
        self._outputs = [known[name] for name in names["outputs"]]
        while packet := self._data.recv(frames.MAX_PACKET_BYTES):
            self._data.send(self._answer(session, packet))

    def _answer(self, session: OrtSession, packet: bytes) -> bytes:
        _, sequence, area_bytes, rows, *words = frames.unpack(packet)
        try:
            self._follow(area_bytes)
            return self._run(session, sequence, rows, tuple(words))
        except InstanceDied as error:
            print(error, file=sys.stderr, flush=True)  # noqa: T201  (our last words, which the parent reads)
            os._exit(1)
        except RunTimedOut as error:
            return frames.pack_text(frames.STOPPED, sequence, str(error))
        except OutOfMemory as error:
            return frames.pack_text(frames.NO_MEMORY, sequence, str(error))
        except BatchError as error:
            return frames.pack_text(frames.FAILED, sequence, str(error))

    def _follow(self, area_bytes: int) -> None:
        if area_bytes > self._input_area.size:
            self._feeds.clear()  # they look at the old mapping
            self._input_area.follow(area_bytes)

    def _run(self, session: OrtSession, sequence: int, rows: int, words: tuple[int, ...]) -> bytes:
        feeds = self._feeds.get(words) or self._map(words)
        stop = self._begin(sequence)
        started = time.perf_counter_ns()
        arrays = session.run([spec.name for spec in self._outputs], feeds, stop, rows)
        elapsed = time.perf_counter_ns() - started
        with self._lock:
            self._stop = None
        described = self._write(arrays)
        return frames.pack(
            (frames.DONE, sequence, self._output_area.size, len(arrays), elapsed, session.padded_rows, *described)
        )

    def _begin(self, sequence: int) -> Stop:
        stop = Stop()
        with self._lock:
            self._stop, self._sequence = stop, sequence
            if self._stopped == sequence:
                stop.stop()
        return stop

    def _map(self, words: tuple[int, ...]) -> dict[str, Array]:
        feeds: dict[str, Array] = {}
        at, keep = 1, True
        for _ in range(words[0]):
            index, offset, nbytes, rank = words[at : at + 4]
            shape = words[at + 4 : at + 4 + rank]
            at += 4 + rank
            spec = self._inputs[index]
            if spec.datatype == "BYTES":
                keep = False
                data = self._input_area.view[offset : offset + nbytes]
                feeds[spec.name] = to_array(spec.name, spec.datatype, shape, data)
            else:
                feeds[spec.name] = np.ndarray(shape, NUMPY[spec.datatype], self._input_area.view, offset)
        if keep:
            if len(self._feeds) >= CACHED_FEEDS:
                self._feeds.clear()
            self._feeds[words] = feeds
        return feeds

    def _write(self, arrays: list[Array]) -> list[int]:
        raws = [
            to_raw("BYTES", array) if spec.datatype == "BYTES" else None
            for spec, array in zip(self._outputs, arrays, strict=True)
        ]
        sizes = [array.nbytes if raw is None else len(raw) for raw, array in zip(raws, arrays, strict=True)]
        needed = sum(map(align, sizes))
        if needed > self._output_area.size and not self._output_area.grow(needed):
            raise OutOfMemory(f"the outputs take {needed} bytes, the limit is {self._output_area.limit}")
        words: list[int] = []
        at = 0
        for array, raw, size in zip(arrays, raws, sizes, strict=True):
            if raw is None:
                np.ndarray(array.shape, array.dtype, self._output_area.view, at)[...] = array
            else:
                self._output_area.view[at : at + size] = raw
            words += (at, size, array.ndim, *array.shape)
            at += align(size)
        return words


def load(model_fd: int, plan: SessionPlan) -> tuple[OrtSession, dict[str, Any]]:
    """Open the session and return it with the report that the parent decides on."""
    started = time.perf_counter()
    before = limits.resident_bytes()
    with os.fdopen(model_fd, "rb") as file:
        model = file.read()
    session = open_session(model, plan)
    report = {
        "inputs": [asdict(spec) for spec in session.inputs],
        "outputs": [asdict(spec) for spec in session.outputs],
        "unserved": session.unserved,
        "provider": session.provider,
        "note": session.note,
        "sha256": sha256(model).hexdigest(),
        "seconds": time.perf_counter() - started,
        "memory_bytes": max(0, limits.resident_bytes() - before),
    }
    return session, report


def main(arguments: list[str]) -> None:
    """Load what the first packet says, then serve. Exits with 0 once the parent has gone or has seen a refusal."""
    data_fd, control_fd, model_fd, input_fd, output_fd, area_limit = map(int, arguments)
    data, control = socket.socket(fileno=data_fd), socket.socket(fileno=control_fd)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the parent decides when we end, whoever signals the group
    Path("/proc/self/comm").write_text("sluice-session", encoding="ascii")
    Path("/proc/self/oom_score_adj").write_text("500", encoding="ascii")
    child = Child(data, control, Area(input_fd, area_limit), Area(output_fd, area_limit))
    threading.Thread(target=child.listen, name="control", daemon=True).start()
    order = json.loads(data.recv(frames.MAX_PACKET_BYTES))
    if order["plan"]["cores"]:
        os.sched_setaffinity(0, order["plan"]["cores"])  # before ONNX Runtime makes its threads
    plan = SessionPlan(**order["plan"])
    gpu = may_use_gpu(plan)  # CUDA's driver has needs of its own, so neither bound nor confinement can be as tight
    confined = not gpu and confine()
    limits.before_load(order["load_seconds"], 0 if gpu else order["memory_limit_bytes"], os.fstat(model_fd).st_size)
    try:
        session, report = load(model_fd, plan)
    except (SessionRefused, OSError, MemoryError) as error:
        data.send(frames.pack_text(frames.FAILED, 0, str(error) or type(error).__name__))
        return
    limits.after_load(order["memory_limit_bytes"], 2 * area_limit, unlimited=session.provider != "CPUExecutionProvider")
    packet = frames.pack((frames.READY, 0)) + json.dumps(report | {"confined": confined}).encode()
    if len(packet) > frames.MAX_PACKET_BYTES // 2:
        packet = frames.pack_text(frames.FAILED, 0, "the graph has more inputs and outputs than can be served")
    data.send(packet)
    child.serve(session)


def start(arguments: list[str]) -> NoReturn:
    """Be the child, then leave, whatever program this was before."""
    status = 1
    try:
        main(arguments)
        status = 0
    finally:
        if status:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # no destructors: they can hang on a sick device, and the system takes everything back


if __name__ == "__main__":
    start(sys.argv[1:])
