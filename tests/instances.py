"""Loads tiny models into real instances and waits, boundedly, for what they say."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from server.messages import Tensor
from server.sessions.base import BatchError, BatchOutputs, Instance, LoadedModel, ModelVersion, Part, SessionOptions
from server.sessions.dtypes import to_raw
from server.sessions.loader import ModelLoader
from server.spec import ModelConfig, ModelSpec, TensorSpec
from tests.models import write_version

WAIT = 20.0
"""Seconds after which a test gives up on something that should have happened long ago."""

OPTIONS = SessionOptions(
    device="cpu",
    isolation="process",
    intra_op_threads=1,
    load_timeout=20.0,
    memory_limit_bytes=512 << 20,
    max_message_bytes=1 << 20,
    gpu_memory_limit_bytes=0,
    max_batch_size=8,
)

Isolation = Literal["process", "none"]


def resolve(
    version: ModelVersion, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], max_batch_size: int
) -> ModelSpec:
    """Say what `modelconfig.resolve` says of a config that names no tensors, so that sessions are tested alone."""
    named = version.config.max_batch_size
    largest = max_batch_size if named is None else named
    batches = all(tensor.shape[:1] == (-1,) for tensor in (*inputs, *outputs))
    return ModelSpec(
        name=version.config.name,
        version=version.version,
        platform="onnx_onnxv1",
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        max_batch_size=largest if batches else 0,
        config=version.config,
    )


def load(
    directory: Path,
    data: bytes,
    options: SessionOptions = OPTIONS,
    *,
    config: ModelConfig | None = None,
    golden: Mapping[str, np.ndarray] | None = None,
) -> LoadedModel:
    """Write a model into `directory` as version 1 and load it."""
    path = write_version(directory / "1", data, golden)
    return load_version(path, options, config=config)


def load_version(path: Path, options: SessionOptions = OPTIONS, *, config: ModelConfig | None = None) -> LoadedModel:
    """Load a version that lies there already."""
    version = ModelVersion(config or ModelConfig("tiny"), path.parent.name, path.parent, path)
    return ModelLoader(options, resolve).load(version)


def tensor(name: str, datatype: str, array: np.ndarray) -> Tensor:
    """Return an array in the wire's form."""
    return Tensor(name, datatype, array.shape, to_raw(datatype, array))


def part(*tensors: Tensor, rows: int | None = None) -> Part:
    """Return one request's share of a batch; its rows are the first dimension unless said otherwise."""
    return Part(tensors, tensors[0].shape[0] if rows is None else rows)


@dataclass
class Heard:
    """A `done` that remembers everything it is told."""

    outcomes: list[BatchOutputs | BatchError] = field(default_factory=list)
    threads: list[str] = field(default_factory=list)
    _told: threading.Event = field(default_factory=threading.Event)

    def __call__(self, outcome: BatchOutputs | BatchError) -> None:
        self.outcomes.append(outcome)
        self.threads.append(threading.current_thread().name)
        self._told.set()

    def wait(self, seconds: float = WAIT) -> BatchOutputs | BatchError:
        """Return the first outcome."""
        assert self._told.wait(seconds), f"done was not called within {seconds} s"
        return self.outcomes[0]


def run(instance: Instance, *parts: Part, timeout: float = WAIT) -> BatchOutputs | BatchError:
    """Run one batch and return what became of it."""
    heard = Heard()
    instance.run(parts, timeout, heard)
    return heard.wait(timeout + WAIT)


def answers(outcome: BatchOutputs | BatchError, output: int = 0) -> list[bytes]:
    """Return one output's bytes part by part."""
    assert isinstance(outcome, BatchOutputs), outcome
    return [bytes(tensors[output].data) for tensors in outcome.parts]


def eventually(condition: Callable[[], bool], seconds: float = WAIT) -> bool:
    """Wait until `condition` holds; False when it does not within `seconds`."""
    pause = threading.Event()
    for _ in range(int(seconds / 0.01)):
        if condition():
            return True
        pause.wait(0.01)
    return condition()
