"""What it takes to open one session, and what was found when it was: plain values that cross to the child and back."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from server.sessions.files import ModelFile
from server.spec import GraphLevel, TensorSpec


@dataclass(frozen=True, slots=True)
class SessionPlan:
    """How to open one session. `data_folder` is the only place where external data may lie."""

    device: Literal["auto", "cpu", "cuda"]
    device_id: int
    threads: int
    gpu_memory_limit_bytes: int
    data_folder: str
    cuda_graphs: bool = False
    cores: tuple[int, ...] = ()
    """The cores a child is pinned to; none leaves it where the kernel wants it."""
    graph_level: GraphLevel = "all"
    parallel_threads: int = 0
    """Threads that run branches of the graph side by side; 0 runs one operator after the other."""
    tensorrt: Mapping[str, str] | None = None
    """TensorRT's parameters as config.pbtxt has them; None does without it."""
    engine_cache: str = ""
    """The directory in which built engines are kept; empty keeps none."""
    max_batch_size: int = 0
    """The largest batch that engines are built for."""


@dataclass(frozen=True, slots=True)
class ChildPlan:
    """How to start one child, the first time and every time after it died."""

    model: ModelFile
    session: SessionPlan
    load_timeout: float
    memory_limit_bytes: int
    area_limit_bytes: int


@dataclass(frozen=True, slots=True)
class Report:
    """What a child found when it opened the model."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    unserved: tuple[str, ...]
    provider: str
    note: str
    sha256: str
    seconds: float
    memory_bytes: int
    confined: bool
    """Whether system calls it never needs are refused to the child."""
