"""An instance whose session lives in this process, on a thread of its own: nothing to wake, nothing to isolate.

For `isolation: none`, where the last microseconds count more than surviving a crash inside ONNX Runtime.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from queue import SimpleQueue

from server.bundle import AddReader
from server.errors import ModelLoadFailed
from server.log import event
from server.sessions.base import BatchDone, BatchError, BatchOutputs, InstanceDied, Part, RunTimedOut
from server.sessions.dtypes import Array, to_array, to_raw
from server.sessions.layout import BatchLayout, Output
from server.sessions.ort import OrtSession, SessionRefused, Stop, open_session
from server.sessions.plans import ChildPlan
from server.sessions.watchdog import Watchdog
from server.spec import ModelSpec

OBEY = 0.1
"""Seconds a stopped run has to end before it is reported without its thread."""


@dataclass(slots=True)
class _Run:
    parts: Sequence[Part]
    done: BatchDone
    due: float
    stop: Stop


class InlineInstance:
    """See `server.sessions.base.Instance`. A run that does not stop keeps the instance unavailable until it ends."""

    def __init__(self, name: str, spec: ModelSpec, session: OrtSession, watchdog: Watchdog) -> None:
        self.name = name
        self.restarts = 0
        self._spec = spec
        self._session = session
        self._layout = BatchLayout(spec)
        self._output_names = [tensor.name for tensor in spec.outputs]
        self._watchdog = watchdog
        self._lock = threading.Lock()
        self._run: _Run | None = None
        self._stuck = False
        self._closing = False
        self._idle = threading.Event()
        self._idle.set()
        self._callbacks: list[Callable[[], None]] = []
        self._queue: SimpleQueue[_Run | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=f"session {name}", daemon=True)
        self._thread.start()
        watchdog.watch(self)

    @property
    def available(self) -> bool:
        """Whether a run could start now."""
        return self._run is None and not self._stuck and not self._closing

    def read_by(self, add_reader: AddReader) -> None:
        """There is nothing to read: a run ends on the thread that runs it."""

    def on_available(self, callback: Callable[[], None]) -> None:
        """Call `callback` when a run that would not stop has ended after all."""
        self._callbacks.append(callback)

    def adopt(self, spec: ModelSpec) -> None:
        """Serve under another spec of the same tensors from the next run on."""
        self._layout = BatchLayout(spec)

    def run(self, parts: Sequence[Part], timeout: float, done: BatchDone) -> None:
        """Hand the batch to the thread and return."""
        run = _Run(parts, done, time.monotonic() + timeout, Stop())
        with self._lock:
            refused = self._stuck or self._closing
            if not refused:
                self._run = run
                self._idle.clear()
        if refused:
            _report(done, InstanceDied(f"{self.name} cannot run at the moment"))
            return
        self._queue.put(run)
        self._watchdog.expect(run.due)

    def terminate(self) -> None:
        """Stop the run in progress."""
        with self._lock:
            run = self._run
            if run is None:
                return
            run.due = time.monotonic() + OBEY
        run.stop.stop()
        self._watchdog.expect(run.due)

    def check(self, now: float) -> float:
        """Stop an overdue run, then give up on one that did not stop; the watchdog calls this."""
        run = self._run
        if run is None:
            return float("inf")
        if now < run.due:
            return run.due
        if not run.stop.requested:
            run.stop.stop()
            run.due = now + OBEY
            return run.due
        self._stuck = True
        if self._finish(run):
            event("run_does_not_stop", logging.ERROR, instance=self.name)
            _report(run.done, RunTimedOut("the run did not stop at its bound"))
        return float("inf")

    def close(self, grace: float) -> None:
        """Let the run in progress finish within `grace` seconds, then end the thread. Idempotent."""
        self._closing = True
        if not self._idle.wait(grace):
            self.terminate()
            self._idle.wait(2 * OBEY)
        self._queue.put(None)
        if threading.current_thread() is not self._thread and not self._stuck:
            self._thread.join()
        self._watchdog.forget(self)

    def _work(self) -> None:
        while (run := self._queue.get()) is not None:
            outcome = self._compute(run)
            if self._finish(run):
                run.done(outcome)
            elif self._stuck:
                self._stuck = False
                for callback in self._callbacks:
                    callback()

    def _compute(self, run: _Run) -> BatchOutputs | BatchError:
        started = time.monotonic()
        try:
            feeds = self._feeds(run.parts)
            ready = time.monotonic()
            rows = sum([part.rows for part in run.parts]) if self._layout.batches else 0
            arrays = self._session.run(self._output_names, feeds, run.stop, rows)
            ran = time.monotonic()
            outputs = [
                Output(array.shape, to_raw(spec.datatype, array))
                for spec, array in zip(self._spec.outputs, arrays, strict=True)
            ]
            parts = self._layout.scatter(outputs, run.parts)
        except BatchError as error:
            return error.with_traceback(None)  # whose frames hold the batch
        padded = self._session.padded_rows
        return BatchOutputs(parts, ready - started, ran - ready, time.monotonic() - ran, padded)

    def _feeds(self, parts: Sequence[Part]) -> dict[str, Array]:
        feeds: dict[str, Array] = {}
        for column in self._layout.gather(parts):
            spec = self._spec.inputs[column.index]
            data = column.chunks[0] if len(column.chunks) == 1 else b"".join(column.chunks)
            feeds[spec.name] = to_array(spec.name, spec.datatype, column.shape, data)
        return feeds

    def _finish(self, run: _Run) -> bool:
        with self._lock:
            if self._run is not run:
                return False
            self._run = None
            self._idle.set()
        return True


def open_here(plan: ChildPlan) -> tuple[OrtSession, str]:
    """Open a session in this process; returns it with the checksum of what was opened.

    Raises:
        ModelLoadFailed: with the reason.
    """
    with open(plan.model.open(), "rb") as file:  # noqa: PTH123  (a descriptor that was checked)
        model = file.read()
    try:
        return open_session(model, plan.session), sha256(model).hexdigest()
    except SessionRefused as error:
        raise ModelLoadFailed(str(error)) from error


def _report(done: BatchDone, error: BatchError) -> None:
    """Call `done` from a thread of our own, as the contract says; rare enough for a fresh one."""
    threading.Thread(target=done, args=(error,), name="refusal", daemon=True).start()
