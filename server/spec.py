"""What a model promises and how its operator wants it served: values only, no behaviour.

`ModelConfig` is what config.pbtxt says (Triton's ModelConfig, the part we honour); `ModelSpec` is what is really
served once the gaps in it are filled from the ONNX file. Neither knows protobuf: `modelconfig.py` reads the text.
Durations are seconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal

EMPTY: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output. `shape` includes the batch dimension where the model has one; -1 is variable."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    optional: bool = False
    labels: tuple[str, ...] = ()
    """Class names for the classification extension, from `label_filename`."""
    reshape: tuple[int, ...] | None = None
    """Triton's `reshape`: the shape (without batch) the ONNX graph itself has, where it differs."""


@dataclass(frozen=True, slots=True)
class QueuePolicy:
    """Triton's ModelQueuePolicy; `max_queue_size` counts requests, 0 means the server's own bound."""

    max_queue_size: int = 0
    default_timeout: float | None = None
    allow_timeout_override: bool = False
    timeout_action: Literal["reject", "delay"] = "reject"


@dataclass(frozen=True, slots=True)
class BatchPolicy:
    """Triton's ModelDynamicBatching. `priority_levels` 0 means one class; level 1 is the most urgent."""

    enabled: bool = False
    preferred_batch_sizes: tuple[int, ...] = ()
    max_queue_delay: float = 0.0
    preserve_ordering: bool = False
    priority_levels: int = 0
    default_priority_level: int = 0
    default_queue_policy: QueuePolicy = QueuePolicy()
    priority_queue_policies: Mapping[int, QueuePolicy] = field(default_factory=dict)

    def queue_policy(self, priority: int) -> QueuePolicy:
        """Return the policy that holds for one priority level."""
        return self.priority_queue_policies.get(priority, self.default_queue_policy)


@dataclass(frozen=True, slots=True)
class InstanceGroup:
    """`count` sessions of one kind; `gpus` names the devices where kind is gpu."""

    count: int = 1
    kind: Literal["auto", "cpu", "gpu"] = "auto"
    gpus: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class VersionPolicy:
    """Which version directories are served: the newest n, all, or the ones named."""

    kind: Literal["latest", "all", "specific"] = "latest"
    latest: int = 1
    versions: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class WarmupInput:
    """One input of a warm-up request; `dims` exclude the batch dimension."""

    datatype: str
    dims: tuple[int, ...]
    source: Literal["zero", "random", "file"] = "zero"
    file: str = ""


@dataclass(frozen=True, slots=True)
class Warmup:
    """Triton's ModelWarmup: one sample, run `count` times at `batch_size` before the version serves."""

    name: str
    batch_size: int
    count: int
    inputs: Mapping[str, WarmupInput]


GraphLevel = Literal["none", "basic", "extended", "all"]


@dataclass(frozen=True, slots=True)
class Optimization:
    """Triton's ModelOptimizationPolicy. `tensorrt` holds its parameters where TensorRT is asked for, else it is None.

    `graph_level` says which of ONNX Runtime's graph optimisations run before the first request.
    """

    graph_level: GraphLevel = "all"
    tensorrt: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """What config.pbtxt says. None or empty means: not said, fill it from the ONNX file.

    The shapes of `inputs` and `outputs` here exclude the batch dimension, as in Triton.
    `ignored` lists the fields that were set and are not honoured, to be logged once.
    """

    name: str
    platform: str = ""
    backend: str = "onnxruntime"
    max_batch_size: int | None = None
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    version_policy: VersionPolicy = VersionPolicy()
    instance_groups: tuple[InstanceGroup, ...] = ()
    batching: BatchPolicy = BatchPolicy()
    warmups: tuple[Warmup, ...] = ()
    response_cache: bool = False
    model_filename: str = "model.onnx"
    parameters: Mapping[str, str] = field(default_factory=lambda: EMPTY)
    ignored: tuple[str, ...] = ()
    optimization: Optimization = Optimization()


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A version directory found in the store, not yet loaded."""

    config: ModelConfig
    version: str
    directory: Path
    model_file: Path


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One model version as it is served. `max_batch_size` 0 means it has no batch dimension.

    Until the knee of the cost curve is known, a batching model whose config names no size has `max_batch_size`
    equal to the largest size that is tried.
    """

    name: str
    version: str
    platform: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int
    config: ModelConfig

    @property
    def batches(self) -> bool:
        """Whether the first dimension of every tensor is the batch."""
        return self.max_batch_size > 0

    @property
    def precision(self) -> str:
        """Which file of the version serves: fp32, the model file, or fp16, the one in half precision."""
        return self.config.parameters.get("precision", "fp32")
