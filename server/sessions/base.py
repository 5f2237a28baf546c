"""The contract between the scheduler and the places where models run.

An `Instance` runs one batch at a time and reports through a callback. Two implementations pass the same contract
tests: `inline` (a thread of this process) and `process` (a child that may die, fed through shared memory).
A `Loader` turns a version directory into a `LoadedModel`, or says why not, beside whatever is already serving.
This module must never know onnxruntime, a wire or a queue.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from server.bundle import AddReader
from server.messages import Buffer, Tensor
from server.spec import ModelSpec
from server.spec import ModelVersion as ModelVersion  # noqa: PLC0414  (part of this contract; its home is below)


class BatchError(Exception):
    """A batch did not come back; the subclasses say what may be tried next. The text goes to our log only."""


class RunFailed(BatchError):
    """The runtime refused the values. Some row is to blame: bisect, and the last one standing is it."""


class OutOfMemory(BatchError):
    """The batch did not fit. A smaller one may."""


class InstanceDied(BatchError):
    """The process died under the batch. Any row may be to blame: retry each alone."""


class RunTimedOut(BatchError):
    """The run was stopped at its bound."""


@dataclass(slots=True)
class Part:
    """Rows that share a batch: one request, or a slice of a large one. `inputs` are in the spec's order.

    The shape of each tensor includes the batch dimension, which is `rows` for a model that batches.
    """

    inputs: Sequence[Tensor]
    rows: int


@dataclass(slots=True)
class BatchOutputs:
    """What a run gave back: per part, in the order of the parts, one Tensor per output of the spec.

    The tensors' data are bytes of their own, valid for ever: no view of a buffer that the next batch reuses.
    Times are seconds spent assembling, in ONNX Runtime and splitting. `padded_rows` counts rows of filler that ran.
    """

    parts: list[tuple[Tensor, ...]]
    compute_input: float
    compute_infer: float
    compute_output: float
    padded_rows: int = 0


BatchDone = Callable[[BatchOutputs | BatchError], None]
"""Called exactly once per run, from a thread of the instance's own or the one it is `read_by`; must not block for long
or raise."""


class Instance(Protocol):
    """One place where one batch at a time can run. A dead child is replaced by the instance itself.

    While it is being replaced (or the restart budget of a model that keeps crashing is used up) `run` reports
    InstanceDied at once, so the caller should watch `available`.
    """

    name: str
    restarts: int
    """How often its process was replaced after it died."""

    @property
    def available(self) -> bool:
        """Whether a run could start now."""

    def run(self, parts: Sequence[Part], timeout: float, done: BatchDone) -> None:
        """Start one batch and return at once; `timeout` bounds the run in seconds.

        The caller never starts a second run before `done` of the first was called; starting the next one from
        inside `done` is allowed and is how the instance is kept busy.
        """

    def terminate(self) -> None:
        """Stop the run in progress, if any, within 100 ms; its `done` is called with RunTimedOut."""

    def on_available(self, callback: Callable[[], None]) -> None:
        """Call `callback` each time the instance becomes available again after having died."""

    def read_by(self, add_reader: AddReader) -> None:
        """Have answers read by somebody else's thread where there is one, instead of one of the instance's own."""

    def close(self, grace: float) -> None:
        """Let the run in progress finish within `grace` seconds, then give everything back. Idempotent."""


@dataclass(frozen=True, slots=True)
class CostPoint:
    """The measured time of one batch size: rows and the seconds of an undisturbed run.

    That is the fastest of several: other versions load and serve on the same cores meanwhile.
    """

    rows: int
    seconds: float


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A version that is warm, proven by its golden vectors and ready to run."""

    spec: ModelSpec
    provider: str
    """ONNX Runtime's execution provider that really serves it, e.g. CPUExecutionProvider."""
    instances: tuple[Instance, ...]
    costs: tuple[CostPoint, ...]
    """The cost curve t(b) for b = 1, 2, 4 ... max batch; one point for a model that does not batch."""
    load_seconds: float
    memory_bytes: int
    labels: Mapping[str, str]
    """What operators like to see: threads, golden rows replayed, why it is not on the device wished for, ..."""
    digest: str = ""
    """SHA-256 over the version's files, where its config has a response cache; others are not read for it."""


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """How sessions are made; one frozen value from the settings."""

    device: Literal["auto", "cpu", "cuda"]
    isolation: Literal["process", "none"]
    intra_op_threads: int
    """Threads of each session; 0 lets the loader divide the cores this process may use among the instances."""
    load_timeout: float
    memory_limit_bytes: int
    """RLIMIT_AS headroom of a session child above what the loaded model needs; 0 for none."""
    max_message_bytes: int
    gpu_memory_limit_bytes: int
    max_batch_size: int
    """The largest batch that is tried where the config names none."""
    engine_cache: str = ""
    """Directory for TensorRT's engines; empty keeps none."""


class Loader(Protocol):
    """Brings version directories into service."""

    def load(self, version: ModelVersion) -> LoadedModel:
        """Load, warm up, measure and check one version; blocks for as long as that takes.

        Raises:
            ModelLoadFailed: with one sentence saying why; nothing is left behind.
        """


def slice_buffer(data: Buffer, start: int, stop: int) -> memoryview:
    """Return bytes start..stop of `data` without copying them."""
    return memoryview(data)[start:stop]
