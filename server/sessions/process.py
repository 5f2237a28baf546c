"""An instance whose session lives in a child process that may die under a batch without hurting anybody else.

Threads: `run` assembles the batch into shared memory on the caller's thread and wakes the child with one packet. The
collector, one thread per instance, hears the answer, cuts it into parts and calls `done`, unless the instance is
`read_by` another thread. When the end of the child is heard, the collector reports the batch lost and brings up the
next child. The watchdog stops what takes too long.
Never knows onnxruntime.
"""

import logging
import struct
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from server.bundle import AddReader
from server.errors import ModelLoadFailed
from server.log import event
from server.sessions import exchange, frames
from server.sessions.base import (
    BatchDone,
    BatchError,
    BatchOutputs,
    InstanceDied,
    OutOfMemory,
    Part,
    RunTimedOut,
)
from server.sessions.budget import RestartBudget
from server.sessions.layout import BatchLayout
from server.sessions.plans import ChildPlan
from server.sessions.spawn import ChildFailed, SessionChild
from server.sessions.watchdog import Watchdog
from server.spec import ModelSpec

OBEY = 0.1
"""Seconds a stopped run has to end by itself before its process is killed."""


@dataclass(slots=True)
class _Run:
    """The batch in flight. `due` is the watchdog's next instant for it."""

    child: SessionChild
    sequence: int
    parts: Sequence[Part]
    done: BatchDone
    due: float
    compute_input: float = 0.0
    stopped: bool = False


class ProcessInstance:
    """See `server.sessions.base.Instance`."""

    def __init__(self, name: str, spec: ModelSpec, plan: ChildPlan, child: SessionChild, watchdog: Watchdog) -> None:
        """Take over a child that has loaded; `plan` is for the next ones."""
        self.name = name
        self.restarts = 0
        self._spec = spec
        self._plan = plan
        self._layout = BatchLayout(spec)
        self._watchdog = watchdog
        self._budget = RestartBudget()
        self._lock = threading.Lock()
        self._child: SessionChild | None = child
        self._coming: SessionChild | None = None
        """The next child, while it loads."""
        self._run: _Run | None = None
        self._sequence = 0
        self._closing = threading.Event()
        self._idle = threading.Event()
        self._idle.set()
        self._callbacks: list[Callable[[], None]] = []
        self._add_reader: AddReader | None = None
        self._serve(child)
        self._collector = threading.Thread(target=self._collect, args=(child,), name=f"collector {name}", daemon=True)
        self._collector.start()
        watchdog.watch(self)

    @property
    def available(self) -> bool:
        """Whether a run could start now."""
        return self._child is not None and self._run is None and not self._closing.is_set()

    @property
    def pid(self) -> int | None:
        """The child's process id, None while there is none."""
        child = self._child
        return None if child is None else child.process.pid

    def on_available(self, callback: Callable[[], None]) -> None:
        """Call `callback` whenever a new child is ready."""
        self._callbacks.append(callback)

    def read_by(self, add_reader: AddReader) -> None:
        """See `Instance.read_by`; from the next answer on."""
        self._add_reader = add_reader

    def run(self, parts: Sequence[Part], timeout: float, done: BatchDone) -> None:
        """Assemble the batch, wake the child and return."""
        started = time.monotonic()
        with self._lock:
            child = self._child
            if child is None or self._closing.is_set():
                _report(done, InstanceDied(f"{self.name} has no session process at the moment"))
                return
            self._sequence += 1
            run = self._run = _Run(child, self._sequence, parts, done, started + timeout)
            self._idle.clear()
        try:
            rows = sum([part.rows for part in parts]) if self._layout.batches else 0
            packet = exchange.write_batch(child.inputs, run.sequence, rows, self._layout.gather(parts))
        except BatchError as error:
            if self._finish(run):
                _report(done, error)
            return
        except (ValueError, OSError, MemoryError) as error:  # no memory, or the child died and its area is gone
            if self._finish(run):
                _report(done, OutOfMemory(str(error)) if self._child is child else InstanceDied(str(error)))
            return
        run.compute_input = time.monotonic() - started
        try:
            child.data.send(packet)
        except OSError:
            return  # the child is dead; the collector hears it and reports the batch
        self._watchdog.expect(run.due)

    def terminate(self) -> None:
        """Stop the run in progress; its process is killed if that does not help within 100 ms."""
        with self._lock:
            run = self._run
            if run is None:
                return
            run.stopped = True
            run.due = time.monotonic() + OBEY
        run.child.stop(run.sequence)
        self._watchdog.expect(run.due)

    def check(self, now: float) -> float:
        """Stop an overdue run, then kill what did not stop; the watchdog calls this."""
        run = self._run
        if run is None:
            return float("inf")
        if now < run.due:
            return run.due
        if run.stopped:
            event("session_process_killed", logging.WARNING, instance=self.name, why="did not stop when told to")
            run.child.kill()
            return float("inf")
        run.stopped = True
        run.due = now + OBEY
        run.child.stop(run.sequence)
        return run.due

    def adopt(self, spec: ModelSpec) -> None:
        """Serve under another spec of the same tensors from the next run on: batching found out to be impossible."""
        self._layout = BatchLayout(spec)

    def close(self, grace: float) -> None:
        """Let the run in progress finish within `grace` seconds, then end the child and wait for it."""
        self._closing.set()
        if not self._idle.wait(grace):
            self.terminate()
            self._idle.wait(2 * OBEY)
        with self._lock:
            child = self._child or self._coming
        if child is not None:
            child.hang_up()
        if threading.current_thread() is not self._collector:
            self._collector.join()
        self._watchdog.forget(self)

    # The collector's side

    def _collect(self, child: SessionChild) -> None:
        current: SessionChild | None = child
        while current is not None:
            self._listen(current)
            crashed = self._bury(current)
            current = self._replace(crashed=crashed)

    def _listen(self, child: SessionChild) -> None:
        """Answer batches until the child's end of file, or leave that to somebody whose thread is awake anyway.

        To hand the interpreter from thread to thread, and often from core to core, costs as much as a small batch.
        """
        while self._read_answer(child):
            over, read = threading.Event(), partial(self._read_answer, child)
            if self._add_reader is not None and self._add_reader(child.data, read, over.set):
                over.wait()

    def _read_answer(self, child: SessionChild) -> bool:
        """Answer the next batch; False at the child's end of file."""
        try:
            packet = child.data.recv(frames.MAX_PACKET_BYTES)
        except OSError:
            return False
        if not packet:
            return False
        run = self._run
        try:
            outcome = self._outcome(child, run, packet)
        except (ValueError, TypeError, IndexError, struct.error) as error:
            event("session_process_broke_protocol", logging.ERROR, instance=self.name, why=str(error))
            child.kill()
            return False
        if run is not None and self._finish(run):
            run.done(outcome)
        return True

    def _outcome(self, child: SessionChild, run: _Run | None, packet: bytes) -> BatchOutputs | BatchError:
        """Return what a packet says. Raises ValueError and the like when the child is not in its right mind."""
        started = time.monotonic()
        kind, sequence = frames.unpack(packet[: 2 * frames.WORD])
        if run is None or sequence != run.sequence:
            raise ValueError(f"an answer to run {sequence}, which is not in flight")
        if kind != frames.DONE:
            return exchange.read_failure(kind, packet)
        outputs, seconds, padded = exchange.read_outputs(child.outputs, packet)
        try:
            parts = self._layout.scatter(outputs, run.parts)
        except BatchError as error:
            return error.with_traceback(None)  # whose frames hold the batch
        return BatchOutputs(parts, run.compute_input, seconds, time.monotonic() - started, padded)

    def _finish(self, run: _Run) -> bool:
        """Take a run out of flight; False if somebody else already has."""
        with self._lock:
            if self._run is not run:
                return False
            self._run = None
            self._idle.set()
        return True

    def _bury(self, child: SessionChild) -> bool:
        """Report the batch that a dead child held and give back what was the child's; False if we killed it."""
        with self._lock:
            self._child = None
            run = self._run
        obituary = child.obituary() if not self._closing.is_set() else "closed"
        if run is not None and self._finish(run):
            run.done(RunTimedOut("the run was killed at its bound") if run.stopped else InstanceDied(obituary))
        child.close()
        if not self._closing.is_set():
            event("session_process_died", logging.ERROR, instance=self.name, how=obituary)
        return run is None or not run.stopped

    def _replace(self, *, crashed: bool) -> SessionChild | None:
        """Bring up the next child, as often as it takes; None when the instance is closing.

        Only deaths of the child's own doing are counted: a run that had to be killed is no reason to be left alone.
        """
        pause = self._budget.pause(time.monotonic()) if crashed else 0.0
        while not self._closing.wait(pause):
            started = time.monotonic()
            child = self._start()
            if child is None:
                pause = self._budget.pause(time.monotonic())
                continue
            self.restarts += 1
            event("session_process_replaced", instance=self.name, seconds=time.monotonic() - started)
            for callback in self._callbacks:
                callback()
            return child
        return None

    def _start(self) -> SessionChild | None:
        try:
            self._plan.model.check_unchanged()
            child = SessionChild(self._plan)
        except (ModelLoadFailed, OSError) as error:
            event("session_process_not_started", logging.ERROR, instance=self.name, why=str(error))
            return None
        with self._lock:
            self._coming = child
        if self._closing.is_set():
            child.hang_up()  # `close` came before it could see this child
        try:
            child.load()
            self._serve(child)
        except ChildFailed as error:
            event("session_process_not_started", logging.ERROR, instance=self.name, why=str(error))
            with self._lock:
                self._coming = None
            child.discard()
            return None
        with self._lock:
            self._child, self._coming = child, None
        return child

    def _serve(self, child: SessionChild) -> None:
        child.serve([spec.name for spec in self._spec.inputs], [spec.name for spec in self._spec.outputs])


def _report(done: BatchDone, error: BatchError) -> None:
    """Call `done` from a thread of our own, as the contract says; rare enough for a fresh one."""
    threading.Thread(target=done, args=(error,), name="refusal", daemon=True).start()
