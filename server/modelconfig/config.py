"""Triton's ModelConfig, as text or JSON, to ours: which fields are honoured, refused and ignored, and their ranges.

Field names and meanings are those of Triton's model_config.proto. A field that would change answers and that we do
not have (sequences, ensembles, a batch tensor made by the server, operators from a library) is refused; one that only
tunes how Triton runs a model is ignored and listed. This module must never know a file system or the ONNX file.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from server.modelconfig.fields import Fields
from server.modelconfig.optimization import read_optimization
from server.modelconfig.syntax import Word, read_json, read_text
from server.spec import (
    BatchPolicy,
    InstanceGroup,
    ModelConfig,
    QueuePolicy,
    TensorSpec,
    VersionPolicy,
    Warmup,
    WarmupInput,
)

MAX_BATCH_SIZE = 1 << 16
MAX_INSTANCES = 256
MAX_DELAY_MICROSECONDS = 60_000_000
"""A minute in the batcher: longer is a slip of the keyboard."""
MAX_TIMEOUT_MICROSECONDS = 86_400_000_000
MAX_QUEUE_SIZE = 1_000_000
MAX_PRIORITY_LEVELS = 1000
MAX_DIMENSION = (1 << 31) - 1
MAX_WARMUP_COUNT = 1000

_IGNORED_PARAMETERS = frozenset({
    "arena_extend_strategy", "cudnn_conv_algo_search", "do_copy_in_default_stream", "enable_mem_arena",
    "enable_mem_pattern", "gpu_mem_limit", "memory.enable_memory_arena_shrinkage",
})  # fmt: skip
"""What Triton's ONNX Runtime backend understands among `parameters`, and we do not; others are an operator's own."""

_DATATYPES = (
    "INVALID", "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64",
    "FP16", "FP32", "FP64", "STRING", "BF16",
)  # fmt: skip
_TYPE_NAMES = tuple(f"TYPE_{name}" for name in _DATATYPES)
_TYPES = {f"TYPE_{name}": "BYTES" if name == "STRING" else name for name in _DATATYPES[1:]}

_KIND_NAMES = ("KIND_AUTO", "KIND_GPU", "KIND_CPU", "KIND_MODEL")
_KINDS: dict[str, Literal["auto", "cpu", "gpu"]] = {
    "KIND_AUTO": "auto",
    "KIND_GPU": "gpu",
    "KIND_CPU": "cpu",
    "KIND_MODEL": "auto",
}
_ACTIONS: dict[str, Literal["reject", "delay"]] = {"REJECT": "reject", "DELAY": "delay"}
_REFUSED = {
    "sequence_batching": ("a model that keeps no state between requests", "a sequence model"),
    "ensemble_scheduling": ("a single ONNX model", "an ensemble"),
    "batch_input": ("inputs that come with the request", "one made by the server"),
    "batch_output": ("outputs split by rows", "one split by an input's shape"),
}

D = TypeVar("D")


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """What was read: the configuration, and the names of the label files by output, still to be opened."""

    config: ModelConfig
    label_files: Mapping[str, str]


def read_config(text: str, model: str, source: str = "") -> ConfigFile:
    """Read the text of a config.pbtxt; `model` is its directory's name.

    Raises:
        ModelLoadFailed: one sentence with file, line and field.
    """
    source = source or f"{model}/config.pbtxt"
    return _config(Fields(read_text(text, source), source), model)


def read_override(text: str, model: str) -> ConfigFile:
    """Read the JSON configuration that came with a load request; it takes the place of config.pbtxt.

    Parsed by `json` with bounds, not by protobuf's json_format, which recurses as deep as its input.

    Raises:
        ModelLoadFailed: one sentence with the field.
    """
    source = f"config of the load request for {model!r}"
    return _config(Fields(read_json(text, source), source, json=True), model)


def _config(fields: Fields, model: str) -> ConfigFile:
    _refuse_foreign(fields)
    _fixed(fields, "name", model)
    max_batch_size = fields.integer("max_batch_size", 0, MAX_BATCH_SIZE)
    inputs, _ = _tensors(fields, "input")
    outputs, label_files = _tensors(fields, "output")
    cache = fields.message("response_cache")
    optimization, ignored = read_optimization(fields)
    parameters = {key: value.text("string_value") for key, value in fields.mapping("parameters").items()}
    ignored += [f"parameters.{key}" for key in parameters if key in _IGNORED_PARAMETERS]
    config = ModelConfig(
        name=model,
        platform=_fixed(fields, "platform", "onnxruntime_onnx"),
        backend=_fixed(fields, "backend", "onnxruntime") or "onnxruntime",
        max_batch_size=max_batch_size,
        inputs=inputs,
        outputs=outputs,
        version_policy=_version_policy(fields),
        instance_groups=tuple(_instance_group(group) for group in fields.messages("instance_group")),
        batching=_batching(fields, max_batch_size),
        warmups=tuple(_warmup(warmup) for warmup in fields.messages("model_warmup")),
        response_cache=cache is not None and cache.boolean("enable"),
        model_filename=fields.file_name("default_model_filename") or "model.onnx",
        parameters=parameters,
        optimization=optimization,
    )
    return ConfigFile(replace(config, ignored=(*fields.unread(), *ignored)), label_files)


def _refuse_foreign(fields: Fields) -> None:
    """Refuse what would be answered wrongly without a field that we do not have."""
    for name in fields.given(*_REFUSED):
        expected, got = _REFUSED[name]
        fields.refuse(name, expected, Word(got))
    transaction = fields.message("model_transaction_policy")
    if transaction is not None and transaction.boolean("decoupled"):
        transaction.refuse("decoupled", "a model that answers each request once", Word("true"))
    operations = fields.message("model_operations")
    if operations is not None and operations.given("op_library_filename"):
        operations.refuse("op_library_filename", "ONNX Runtime's own operators only", Word("a library"))


def _fixed(fields: Fields, name: str, wanted: str) -> str:
    value = fields.text(name)
    if value and value != wanted:
        fields.refuse(name, repr(wanted), value)
    return value


def _tensors(fields: Fields, kind: Literal["input", "output"]) -> tuple[tuple[TensorSpec, ...], dict[str, str]]:
    tensors: dict[str, TensorSpec] = {}
    label_files: dict[str, str] = {}
    for tensor in fields.messages(kind):
        name = tensor.text("name")
        if not name or name in tensors:
            tensor.refuse("name", "a name of its own", name)
        reshape = tensor.message("reshape")
        tensors[name] = TensorSpec(
            name=name,
            datatype=tensor.choice("data_type", _TYPES, _TYPE_NAMES) or "",
            shape=_dims(tensor, "dims"),
            optional=kind == "input" and tensor.boolean("optional"),
            reshape=None if reshape is None else _dims(reshape, "shape"),
        )
        if kind == "output" and (file := tensor.file_name("label_filename")):
            label_files[name] = file
    return tuple(tensors.values()), label_files


def _dims(fields: Fields, name: str) -> tuple[int, ...]:
    dims = fields.integers(name, -1, MAX_DIMENSION)
    if 0 in dims:
        fields.refuse(name, "sizes of at least 1, or -1 for variable", list(dims))
    return dims


def _version_policy(fields: Fields) -> VersionPolicy:
    policy = fields.message("version_policy")
    if policy is None:
        return VersionPolicy()
    given = policy.given("latest", "all", "specific")
    if len(given) != 1:
        fields.refuse("version_policy", "one of latest, all, specific", Word(" and ".join(given) or "none"))
    if given == ["all"]:
        policy.message("all")
        return VersionPolicy("all")
    if given == ["latest"]:
        latest = policy.message("latest")
        return VersionPolicy("latest", latest=_or(latest.integer("num_versions", 1, 1 << 31) if latest else None, 1))
    specific = policy.message("specific")
    versions = specific.integers("versions", 1, (1 << 63) - 1) if specific else ()
    if not versions:
        policy.refuse("specific", "versions", Word("none"))
    return VersionPolicy("specific", versions=tuple(sorted(set(versions))))


def _instance_group(group: Fields) -> InstanceGroup:
    group.text("name")  # a label in Triton's log: nothing to honour
    kind = group.choice("kind", _KINDS, _KIND_NAMES) or "auto"
    gpus = group.integers("gpus", 0, 1023)
    if gpus and kind == "cpu":
        group.refuse("gpus", "none with KIND_CPU", list(gpus))
    return InstanceGroup(_or(group.integer("count", 1, MAX_INSTANCES), 1), kind, gpus)


def _batching(fields: Fields, max_batch_size: int | None) -> BatchPolicy:
    batching = fields.message("dynamic_batching")
    if batching is None:
        return BatchPolicy()
    levels = _or(batching.integer("priority_levels", 0, MAX_PRIORITY_LEVELS), 0)
    default_level = _or(batching.integer("default_priority_level", 0, MAX_PRIORITY_LEVELS), 0)
    if levels and not 1 <= default_level <= levels:
        batching.refuse("default_priority_level", f"a level from 1 to {levels}", default_level)
    default_policy = batching.message("default_queue_policy")
    return BatchPolicy(
        enabled=True,
        preferred_batch_sizes=batching.integers("preferred_batch_size", 1, max_batch_size or MAX_BATCH_SIZE),
        max_queue_delay=_or(batching.integer("max_queue_delay_microseconds", 0, MAX_DELAY_MICROSECONDS), 0) / 1e6,
        preserve_ordering=batching.boolean("preserve_ordering"),
        priority_levels=levels,
        default_priority_level=default_level,
        default_queue_policy=QueuePolicy() if default_policy is None else _queue_policy(default_policy),
        priority_queue_policies=_priority_policies(batching, levels),
    )


def _priority_policies(batching: Fields, levels: int) -> dict[int, QueuePolicy]:
    policies: dict[int, QueuePolicy] = {}
    for key, policy in batching.mapping("priority_queue_policy").items():
        level = int(key) if key.isascii() and key.isdigit() and len(key) < 10 else 0
        if not 1 <= level <= levels:
            batching.refuse("priority_queue_policy", f"a level from 1 to {levels}", key)
        policies[level] = _queue_policy(policy)
    return policies


def _queue_policy(policy: Fields) -> QueuePolicy:
    timeout = policy.integer("default_timeout_microseconds", 0, MAX_TIMEOUT_MICROSECONDS)
    return QueuePolicy(
        max_queue_size=_or(policy.integer("max_queue_size", 0, MAX_QUEUE_SIZE), 0),
        default_timeout=timeout / 1e6 if timeout else None,
        allow_timeout_override=policy.boolean("allow_timeout_override"),
        timeout_action=policy.choice("timeout_action", _ACTIONS, ("REJECT", "DELAY")) or "reject",
    )


def _warmup(warmup: Fields) -> Warmup:
    name = warmup.text("name")
    inputs = {key: _warmup_input(value) for key, value in warmup.mapping("inputs").items()}
    if not inputs:
        warmup.refuse("inputs", "at least one input", Word("none"))
    return Warmup(
        name=name,
        batch_size=_or(warmup.integer("batch_size", 0, MAX_BATCH_SIZE), 0),
        count=_or(warmup.integer("count", 0, MAX_WARMUP_COUNT), 0) or 1,
        inputs=inputs,
    )


def _warmup_input(tensor: Fields) -> WarmupInput:
    datatype = tensor.choice("data_type", _TYPES, _TYPE_NAMES) or ""
    dims = tensor.integers("dims", 1, MAX_DIMENSION)
    given = tensor.given("zero_data", "random_data", "input_data_file")
    if len(given) != 1:
        tensor.refuse(
            "zero_data", "one of zero_data, random_data, input_data_file", Word(" and ".join(given) or "none")
        )
    if file := tensor.file_name("input_data_file"):
        return WarmupInput(datatype, dims, "file", file)
    tensor.boolean("zero_data")
    return WarmupInput(datatype, dims, "random" if tensor.boolean("random_data") else "zero")


def _or(value: D | None, default: D) -> D:
    return default if value is None else value
