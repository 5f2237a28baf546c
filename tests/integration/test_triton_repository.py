"""A repository written for Triton by somebody who has never heard of us serves as it is.

What a Triton user keeps in one: ONNX models tuned with every field there is, and beside them ensembles, Python models
and TensorRT plans, which are not ours to serve and must cost the others nothing.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import onnx.helper
import pytest

from server.pb import open_inference_pb2 as oip
from tests import models
from tests import oip as wire
from tests.models import constant, value
from tests.server_process import ServerProcess, serve

CONFIGS = {
    "ranker": """
name: "ranker"
platform: "onnxruntime_onnx"
max_batch_size: 16
input [ { name: "x" data_type: TYPE_FP32 format: FORMAT_NONE dims: [ 3 ] } ]
output [ { name: "scores" data_type: TYPE_FP32 dims: [ 3 ] label_filename: "classes.txt" } ]
version_policy: { specific: { versions: [ 1, 3 ] } }
instance_group [ { count: 2 kind: KIND_CPU } ]
dynamic_batching {
  preferred_batch_size: [ 4, 8 ]
  max_queue_delay_microseconds: 500
  default_queue_policy { timeout_action: REJECT default_timeout_microseconds: 5000000 allow_timeout_override: true }
}
optimization {
  graph { level: -1 }
  execution_accelerators { gpu_execution_accelerator : [ {
    name : "tensorrt"
    parameters { key: "precision_mode" value: "FP16" }
    parameters { key: "trt_engine_cache_path" value: "/var/cache/engines" }
  } ] }
  input_pinned_memory { enable: true }
}
parameters { key: "intra_op_thread_count" value: { string_value: "1" } }
parameters { key: "enable_mem_arena" value: { string_value: "0" } }
model_warmup [ { name: "warm" batch_size: 4 inputs {
  key: "x" value: { data_type: TYPE_FP32 dims: 3 random_data: true } } } ]
""",
    "shout": """
backend: "onnxruntime"
max_batch_size: 4
input { name: "text" data_type: TYPE_STRING dims: [ 1 ] }
output { name: "upper" data_type: TYPE_STRING dims: [ 1 ] }
dynamic_batching { }
model_warmup { name: "from file" batch_size: 1 inputs {
  key: "text" value { data_type: TYPE_STRING dims: [ 1 ] input_data_file: "text" } } }
response_cache { enable: true }
""",
    "whole": """
name: "whole"
platform: "onnxruntime_onnx"
max_batch_size: 0
input [ { name: "x" data_type: TYPE_FP32 dims: [ 3 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 3 ] } ]
instance_group { kind: KIND_AUTO }
""",
    "pipeline": """
name: "pipeline"
platform: "ensemble"
max_batch_size: 16
input [ { name: "x" data_type: TYPE_FP32 dims: [ 3 ] } ]
output [ { name: "scores" data_type: TYPE_FP32 dims: [ 3 ] } ]
ensemble_scheduling { step [ {
  model_name: "ranker" model_version: -1
  input_map { key: "x" value: "x" } output_map { key: "scores" value: "scores" } } ] }
""",
    "tokenizer": """
name: "tokenizer"
backend: "python"
max_batch_size: 8
input [ { name: "text" data_type: TYPE_STRING dims: [ 1 ] } ]
output [ { name: "ids" data_type: TYPE_INT64 dims: [ -1 ] } ]
""",
    "compiled": 'name: "compiled" platform: "tensorrt_plan" max_batch_size: 8',
}
FILES = {"tokenizer": "model.py", "compiled": "model.plan"}


def ranker(version: int) -> bytes:
    """`scores = x * version`."""
    node = onnx.helper.make_node("Mul", ["x", "factor"], ["scores"])
    tensors = [value("x", "FP32", ["N", 3])], [value("scores", "FP32", ["N", 3])]
    return models.model([node], *tensors, [constant("factor", np.float32([version]))])


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServerProcess, wire.Stub]]:
    root = tmp_path_factory.mktemp("triton") / "repository"
    for name, config in CONFIGS.items():
        (root / name).mkdir(parents=True)
        (root / name / "config.pbtxt").write_text(config)
    for version in (1, 2, 3):
        models.write_version(root / "ranker" / str(version), ranker(version))
    (root / "ranker" / "classes.txt").write_text("no\nperhaps\nyes\n")
    models.write_version(root / "shout" / "1", models.upper())
    (root / "shout" / "warmup").mkdir()
    (root / "shout" / "warmup" / "text").write_bytes(wire.strings(["warm"]))
    models.write_version(root / "whole" / "1", models.without_batch())
    (root / "pipeline" / "1").mkdir()
    for name, file in FILES.items():
        (root / name / "1").mkdir()
        (root / name / "1" / file).write_bytes(b"not for us")
    with serve("--strict-readiness", "false", store=root) as server, server.channel() as channel:
        yield server, wire.Stub(channel)


def rank(stub: wire.Stub, x: np.ndarray, **fields: object) -> oip.ModelInferResponse:
    return stub.ModelInfer(wire.request("ranker", [("x", "FP32", x.shape, x.tobytes())], **fields))


def test_versions_are_those_the_policy_names(triton: tuple[ServerProcess, wire.Stub]) -> None:
    _, stub = triton
    x = np.float32([[1, 2, 3]])

    assert list(stub.ModelMetadata(oip.ModelMetadataRequest(name="ranker")).versions) == ["1", "3"]
    for version, factor in (("", 3), ("1", 1), ("3", 3)):
        answer = rank(stub, x, model_version=version)
        assert (wire.outputs(answer)["scores"] == x * factor).all()
    with pytest.raises(grpc.RpcError) as absent:
        rank(stub, x, model_version="2")
    assert absent.value.code() is grpc.StatusCode.NOT_FOUND


def test_batches_of_many_callers_give_each_its_own(triton: tuple[ServerProcess, wire.Stub]) -> None:
    _, stub = triton

    def ask(number: int) -> bool:
        x = np.full((1 + number % 5, 3), number, np.float32)
        return bool((wire.outputs(rank(stub, x))["scores"] == x * 3).all())

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(ask, range(200)))


def test_classes_come_from_the_label_file(triton: tuple[ServerProcess, wire.Stub]) -> None:
    _, stub = triton
    x = np.float32([[1, 3, 2]])
    request = wire.request("ranker", [("x", "FP32", x.shape, x.tobytes())])
    wanted = request.outputs.add(name="scores")
    wanted.parameters["classification"].int64_param = 2

    answer = stub.ModelInfer(request)

    assert answer.raw_output_contents[0] == wire.strings(["9.000000:1:perhaps", "6.000000:2:yes"])


def test_a_model_of_text_and_one_without_a_batch_answer_right(triton: tuple[ServerProcess, wire.Stub]) -> None:
    _, stub = triton
    text = [("text", "BYTES", (2, 1), wire.strings(["quiet", "please"]))]
    x = np.float32([1, 2, 3])

    for _ in range(2):  # the second is an answer known already
        assert stub.ModelInfer(wire.request("shout", text)).raw_output_contents[0] == wire.strings(["QUIET", "PLEASE"])
    whole = stub.ModelInfer(wire.request("whole", [("x", "FP32", (3,), x.tobytes())]))
    assert list(whole.outputs[0].shape) == [3]
    assert (wire.outputs(whole)["y"] == 2 * x).all()


def test_what_is_not_onnx_is_refused_in_one_sentence_and_the_rest_serves(
    triton: tuple[ServerProcess, wire.Stub],
) -> None:
    _, stub = triton
    index = {
        (entry.name, entry.version): (entry.state, entry.reason)
        for entry in stub.RepositoryIndex(oip.RepositoryIndexRequest()).models
    }
    refused = {name: reason for (name, _), (state, reason) in index.items() if state == "UNAVAILABLE"}

    assert {key for key, (state, _) in index.items() if state == "READY"} == {
        ("ranker", "1"), ("ranker", "3"), ("shout", "1"), ("whole", "1"),
    }  # fmt: skip
    assert refused == {
        "pipeline": "pipeline/config.pbtxt line 7: ensemble_scheduling: expected a single ONNX model, got an ensemble",
        "tokenizer": "tokenizer/config.pbtxt line 3: backend: expected 'onnxruntime', got 'python'",
        "compiled": "compiled/config.pbtxt line 1: platform: expected 'onnxruntime_onnx', got 'tensorrt_plan'",
    }
    with pytest.raises(grpc.RpcError) as asked:
        stub.ModelInfer(wire.request("tokenizer", [("text", "BYTES", (1, 1), wire.strings(["x"]))]))
    assert asked.value.code() is grpc.StatusCode.UNAVAILABLE
    assert asked.value.details() == f"model 'tokenizer' is not in service: {refused['tokenizer']}"


def test_what_is_ignored_is_said_once_and_what_could_not_be_had_too(triton: tuple[ServerProcess, wire.Stub]) -> None:
    server, _ = triton
    (ignored,) = [line for line in server.log if "config_fields_ignored" in line]
    loaded = [line for line in server.log if "model_loaded" in line and '"ranker"' in line]

    assert '"ranker"' in ignored
    for field in ("input.format", "optimization.input_pinned_memory", "tensorrt.trt_engine_cache_path",
                  "parameters.enable_mem_arena"):  # fmt: skip
        assert field in ignored
    assert "intra_op_thread_count" not in ignored
    assert len(loaded) == 2
    assert all("instances=2, threads=1" in line for line in loaded)


def test_the_configuration_is_given_back_as_it_is_served(triton: tuple[ServerProcess, wire.Stub]) -> None:
    _, stub = triton
    config = stub.ModelConfig(oip.ModelConfigRequest(name="ranker")).config

    assert (config.max_batch_size, list(config.dynamic_batching.preferred_batch_size)) == (16, [4, 8])
    assert config.instance_group[0].count == 2
    assert list(config.version_policy.specific.versions) == [1, 3]
    assert stub.ModelConfig(oip.ModelConfigRequest(name="whole")).config.max_batch_size == 0
