import json
from pathlib import Path

import pytest
from google.protobuf import json_format, text_format
from hypothesis import given
from hypothesis import strategies as st

from server.errors import ModelLoadFailed
from server.modelconfig import read_config, read_override, resolve
from server.modelconfig.syntax import MAX_CHARACTERS, MAX_DEPTH, Entry, Message, Word, read_text
from server.pb import model_config_pb2 as pb
from server.spec import (
    BatchPolicy,
    InstanceGroup,
    ModelConfig,
    ModelVersion,
    Optimization,
    QueuePolicy,
    TensorSpec,
    VersionPolicy,
    Warmup,
    WarmupInput,
)

TRITON = r"""
# Written by hand for Triton; nothing in it was made for us.
name: "ranker"
platform: "onnxruntime_onnx"
backend: "onnxruntime"
max_batch_size: 32
default_model_filename: "model.onnx"
input [
  { name: "user" data_type: TYPE_INT64 dims: [ 1 ] reshape: { shape: [ ] } },
  { name: "items", data_type: TYPE_FP32; dims: [ -1, 16 ] format: FORMAT_NONE }
]
input { name: 'text' data_type: TYPE_STRING dims: 1 optional: true }
output [ { name: "scores" data_type: TYPE_FP32 dims: [ 3 ] label_filename: "labels.txt" } ]
instance_group [
  { count: 2 kind: KIND_CPU },
  { count: 1 kind: KIND_GPU gpus: [ 0, 1 ] rate_limiter { resources [ { name: "R1" count: 4 } ] priority: 2 } }
]
dynamic_batching {
  preferred_batch_size: [ 8, 16 ]
  max_queue_delay_microseconds: 500
  preserve_ordering: true
  priority_levels: 3
  default_priority_level: 2
  default_queue_policy { timeout_action: REJECT default_timeout_microseconds: 100000 allow_timeout_override: true }
  priority_queue_policy { key: 1 value: { max_queue_size: 64 timeout_action: DELAY } }
}
version_policy: { specific: { versions: [ 3, 1 ] } }
optimization {
  execution_accelerators { gpu_execution_accelerator : [ {
    name : "tensorrt"
    parameters { key: "precision_mode" value: "FP16" } parameters { key: "trt_engine_cache_path" value: "here" }
  } ] }
  graph { level: 1 }
  cuda { graphs: true }
  priority: PRIORITY_MAX
}
parameters { key: "note" value: { string_value: "caf\303\251 " 'and "more"' } }
metric_tags { key: "team" value: "ranking" }
model_warmup [
  {
    name: "w" batch_size: 4 count: 2
    inputs { key: "items" value: { data_type: TYPE_FP32 dims: [ 5, 16 ] random_data: true } }
  }
]
response_cache { enable: true }
model_transaction_policy { decoupled: False }
field_of_a_newer_triton { a: 1 b: < c: 0x10 > }
"""


def test_a_hand_written_triton_config_is_read_as_it_is():
    file = read_config(TRITON, "ranker")

    assert file.label_files == {"scores": "labels.txt"}
    assert file.config == ModelConfig(
        name="ranker",
        platform="onnxruntime_onnx",
        backend="onnxruntime",
        max_batch_size=32,
        inputs=(
            TensorSpec("user", "INT64", (1,), reshape=()),
            TensorSpec("items", "FP32", (-1, 16)),
            TensorSpec("text", "BYTES", (1,), optional=True),
        ),
        outputs=(TensorSpec("scores", "FP32", (3,)),),
        version_policy=VersionPolicy("specific", versions=(1, 3)),
        instance_groups=(InstanceGroup(2, "cpu"), InstanceGroup(1, "gpu", (0, 1))),
        batching=BatchPolicy(
            enabled=True,
            preferred_batch_sizes=(8, 16),
            max_queue_delay=0.0005,
            preserve_ordering=True,
            priority_levels=3,
            default_priority_level=2,
            default_queue_policy=QueuePolicy(default_timeout=0.1, allow_timeout_override=True),
            priority_queue_policies={1: QueuePolicy(max_queue_size=64, timeout_action="delay")},
        ),
        warmups=(Warmup("w", 4, 2, {"items": WarmupInput("FP32", (5, 16), "random")}),),
        response_cache=True,
        model_filename="model.onnx",
        parameters={"note": 'café and "more"'},
        ignored=(
            "metric_tags",
            "field_of_a_newer_triton",
            "input.format",
            "optimization.cuda",
            "optimization.priority",
            "instance_group.rate_limiter",
            "optimization.execution_accelerators.gpu_execution_accelerator.tensorrt.trt_engine_cache_path",
        ),
        optimization=Optimization("extended", {"precision_mode": "FP16"}),
    )


def test_nothing_said_means_nothing_decided():
    assert ModelConfig("m") == read_config("", "m").config
    assert read_config("max_batch_size: 0", "m").config.max_batch_size == 0


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("version_policy { latest {} }", VersionPolicy()),
        ("version_policy { latest { num_versions: 3 } }", VersionPolicy("latest", 3)),
        ("version_policy: { all { } }", VersionPolicy("all")),
        ("version_policy { specific { versions: 2 versions: 2 } }", VersionPolicy("specific", versions=(2,))),
    ],
)
def test_version_policies(text, policy):
    assert policy == read_config(text, "m").config.version_policy


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        (
            "max_batch_size: 2147483648",
            "line 1: max_batch_size: expected a whole number from 0 to 65536, got 2147483648",
        ),
        ("max_batch_size: -1", "line 1: max_batch_size: expected a whole number from 0 to 65536, got -1"),
        ("max_batch_size: 1.5", "line 1: max_batch_size: expected a whole number from 0 to 65536, got 1.5"),
        ('max_batch_size: "8"', "line 1: max_batch_size: expected a whole number from 0 to 65536, got '8'"),
        ("max_batch_size: true", "line 1: max_batch_size: expected a whole number from 0 to 65536, got true"),
        ("\n\nmax_batch_size: 1\nmax_batch_size: 2", "line 4: max_batch_size: expected it once, got 2 of them"),
        ("max_batch_size 8", "line 1: expected ':' or '{', got '8'"),
        ("max_batch_size:\n}", "line 2: expected a value, got '}'"),
        ("instance_group { count: 2147483648 }", "line 1: instance_group.count: expected a whole number from 1 to 256"),
        ("instance_group { kind: KIND_TPU }", "line 1: instance_group.kind: expected one of KIND_AUTO, KIND_GPU"),
        ("instance_group { kind: KIND_CPU gpus: 0 }", "line 1: instance_group.gpus: expected none with KIND_CPU"),
        (
            "dynamic_batching {\n max_queue_delay_microseconds: 1000000000000 }",
            "line 2: dynamic_batching.max_queue_delay_microseconds: expected a whole number from 0 to 60000000",
        ),
        (
            "max_batch_size: 4 dynamic_batching { preferred_batch_size: [4, 8] }",
            "line 1: dynamic_batching.preferred_batch_size: expected a whole number from 1 to 4, got 8",
        ),
        (
            "dynamic_batching { priority_levels: 2 }",
            "line 1: dynamic_batching.default_priority_level: expected a level from 1 to 2, got 0",
        ),
        (
            "dynamic_batching { priority_queue_policy { key: 1 value {} } }",
            "line 1: dynamic_batching.priority_queue_policy: expected a level from 1 to 0, got '1'",
        ),
        ('name: "other"', "line 1: name: expected 'm', got 'other'"),
        ('platform: "tensorrt_plan"', "line 1: platform: expected 'onnxruntime_onnx', got 'tensorrt_plan'"),
        ('backend: "python"', "line 1: backend: expected 'onnxruntime', got 'python'"),
        ('default_model_filename: "../other/model.onnx"', "line 1: default_model_filename: expected a plain file name"),
        ('default_model_filename: ".hidden"', "line 1: default_model_filename: expected a plain file name"),
        ("sequence_batching { }", "line 1: sequence_batching: expected a model that keeps no state between requests"),
        (
            "ensemble_scheduling { step {} }",
            "line 1: ensemble_scheduling: expected a single ONNX model, got an ensemble",
        ),
        (
            'model_operations { op_library_filename: "evil.so" }',
            "line 1: model_operations.op_library_filename: expected ONNX Runtime's own operators only, got a library",
        ),
        (
            "model_transaction_policy { decoupled: True }",
            "line 1: model_transaction_policy.decoupled: expected a model that answers each request once, got true",
        ),
        ("version_policy { }", "line 1: version_policy: expected one of latest, all, specific, got none"),
        ("version_policy { all {} latest {} }", "line 1: version_policy: expected one of latest, all, specific"),
        ("version_policy { specific { } }", "line 1: version_policy.specific: expected versions, got none"),
        (
            "version_policy { specific { versions: 0 } }",
            "versions: expected a whole number from 1 to 9223372036854775807",
        ),
        ("input { dims: 3 }", "input.name: expected a name of its own, got ''"),
        ('input { name: "x" } input { name: "x" }', "line 1: input.name: expected a name of its own, got 'x'"),
        (
            'input { name: "x" dims: [3, 0] }',
            "input.dims: expected sizes of at least 1, or -1 for variable, got [3, 0]",
        ),
        ('input { name: "x" dims: -2 }', "line 1: input.dims: expected a whole number from -1 to 2147483647, got -2"),
        ('input { name: "x" data_type: TYPE_INVALID }', "input.data_type: expected one of TYPE_BOOL, TYPE_UINT8"),
        ('input { name: "x" data_type: "TYPE_FP32" }', "input.data_type: expected one of TYPE_BOOL, TYPE_UINT8"),
        ('input { name: "x" optional: maybe }', "line 1: input.optional: expected true or false, got maybe"),
        ("input: 3", "line 1: input: expected a message, got 3"),
        ("model_warmup { }", "model_warmup.inputs: expected at least one input, got none"),
        ("model_warmup { inputs { key: 'x' value {} } }", "zero_data: expected one of zero_data, random_data"),
        ("parameters { value { } }", "line 1: parameters: expected one key and one value, got ['value']"),
        ("input {", "line 1: expected a field's name or '}', got 'the end'"),
        ("}", "line 1: expected a field's name, got '}'"),
        ("name: 'm\n'", 'line 1: expected a field or a value, got "\'m"'),
        ("!!python/object", "line 1: expected a field or a value, got '!!python/object'"),
        ("dims: [1, 2,]", "line 1: expected a value, got ']'"),
        (r'name: "\377"', "line 1: expected a string of UTF-8"),
        ("max_batch_size: " + "9" * 5000, "line 1: expected a number of at most 64 digits"),
        ("a {" * (MAX_DEPTH + 1), f"line 1: expected at most {MAX_DEPTH} levels, got 'another'"),
        ("#" * (MAX_CHARACTERS + 1), f"expected at most {MAX_CHARACTERS} characters, it has {MAX_CHARACTERS + 1}"),
    ],
)
def test_a_wrong_config_is_refused_with_file_line_and_field(text, refusal):
    with pytest.raises(ModelLoadFailed) as caught:
        read_config(text, "m")

    assert str(caught.value).startswith("m/config.pbtxt")
    assert refusal in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.text(alphabet="abx_09.:;,{}[]<>\"'\\#- \n\t/é", max_size=60))
def test_any_text_is_read_or_refused(text):
    try:
        read_text(text, "any")
    except ModelLoadFailed as refusal:
        assert str(refusal).startswith("any line ")


def test_text_is_understood_as_protobuf_understands_it():
    text = (
        r"""a: 0x1F b: 010 c: -7 d: 1.5e3 e: 2f f: "\x41\101\u00e9\n" "b" g: [A, true] h < i: 1 > [x.y/z] { }, j {};"""
    )

    assert read_text(text, "t") == Message(
        {
            "a": [Entry(31, 1)],
            "b": [Entry(8, 1)],
            "c": [Entry(-7, 1)],
            "d": [Entry(1500.0, 1)],
            "e": [Entry(2.0, 1)],
            "f": [Entry("AAé\nb", 1)],
            "g": [Entry(Word("A"), 1), Entry(Word("true"), 1)],
            "h": [Entry(Message({"i": [Entry(1, 1)]}), 1)],
            "[x.y/z]": [Entry(Message(), 1)],
            "j": [Entry(Message(), 1)],
        }
    )


NAMES = st.text(min_size=1, max_size=12)
DIMS = st.lists(st.sampled_from([-1, 1, 3, 224]), max_size=3)


@st.composite
def triton_configs(draw):
    message = pb.ModelConfig(name="m", max_batch_size=draw(st.integers(0, 64)))
    for name in draw(st.lists(NAMES, max_size=3, unique=True)):
        message.input.add(name=name, data_type=draw(st.integers(1, 14)), dims=draw(DIMS), optional=draw(st.booleans()))
        message.output.add(name=name, data_type=draw(st.integers(1, 14)), dims=draw(DIMS))
    for _ in range(draw(st.integers(0, 2))):
        message.instance_group.add(count=draw(st.integers(1, 4)), kind=draw(st.integers(0, 3)))
    if draw(st.booleans()):
        batching = message.dynamic_batching
        batching.preferred_batch_size.extend(draw(st.lists(st.integers(1, message.max_batch_size or 64), max_size=3)))
        batching.max_queue_delay_microseconds = draw(st.integers(0, 10**7))
        batching.default_queue_policy.max_queue_size = draw(st.integers(0, 99))
        batching.priority_levels = 2
        batching.default_priority_level = draw(st.integers(1, 2))
        batching.priority_queue_policy[1].default_timeout_microseconds = draw(st.integers(0, 10**6))
    for key in draw(st.lists(NAMES, max_size=2)):
        message.parameters[key].string_value = draw(st.text(max_size=9))
    message.version_policy.specific.versions.extend(draw(st.lists(st.integers(1, 2**62), min_size=1, max_size=3)))
    return message


def expected(message):
    """Say what our reading of a message must be, from protobuf's own."""
    types = ["", "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"]
    types += ["FP16", "FP32", "FP64", "BYTES", "BF16"]
    dynamic = message.dynamic_batching
    batching = BatchPolicy(
        enabled=True,
        preferred_batch_sizes=tuple(dynamic.preferred_batch_size),
        max_queue_delay=dynamic.max_queue_delay_microseconds / 1e6,
        priority_levels=2,
        default_priority_level=dynamic.default_priority_level,
        default_queue_policy=QueuePolicy(max_queue_size=dynamic.default_queue_policy.max_queue_size),
        priority_queue_policies={
            level: QueuePolicy(default_timeout=policy.default_timeout_microseconds / 1e6 or None)
            for level, policy in dynamic.priority_queue_policy.items()
        },
    )
    return ModelConfig(
        "m",
        max_batch_size=message.max_batch_size,
        inputs=tuple(TensorSpec(t.name, types[t.data_type], tuple(t.dims), t.optional) for t in message.input),
        outputs=tuple(TensorSpec(t.name, types[t.data_type], tuple(t.dims)) for t in message.output),
        version_policy=VersionPolicy("specific", versions=tuple(sorted(set(message.version_policy.specific.versions)))),
        instance_groups=tuple(
            InstanceGroup(group.count, ("auto", "gpu", "cpu", "auto")[group.kind]) for group in message.instance_group
        ),
        batching=batching if message.HasField("dynamic_batching") else BatchPolicy(),
        parameters={key: value.string_value for key, value in message.parameters.items()},
    )


@given(triton_configs(), st.booleans(), st.booleans())
def test_what_protobuf_prints_is_read_as_protobuf_means_it(message, as_utf8, one_line):
    text = text_format.MessageToString(message, as_utf8=as_utf8, as_one_line=one_line)

    assert expected(message) == read_config(text, "m").config


@given(triton_configs(), st.booleans())
def test_an_override_is_protobufs_json_in_either_spelling(message, snake):
    text = json_format.MessageToJson(message, preserving_proto_field_name=snake)

    assert expected(message) == read_override(text, "m").config


def test_an_overrides_map_keys_are_nobodys_field_names():
    override = {"parameters": {"camelKey": {"string_value": "a"}, "snake_key": {"stringValue": "b"}}, "metricTags": {}}

    config = read_override(json.dumps(override), "m").config

    assert config.parameters == {"camelKey": "a", "snake_key": "b"}
    assert config.ignored == ("metric_tags",)


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        ("[]", "expected a JSON object, got list"),
        ("{", "expected JSON: "),
        ('{"max_batch_size": NaN}', "NaN is not a number of JSON"),
        ('{"max_batch_size": 1, "max_batch_size": 2}', "the key 'max_batch_size' is there twice"),
        ('{"max_batch_size": 1, "maxBatchSize": 2}', "max_batch_size: expected it once, got max_batch_size and"),
        ('{"max_batch_size": ' + "9" * 5000 + "}", "expected JSON: "),
        ('{"max_batch_size": true}', "max_batch_size: expected a whole number from 0 to 65536, got True"),
        ('{"max_batch_size": "eight"}', "max_batch_size: expected a whole number from 0 to 65536, got 'eight'"),
        ('{"input": [[{}]]}', "a list holds null or another list"),
        ('{"a":' * 100_000, "nested deeper"),
        ('{"name": "other"}', "name: expected 'm', got 'other'"),
    ],
)
def test_a_wrong_override_is_refused(text, refusal):
    with pytest.raises(ModelLoadFailed) as caught:
        read_override(text, "m")

    assert refusal in str(caught.value)
    assert len(str(caught.value)) < 400


def test_null_in_an_override_means_not_said():
    assert ModelConfig("m") == read_override('{"max_batch_size": null, "input": []}', "m").config


X = TensorSpec("x", "FP32", (-1, 3))
Y = TensorSpec("y", "FP32", (-1, 2))


def resolved(text, inputs=(X,), outputs=(Y,)):
    config = read_config(text, "m").config
    return resolve(ModelVersion(config, "7", Path("7"), Path("7", "model.onnx")), inputs, outputs, 64)


def test_a_model_without_config_is_filled_in_and_batches_up_to_the_largest_size_tried():
    spec = resolved("")

    assert (spec.name, spec.version, spec.platform) == ("m", "7", "onnxruntime_onnx")
    assert (spec.inputs, spec.outputs, spec.max_batch_size) == ((X,), (Y,), 64)
    assert spec.config.batching.enabled


@pytest.mark.parametrize(
    ("text", "inputs", "rows", "dynamic"),
    [
        ("max_batch_size: 8", (X,), 8, False),
        ("max_batch_size: 8 dynamic_batching {}", (X,), 8, True),
        ("max_batch_size: 0", (X,), 0, False),
        ("", (TensorSpec("x", "FP32", (1, 3)),), 0, False),
        ("", (X, TensorSpec("z", "INT64", ())), 0, False),
        ('input { name: "x" dims: [-1, 3] }', (X,), 0, False),
        ('input { name: "x" dims: 3 }', (X,), 64, True),
    ],
)
def test_who_batches(text, inputs, rows, dynamic):
    spec = resolved(text, inputs)

    assert rows == spec.max_batch_size
    assert dynamic == spec.config.batching.enabled
    assert inputs[0].shape == spec.inputs[0].shape


def test_config_tensors_come_first_in_their_order_and_narrow_the_graphs():
    graph = (TensorSpec("a", "FP32", (-1, 4)), TensorSpec("b", "INT64", (-1, -1)), TensorSpec("c", "BYTES", (-1, 1)))

    spec = resolved('max_batch_size: 4 input { name: "b" data_type: TYPE_INT64 dims: 5 optional: true }', graph)

    assert spec.inputs == (TensorSpec("b", "INT64", (-1, 5), optional=True), graph[0], graph[2])


def test_reshape_is_what_the_graph_has_and_dims_are_what_callers_send():
    graph = (TensorSpec("x", "FP32", (-1,)),)

    spec = resolved('max_batch_size: 4 input { name: "x" dims: 1 reshape { shape: [] } }', graph)

    assert spec.inputs == (TensorSpec("x", "FP32", (-1, 1), reshape=()),)


def test_an_output_whose_shape_the_graph_leaves_out_takes_the_configs():
    spec = resolved('max_batch_size: 4 output { name: "y" dims: [-1, 2] }', outputs=(TensorSpec("y", "FP32", ()),))

    assert spec.outputs == (TensorSpec("y", "FP32", (-1, -1, 2)),)


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        ('input { name: "q" }', "config.pbtxt has input 'q', the ONNX file has 'x'"),
        ('output { name: "x" }', "config.pbtxt has output 'x', the ONNX file has 'y'"),
        ('input { name: "x" data_type: TYPE_INT64 }', "input 'x': config.pbtxt says INT64, the ONNX file has FP32"),
        (
            'max_batch_size: 4 input { name: "x" dims: 4 }',
            "input 'x': config.pbtxt says [4], the ONNX file has [3] without the batch dimension",
        ),
        ('max_batch_size: 4 input { name: "x" dims: -1 }', "input 'x': config.pbtxt says [-1], the ONNX file has [3]"),
        ('max_batch_size: 0 input { name: "x" dims: 3 }', "config.pbtxt says [3], the ONNX file has [-1, 3]"),
        (
            'input { name: "x" dims: 3 } output { name: "y" dims: [-1, 2] }',
            "expected max_batch_size to say which is meant",
        ),
        (
            'max_batch_size: 4 input { name: "x" dims: 4 reshape { shape: 3 } }',
            "input 'x': expected dims and reshape of the same size, got [4] and [3]",
        ),
        (
            'max_batch_size: 4 model_warmup { name: "w" batch_size: 5 inputs { key: "x" value { zero_data: true } } }',
            "model_warmup 'w': expected a batch_size of at most 4, got 5",
        ),
        ("dynamic_batching { preferred_batch_size: 65 }", "preferred_batch_size: expected at most 64, got 65"),
    ],
)
def test_contradictions_are_refused_naming_both_sides(text, refusal):
    with pytest.raises(ModelLoadFailed) as caught:
        resolved(text)

    assert refusal in str(caught.value)


@pytest.mark.parametrize("shape", [(1, 3), (3,), ()])
def test_batching_needs_a_variable_first_dimension(shape):
    with pytest.raises(ModelLoadFailed) as caught:
        resolved("max_batch_size: 8", (TensorSpec("x", "FP32", shape),))

    has = list(shape) or "no shape"
    wanted = f"input 'x': max_batch_size 8 needs a variable first dimension in the ONNX file, which has {has}"
    assert wanted == str(caught.value)


@given(DIMS, DIMS, st.one_of(st.none(), st.integers(0, 8)))
def test_whatever_config_and_graph_say_the_spec_is_one_that_can_run(dims, graph, rows):
    said = f"max_batch_size: {rows}" if rows is not None else ""
    text = said + f' input {{ name: "x" dims: {dims} }}'
    try:
        spec = resolved(text, (TensorSpec("x", "FP32", tuple(graph)),), (TensorSpec("y", "FP32", (-1, 2)),))
    except ModelLoadFailed:
        return
    served = spec.inputs[0].shape
    if graph:
        assert len(served) == len(graph)
        assert all(has in (-1, size) for size, has in zip(served, graph, strict=True))
    assert served[0] == -1 if spec.batches else spec.max_batch_size == 0


TENSORRT = """optimization { execution_accelerators { gpu_execution_accelerator [ { name: "tensorrt" %s } ] } }"""


def tensorrt(*pairs):
    return TENSORRT % " ".join(f'parameters {{ key: "{key}" value: "{value}" }}' for key, value in pairs)


@pytest.mark.parametrize(("number", "level"), [(-1, "basic"), (0, "all"), (1, "extended"), (2, "none")])
def test_graph_levels_are_tritons(number, level):
    assert read_config(f"optimization {{ graph {{ level: {number} }} }}", "m").config.optimization.graph_level == level


def test_tensorrt_is_asked_for_by_name_and_its_truth_values_are_made_onnx_runtimes():
    plain = read_config(tensorrt(), "m").config
    tuned = read_config(tensorrt(("trt_timing_cache_enable", "1"), ("max_workspace_size_bytes", "1024")), "m").config

    assert read_config("", "m").config.optimization.tensorrt is None
    assert plain.optimization.tensorrt == {}
    assert tuned.optimization.tensorrt == {"trt_timing_cache_enable": "True", "max_workspace_size_bytes": "1024"}
    assert tuned.ignored == ()


@pytest.mark.parametrize(
    ("pair", "says"),
    [
        (("precision_mode", "INT8"), "parameters.precision_mode: expected one of FP32, FP16, got 'INT8'"),
        (("trt_builder_optimization_level", "6"), "expected a whole number from 0 to 5, got '6'"),
        (("max_workspace_size_bytes", "1e9"), "expected a whole number from 0 to"),
        (("trt_sparsity_enable", "maybe"), "expected true or false, got 'maybe'"),
    ],
)
def test_a_tensorrt_parameter_out_of_range_is_refused(pair, says):
    with pytest.raises(ModelLoadFailed, match=says):
        read_config(tensorrt(pair), "m")


def test_a_tensorrt_parameter_that_loads_a_library_is_ignored_by_name():
    config = read_config(tensorrt(("trt_extra_plugin_lib_paths", "evil.so")), "m").config

    assert config.optimization.tensorrt == {}
    assert [path.rpartition(".")[2] for path in config.ignored] == ["trt_extra_plugin_lib_paths"]


def test_other_accelerators_and_tritons_own_parameters_are_listed():
    text = """optimization { execution_accelerators {
      gpu_execution_accelerator { name: "cuda" parameters { key: "use_ep_level_unified_stream" value: "1" } }
      cpu_execution_accelerator { name: "openvino" } } }
    parameters { key: "enable_mem_pattern" value { string_value: "0" } }
    parameters { key: "mine" value { string_value: "0" } }"""

    assert read_config(text, "m").config.ignored == (
        "optimization.execution_accelerators.cpu_execution_accelerator",
        "optimization.execution_accelerators.gpu_execution_accelerator.cuda.use_ep_level_unified_stream",
        "parameters.enable_mem_pattern",
    )


def test_tensorrt_in_an_override_is_plain_json():
    override = {"optimization": {"executionAccelerators": {"gpuExecutionAccelerator": [
        {"name": "tensorrt", "parameters": {"precision_mode": "FP16"}}]}}}  # fmt: skip

    assert read_override(json.dumps(override), "m").config.optimization.tensorrt == {"precision_mode": "FP16"}
