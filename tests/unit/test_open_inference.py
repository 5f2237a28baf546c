import struct

import pytest

from server.errors import ModelLoadFailed
from server.pb import open_inference_pb2 as pb
from server.spec import BatchPolicy, InstanceGroup, QueuePolicy, TensorSpec
from server.statistics import BatchStatistics, Duration
from server.transports.base import StatusCode, StatusError
from server.wire.classification import classify
from server.wire.services import INFERENCE, JOBS, paths
from tests import wire
from tests.wire import Bench

PATH = paths(INFERENCE)


@pytest.fixture
def bench():
    return Bench()


def ask(bench, rpc, **fields):
    request = getattr(pb, f"{rpc}Request")(**fields)
    return bench.ask(PATH[rpc], request, getattr(pb, f"{rpc}Response"))


async def refused(bench, rpc, **fields):
    with pytest.raises(StatusError) as error:
        await ask(bench, rpc, **fields)
    return error.value.code, error.value.details


async def test_live_and_ready_follow_the_lifecycle_and_the_models(bench):
    assert (await ask(bench, "ServerLive")).live
    assert (await ask(bench, "ServerReady")).ready

    bench.catalog.absent.add("mnist")
    assert not (await ask(bench, "ServerReady")).ready

    bench.catalog.absent.clear()
    bench.lifecycle.set(draining=True)
    assert not (await ask(bench, "ServerReady")).ready
    assert not (await ask(bench, "ModelReady", name="churn")).ready


@pytest.mark.parametrize(
    ("name", "version", "ready"),
    [("churn", "", True), ("churn", "1", True), ("churn", "2", False), ("nobody", "", False), ("mnist", "", False)],
)
async def test_a_model_that_would_not_answer_is_not_ready_rather_than_an_error(bench, name, version, ready):
    bench.catalog.absent.add("mnist")

    assert (await ask(bench, "ModelReady", name=name, version=version)).ready is ready


async def test_server_metadata_lists_only_what_is_implemented(bench):
    answer = await ask(bench, "ServerMetadata")

    assert (answer.name, answer.version) == ("sluice", "0.1.0")
    assert "statistics" in answer.extensions
    assert not {"sequence", "trace", "cuda_shared_memory", "system_shared_memory"} & set(answer.extensions)


async def test_metadata_shapes_include_the_batch_and_config_dims_do_not(bench):
    metadata = await ask(bench, "ModelMetadata", name="mnist")
    config = (await ask(bench, "ModelConfig", name="mnist")).config

    assert (metadata.name, list(metadata.versions), metadata.platform) == ("mnist", ["1"], "onnx_onnxv1")
    assert list(metadata.inputs[0].shape) == [-1, 28, 28]
    assert list(config.input[0].dims) == [28, 28]
    assert config.max_batch_size == 8
    assert config.HasField("dynamic_batching")


async def test_a_config_says_what_the_operator_wrote(bench):
    batching = BatchPolicy(
        enabled=True, preferred_batch_sizes=(4, 8), max_queue_delay=0.0005, priority_levels=2, default_priority_level=1,
        default_queue_policy=QueuePolicy(max_queue_size=9, default_timeout=0.25, timeout_action="delay"),
        priority_queue_policies={2: QueuePolicy(max_queue_size=3)},
    )  # fmt: skip
    made = wire.spec(
        "m", [("s", "BYTES", (-1, 2))], [("y", "BF16", (-1,))],
        batching=batching, instance_groups=(InstanceGroup(2, "gpu", (0, 1)),), response_cache=True,
        parameters={"a": "b"},
    )  # fmt: skip
    bench.catalog.put(made)
    config = (await ask(bench, "ModelConfig", name="m")).config

    assert list(config.dynamic_batching.preferred_batch_size) == [4, 8]
    assert config.dynamic_batching.max_queue_delay_microseconds == 500
    assert config.dynamic_batching.default_queue_policy.default_timeout_microseconds == 250_000
    assert config.dynamic_batching.default_queue_policy.timeout_action == 1
    assert config.dynamic_batching.priority_queue_policy[2].max_queue_size == 3
    assert (config.instance_group[0].count, list(config.instance_group[0].gpus)) == (2, [0, 1])
    assert (config.input[0].data_type, config.output[0].data_type) == (13, 14)
    assert config.response_cache.enable
    assert config.parameters["a"].string_value == "b"


async def test_a_model_without_a_batch_has_max_batch_size_zero_and_no_batching(bench):
    bench.catalog.put(wire.spec("flat", [("x", "FP32", (2, 3))], [], max_batch_size=0))
    config = (await ask(bench, "ModelConfig", name="flat")).config

    assert (config.HasField("max_batch_size"), config.max_batch_size) == (True, 0)
    assert not config.HasField("dynamic_batching")
    assert list(config.input[0].dims) == [2, 3]


@pytest.mark.parametrize("name", ["ModelMetadata", "ModelConfig", "ModelStatistics"])
async def test_what_is_unknown_is_not_found(bench, name):
    assert (await refused(bench, name, name="nobody"))[0] is StatusCode.NOT_FOUND
    assert (await refused(bench, name, name="churn", version="7"))[0] is StatusCode.NOT_FOUND
    assert (await refused(bench, name, name="churn", version="new"))[0] is StatusCode.INVALID_ARGUMENT


async def test_statistics_are_the_counters(bench):
    counted = bench.catalog.models["churn"]["1"].counted
    counted.inference_count, counted.execution_count = 30, 4
    counted.queue = Duration(12, 5000)
    counted.batches[8] = BatchStatistics()
    counted.batches[8].compute_infer.add(0.001, 3)
    answer = (await ask(bench, "ModelStatistics", name="churn")).model_stats

    assert [(s.name, s.version, s.inference_count, s.execution_count) for s in answer] == [("churn", "1", 30, 4)]
    assert (answer[0].inference_stats.queue.count, answer[0].inference_stats.queue.ns) == (12, 5000)
    assert [(b.batch_size, b.compute_infer.count, b.compute_infer.ns) for b in answer[0].batch_stats] == [
        (8, 3, 1_000_000)
    ]


async def test_statistics_of_everything_name_every_version_in_service(bench):
    bench.catalog.put(wire.spec("churn", [], [], version="12"))
    answer = await ask(bench, "ModelStatistics")

    assert {(s.name, s.version) for s in answer.model_stats} == {
        ("churn", "1"), ("churn", "12"), ("mnist", "1"), ("sentiment", "1"),
    }  # fmt: skip


async def test_the_index_lists_what_does_not_serve_unless_only_ready_is_asked(bench):
    bench.catalog.absent.add("broken")
    every = (await ask(bench, "RepositoryIndex")).models
    ready = (await ask(bench, "RepositoryIndex", ready=True)).models

    assert ("broken", "UNAVAILABLE", "load failed") in [(m.name, m.state, m.reason) for m in every]
    assert "broken" not in [m.name for m in ready]
    assert (await refused(bench, "RepositoryIndex", repository_name="other"))[0] is StatusCode.NOT_FOUND


async def test_load_and_unload_pass_on_plain_values(bench):
    request = pb.RepositoryModelLoadRequest(model_name="churn")
    request.parameters["config"].string_param = '{"max_batch_size": 4}'
    request.parameters["file:1/model.onnx"].bytes_param = b"\x08\x09"
    await bench.ask(PATH["RepositoryModelLoad"], request, pb.RepositoryModelLoadResponse)
    await ask(bench, "RepositoryModelUnload", model_name="mnist")

    assert bench.catalog.loaded == [("churn", {"config": '{"max_batch_size": 4}', "file:1/model.onnx": b"\x08\x09"})]
    assert bench.catalog.unloaded == ["mnist"]


async def test_a_failed_load_says_why(bench):
    async def load(_, __):
        raise ModelLoadFailed("model 'churn' version 2: golden vector 3 is off by 0.1")

    bench.catalog.load = load
    code, details = await refused(bench, "RepositoryModelLoad", model_name="churn")

    assert code is StatusCode.FAILED_PRECONDITION
    assert "golden vector 3" in details


async def test_an_unforeseen_error_is_internal_and_keeps_its_text(bench):
    async def load(_, __):
        raise KeyError("/secret/path")

    bench.catalog.load = load
    code, details = await refused(bench, "RepositoryModelLoad", model_name="churn")

    assert code is StatusCode.INTERNAL
    assert "secret" not in details
    assert bench.recorder.outcomes[-1].code is StatusCode.INTERNAL


async def test_the_log_level_can_be_read_and_changed(bench):
    assert (await ask(bench, "LogSettings")).settings["log_info"].bool_param

    request = pb.LogSettingsRequest()
    request.settings["log_verbose_level"].uint32_param = 1
    answer = await bench.ask(PATH["LogSettings"], request, pb.LogSettingsResponse)

    assert (answer.settings["log_verbose_level"].uint32_param, bench.level.level) == (1, "debug")


@pytest.mark.parametrize(("name", "value"), [("level", "loud"), ("log_verbose_level", "1")])
async def test_other_log_settings_are_refused(bench, name, value):
    request = pb.LogSettingsRequest()
    request.settings[name].string_param = value
    with pytest.raises(StatusError) as error:
        await bench.ask(PATH["LogSettings"], request, pb.LogSettingsResponse)

    assert error.value.code is StatusCode.INVALID_ARGUMENT
    assert bench.level.level == "info"


@pytest.mark.parametrize(
    "name", ["TraceSetting", "CudaSharedMemoryStatus", "CudaSharedMemoryRegister", "SystemSharedMemoryRegister"]
)
async def test_what_is_not_offered_says_so(bench, name):
    assert (await refused(bench, name))[0] is StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("method", ["Submit", "Get", "Cancel", "List", "ListDead", "RetryDead", "DropDead"])
async def test_jobs_without_redis_say_what_to_start(bench, method):
    with pytest.raises(StatusError, match="--queue redis://HOST:PORT/DB") as error:
        await bench.ask(paths(JOBS)[method], b"", pb.ServerLiveResponse)

    assert error.value.code is StatusCode.FAILED_PRECONDITION


async def test_a_rare_rpc_takes_no_large_message(bench):
    with pytest.raises(StatusError, match="at most 1048576 bytes") as error:
        await bench.ask(PATH["ModelReady"], b"\x0a\x80\x80\x80\x01" + bytes(2 << 20), pb.ModelReadyResponse)

    assert error.value.code is StatusCode.RESOURCE_EXHAUSTED


def test_classification_is_the_best_k_with_labels():
    values = struct.pack("<6f", 0.1, 0.7, 0.2, 0.5, 0.5, -1.0)
    top = classify(wire.Tensor("p", "FP32", (2, 3), values), 2, ("cat", "dog"), batched=True)

    assert (top.datatype, top.shape) == ("BYTES", (2, 2))
    assert bytes(top.data) == wire.text(b"0.700000:1:dog", b"0.200000:2", b"0.500000:0:cat", b"0.500000:1:dog")


@pytest.mark.parametrize(
    ("datatype", "raw", "best"),
    [
        ("UINT64", b"\xff" * 8 + bytes(8), b"18446744073709551615:0"),
        ("INT8", b"\x80\x7f", b"127:1"),
        ("FP16", b"\x00\x3c\x00\xbc", b"1.000000:0"),
        ("BF16", b"\x00\x3f\x80\x3f", b"1.000000:1"),
    ],
)
def test_classification_of_other_datatypes(datatype, raw, best):
    assert bytes(classify(wire.Tensor("p", datatype, (2,), raw), 1, (), batched=False).data) == wire.text(best)


def test_classification_is_asked_for_per_output():
    labelled = wire.spec("m", [("x", "FP32", (-1,))], [("p", "FP32", (-1, 2)), ("q", "FP32", (-1, 2))])
    labels = tuple(TensorSpec(t.name, t.datatype, t.shape, labels=("no", "yes")) for t in labelled.outputs)
    bench = Bench(type(labelled)("m", "1", "", labelled.inputs, labels, 8, labelled.config))
    request = wire.message(labelled, rows=2)
    request.outputs.add(name="q").parameters["classification"].int64_param = 5
    request.outputs.add(name="p")
    answer = bench.infer(request)

    assert [(o.name, o.datatype, list(o.shape)) for o in answer.outputs] == [
        ("q", "BYTES", [2, 2]),
        ("p", "FP32", [2, 2]),
    ]
    assert answer.raw_output_contents[0] == wire.text(*[b"0.000000:0:no", b"0.000000:1:yes"] * 2)
