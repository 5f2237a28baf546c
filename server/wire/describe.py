"""What a served model is, said in the protocol's messages: metadata, configuration, statistics.

Pure translation of `ModelSpec` and `ModelStatistics`; nothing here decides anything.
"""

from collections.abc import Sequence

from server.catalog import ServedModel
from server.pb import model_config_pb2 as config_pb
from server.pb import open_inference_pb2 as pb
from server.spec import BatchPolicy, InstanceGroup, ModelSpec, QueuePolicy, TensorSpec, VersionPolicy
from server.statistics import Duration, ModelStatistics

Config = config_pb.ModelConfig
_KINDS = {
    "auto": config_pb.ModelInstanceGroup.KIND_AUTO,
    "cpu": config_pb.ModelInstanceGroup.KIND_CPU,
    "gpu": config_pb.ModelInstanceGroup.KIND_GPU,
}


def metadata(model: ServedModel, versions: Sequence[str]) -> pb.ModelMetadataResponse:
    """Describe a model's tensors; shapes include the batch dimension where there is one."""
    spec = model.spec
    return pb.ModelMetadataResponse(
        name=spec.name,
        versions=versions,
        platform=spec.platform,
        inputs=[_tensor(tensor) for tensor in spec.inputs],
        outputs=[_tensor(tensor) for tensor in spec.outputs],
        properties={"provider": model.provider, "precision": spec.precision},
    )


def config(spec: ModelSpec) -> Config:
    """Describe how a model is served, as Triton's ModelConfig; dims exclude the batch dimension.

    `dynamic_batching` is present where batches are formed: perf_analyzer takes its scheduler kind from it.
    """
    said = spec.config
    answer = Config(
        name=spec.name,
        platform=spec.platform,
        backend=said.backend,
        max_batch_size=spec.max_batch_size,
        default_model_filename=said.model_filename,
        version_policy=_version_policy(said.version_policy),
        instance_group=[_instance_group(group) for group in said.instance_groups],
        parameters={name: config_pb.ModelParameter(string_value=value) for name, value in said.parameters.items()},
    )
    for tensor in spec.inputs:
        answer.input.add(
            name=tensor.name, data_type=_data_type(tensor), dims=_dims(tensor, spec), optional=tensor.optional,
            reshape=_reshape(tensor),
        )  # fmt: skip
    for tensor in spec.outputs:
        answer.output.add(
            name=tensor.name, data_type=_data_type(tensor), dims=_dims(tensor, spec), reshape=_reshape(tensor)
        )
    if spec.batches:
        answer.dynamic_batching.CopyFrom(_batching(said.batching))
    if said.response_cache:
        answer.response_cache.enable = True
    for warmup in said.warmups:
        answer.model_warmup.add(name=warmup.name, batch_size=warmup.batch_size, count=warmup.count)
    return answer


def statistics(spec: ModelSpec, counted: ModelStatistics) -> pb.ModelStatistics:
    """Report a version's counters; every duration is in nanoseconds and only grows."""
    answer = pb.ModelStatistics(
        name=spec.name,
        version=spec.version,
        last_inference=counted.last_inference_ms,
        inference_count=counted.inference_count,
        execution_count=counted.execution_count,
        inference_stats=pb.InferStatistics(
            success=_duration(counted.success),
            fail=_duration(counted.fail),
            queue=_duration(counted.queue),
            compute_input=_duration(counted.compute_input),
            compute_infer=_duration(counted.compute_infer),
            compute_output=_duration(counted.compute_output),
            cache_hit=_duration(counted.cache_hit),
            cache_miss=_duration(counted.cache_miss),
        ),
    )
    for rows, batch in sorted(counted.batches.items()):
        answer.batch_stats.add(
            batch_size=rows,
            compute_input=_duration(batch.compute_input),
            compute_infer=_duration(batch.compute_infer),
            compute_output=_duration(batch.compute_output),
        )
    return answer


def _tensor(tensor: TensorSpec) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)


def _data_type(tensor: TensorSpec) -> str:
    return "TYPE_STRING" if tensor.datatype == "BYTES" else f"TYPE_{tensor.datatype}"


def _dims(tensor: TensorSpec, spec: ModelSpec) -> tuple[int, ...]:
    return tensor.shape[1:] if spec.batches else tensor.shape


def _reshape(tensor: TensorSpec) -> config_pb.ModelTensorReshape | None:
    return None if tensor.reshape is None else config_pb.ModelTensorReshape(shape=tensor.reshape)


def _duration(duration: Duration) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=duration.count, ns=duration.ns)


def _version_policy(policy: VersionPolicy) -> config_pb.ModelVersionPolicy:
    kinds = config_pb.ModelVersionPolicy
    if policy.kind == "all":
        return kinds(all=kinds.All())
    if policy.kind == "specific":
        return kinds(specific=kinds.Specific(versions=policy.versions))
    return kinds(latest=kinds.Latest(num_versions=policy.latest))


def _instance_group(group: InstanceGroup) -> config_pb.ModelInstanceGroup:
    return config_pb.ModelInstanceGroup(count=group.count, kind=_KINDS[group.kind], gpus=group.gpus)


def _batching(policy: BatchPolicy) -> config_pb.ModelDynamicBatching:
    return config_pb.ModelDynamicBatching(
        preferred_batch_size=policy.preferred_batch_sizes,
        max_queue_delay_microseconds=_microseconds(policy.max_queue_delay),
        preserve_ordering=policy.preserve_ordering,
        priority_levels=policy.priority_levels,
        default_priority_level=policy.default_priority_level,
        default_queue_policy=_queue_policy(policy.default_queue_policy),
        priority_queue_policy={
            level: _queue_policy(levels_own) for level, levels_own in policy.priority_queue_policies.items()
        },
    )


def _queue_policy(policy: QueuePolicy) -> config_pb.ModelQueuePolicy:
    return config_pb.ModelQueuePolicy(
        timeout_action=policy.timeout_action.upper(),
        default_timeout_microseconds=_microseconds(policy.default_timeout or 0.0),
        allow_timeout_override=policy.allow_timeout_override,
        max_queue_size=policy.max_queue_size,
    )


def _microseconds(seconds: float) -> int:
    return round(seconds * 1e6)
