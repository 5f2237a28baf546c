"""What a request may say and what it is told when it says something else (docs/protocol.md has the rules)."""

import struct

import pytest

from server.pb import open_inference_pb2 as pb
from server.transports.base import StatusCode, StatusError
from tests import wire
from tests.wire import CHURN, MNIST, SENTIMENT, Bench, message, text

EVERY = wire.spec(
    "every",
    [
        ("b", "BOOL", (-1, 2)), ("i8", "INT8", (-1,)), ("h", "FP16", (-1, 1)), ("u64", "UINT64", (-1, -1)),
        ("s", "BYTES", (-1, 2)),
    ],
    [("y", "FP32", (-1, 2)), ("z", "INT64", (-1,))],
)  # fmt: skip
FIXED = wire.spec("fixed", [("x", "FP32", (2, 3))], [("y", "FP32", (2, 3))], max_batch_size=0)


@pytest.fixture
def bench():
    return Bench(CHURN, MNIST, SENTIMENT, EVERY, FIXED)


def parameter(**value):
    return pb.InferParameter(**value)


def changed(change, promised=CHURN):
    built = message(promised)
    change(built)
    return built


def set_shape(index, *shape):
    def change(m):
        m.inputs[index].shape[:] = shape

    return change


def set_raw(index, data):
    def change(m):
        m.raw_input_contents[index] = data

    return change


def field(name, value):
    return lambda m: setattr(m, name, value)


def extra_input(m):
    m.inputs.add(name="surname", datatype="BYTES", shape=[1, 1])
    m.raw_input_contents.append(text(b"x"))


def drop_input(m):
    del m.inputs[1], m.raw_input_contents[1]


def twice(m):
    m.inputs[1].name = "CreditScore"


def no_inputs(m):
    del m.inputs[:], m.raw_input_contents[:]


def both_contents(m):
    m.inputs[0].contents.fp32_contents.append(1.0)


def set_parameter(name, **value):
    return lambda m: m.parameters[name].CopyFrom(parameter(**value))


def many_parameters(m):
    for index in range(65):
        m.parameters[f"p{index}"].bool_param = True


def classification(name="probability", **value):
    def change(m):
        m.outputs.add(name=name).parameters["classification"].CopyFrom(parameter(**value))

    return change


INVALID = {
    "empty name": (CHURN, field("model_name", ""), "model_name is empty"),
    "blank name": (CHURN, field("model_name", "\t\n"), "model_name is empty"),
    "path as name": (CHURN, field("model_name", "../etc"), "model_name: expected letters"),
    "absolute path": (CHURN, field("model_name", "/etc/passwd"), "model_name: expected letters"),
    "forged log line": (CHURN, field("model_name", "x\n2026 ERROR forged"), r"model_name: .*\\n2026"),
    "forged metric": (CHURN, field("model_name", 'a"} 1\nevil{x="'), "model_name: expected letters"),
    "format string": (CHURN, field("model_name", "%s%n"), "model_name: expected letters"),
    "cluster slot": (CHURN, field("model_name", "a}b{c"), "model_name: expected letters"),
    "right-to-left": (CHURN, field("model_name", "a\u202eb"), "model_name: expected letters"),
    "emoji": (CHURN, field("model_name", "\U0001f600"), "model_name: expected letters"),
    "endless name": (CHURN, field("model_name", "x" * 1_000_000), "model_name: expected letters"),
    "version -1": (CHURN, field("model_version", "-1"), "model_version: expected a positive whole number"),
    "version 0": (CHURN, field("model_version", "0"), "model_version"),
    "version 01": (CHURN, field("model_version", "01"), "model_version"),
    "version 1e3": (CHURN, field("model_version", "1e3"), "model_version"),
    "version latest": (CHURN, field("model_version", "latest"), "model_version"),
    "version with space": (CHURN, field("model_version", " 1"), "model_version"),
    "version 2^63": (CHURN, field("model_version", "9223372036854775808"), "model_version"),
    "endless id": (CHURN, field("id", "i" * 257), "id: expected at most 256 printable characters, got 257"),
    "id of two lines": (CHURN, field("id", "a\nb"), "id: expected at most 256 printable"),
    "no inputs": (CHURN, no_inputs, "input 'CreditScore' is missing: expected inputs 'CreditScore', 'Age'"),
    "missing input": (CHURN, drop_input, "input 'Age' is missing"),
    "extra input": (CHURN, extra_input, "input 'surname': expected one of 'CreditScore'"),
    "input twice": (CHURN, twice, "input 'CreditScore': expected once, got it twice"),
    "unknown output": (CHURN, lambda m: m.outputs.add(name="p"), "output 'p': expected one of 'probability'"),
    "output twice": (
        CHURN,
        lambda m: m.outputs.extend([pb.ModelInferRequest.InferRequestedOutputTensor(name="probability")] * 2),
        "output 'probability': expected once, got it twice",
    ),
    "many outputs": (
        CHURN,
        lambda m: m.outputs.extend([pb.ModelInferRequest.InferRequestedOutputTensor(name="p")] * 10_000),
        "outputs: expected at most 64, got",
    ),
    "no datatype": (CHURN, lambda m: m.inputs[0].ClearField("datatype"), "expected datatype FP32, got ''"),
    "lower case datatype": (CHURN, lambda m: setattr(m.inputs[0], "datatype", "fp32"), "FP32, got 'fp32'"),
    "other datatype": (CHURN, lambda m: setattr(m.inputs[0], "datatype", "INT64"), "'CreditScore': .* got 'INT64'"),
    "no shape": (CHURN, set_shape(0), r"expected shape \[-1,1\], got \[\]"),
    "rank too high": (CHURN, set_shape(0, 1, 1, 1), r"expected shape \[-1,1\], got \[1,1,1\]"),
    "absurd rank": (CHURN, set_shape(0, *[1] * 1000), r"expected shape \[-1,1\], got rank 1000"),
    "negative batch": (CHURN, set_shape(0, -1, 1), r"expected at least 1 row, got shape \[-1,1\]"),
    "zero batch": (CHURN, set_shape(0, 0, 1), r"expected at least 1 row, got shape \[0,1\]"),
    "negative dimension": (MNIST, set_shape(0, 1, -28, -28), r"expected shape \[-1,28,28\]"),
    "rows differ": (CHURN, set_shape(3, 2, 1), "input 'Balance': expected 1 rows as in 'CreditScore', got 2"),
    "2^40 rows of 8 bytes": (MNIST, set_shape(0, 1 << 40, 28, 28), "expected at most 16777216 bytes"),
    "2^62 rows": (EVERY, lambda m: [t.shape.__setitem__(0, 1 << 62) for t in m.inputs], "expected at most"),
    "too many rows": (SENTIMENT, set_shape(0, 4097, 1), "expected at most 4096 rows, got 4097"),
    "too many strings": (SENTIMENT, set_shape(0, 1 << 20, 1), "expected at most 32768 BYTES elements"),
    "variable dimension of zero": (EVERY, set_shape(3, 1, 0), "expected every dimension to be at least 1"),
    "wrong unbatched shape": (FIXED, set_shape(0, 3, 2), r"expected shape \[2,3\], got \[3,2\]"),
    "raw a byte short": (CHURN, set_raw(0, b"abc"), r"'CreditScore': expected 4 bytes .* FP32 \[1,1\], got 3"),
    "raw a byte long": (CHURN, set_raw(0, b"abcde"), "expected 4 bytes of raw contents"),
    "raw of one too few": (CHURN, lambda m: m.raw_input_contents.pop(), "expected 10 entries, one per input, got 9"),
    "raw of one too many": (CHURN, lambda m: m.raw_input_contents.append(b""), "expected 10 entries"),
    "raw and typed": (CHURN, both_contents, "'CreditScore': expected its contents in one way, got two"),
    "bool of 2": (EVERY, set_raw(0, b"\x00\x02"), "input 'b': expected every BOOL byte to be 0 or 1"),
    "half a half": (EVERY, set_raw(2, b"a"), "input 'h': expected 2 bytes"),
    "too few texts": (EVERY, set_raw(4, text(b"x")), "input 's': expected 2 BYTES elements, got 1"),
    "too many texts": (SENTIMENT, set_raw(0, text(b"x", b"y")), "input 'text': expected 1 BYTES elements, got 2"),
    "text cut short": (SENTIMENT, set_raw(0, b"\x05\0\0\0abc"), "its length says 5 bytes, 3 are left"),
    "text of 4 GB": (SENTIMENT, set_raw(0, b"\xff\xff\xff\xff"), "its length says 4294967295 bytes"),
    "text without length": (SENTIMENT, set_raw(0, b"abc"), "expected a 4-byte length, got 3 bytes"),
    "text not UTF-8": (SENTIMENT, set_raw(0, text(b"\xff\xfe")), "input 'text': BYTES element 0: expected UTF-8 text"),
    "priority as text": (CHURN, set_parameter("priority", string_param="1"), "'priority': expected int64_param"),
    "priority 2^63": (CHURN, set_parameter("priority", uint64_param=1 << 63), "parameter 'priority': expected 0 to"),
    "negative timeout": (CHURN, set_parameter("timeout", int64_param=-1), r"'timeout' \(microseconds\): expected 0 to"),
    "endless timeout": (CHURN, set_parameter("timeout", uint64_param=(1 << 64) - 1), "'timeout'"),
    "parameter without value": (CHURN, set_parameter("timeout"), "expected int64_param, got nothing"),
    "reserved parameter": (CHURN, set_parameter("triton_magic", bool_param=True), "parameter 'triton_magic'"),
    "many parameters": (CHURN, many_parameters, "parameters: expected at most 64, got 65"),
    "classification of 0": (CHURN, classification(int64_param=0), "'probability': classification: expected 1 to"),
    "classification of text": (CHURN, classification(string_param="3"), "expected int64_param, got string_param"),
}  # fmt: skip


@pytest.mark.parametrize("case", INVALID)
def test_a_wrong_request_is_told_what_is_wrong(bench, case):
    promised, change, says = INVALID[case]
    with pytest.raises(StatusError, match=says) as error:
        bench.infer(changed(change, promised))

    assert error.value.code is StatusCode.INVALID_ARGUMENT
    assert len(error.value.details) < 500
    assert error.value.details.isprintable()
    assert bench.queue.submitted == []


@pytest.mark.parametrize("case", INVALID)
def test_a_wrong_request_is_told_so_after_a_right_one_was_recognised(bench, case):
    promised, change, says = INVALID[case]
    bench.infer(message(promised))
    with pytest.raises(StatusError, match=says):
        bench.infer(changed(change, promised))

    assert len(bench.queue.submitted) == 1


@pytest.mark.parametrize("name", ["....", "..my_model", "model..1", "model.version1", "Churn", "chürn", "x" * 256])
def test_a_name_that_could_be_a_model_is_not_found(bench, name):
    with pytest.raises(StatusError) as error:
        bench.infer(changed(field("model_name", name)))

    assert error.value.code is StatusCode.NOT_FOUND
    assert "x" * 65 not in error.value.details


def test_an_unknown_version_is_not_found(bench):
    with pytest.raises(StatusError) as error:
        bench.infer(changed(field("model_version", "7")))

    assert error.value.code is StatusCode.NOT_FOUND


@pytest.mark.parametrize("data", [b"\xff", b"\x0a\x05churn\x2a\xff", b"\x0b" * 100_000, b"\x0a\x02\xff\xfe"])
def test_bytes_that_are_no_message_are_called_that(bench, data):
    with pytest.raises(StatusError, match="not a well-formed protobuf message") as error:
        bench.infer(data)

    assert error.value.code is StatusCode.INVALID_ARGUMENT


def test_an_empty_message_names_no_model(bench):
    with pytest.raises(StatusError, match="model_name is empty"):
        bench.infer(b"")


@pytest.mark.parametrize("recognised", [False, True])
def test_a_message_cut_anywhere_is_refused(bench, recognised):
    whole = message(CHURN, request_id="id").SerializeToString()
    if recognised:
        bench.infer(whole)
    for length in range(len(whole)):
        with pytest.raises(StatusError) as error:
            bench.infer(whole[:length])
        assert error.value.code in (StatusCode.INVALID_ARGUMENT, StatusCode.NOT_FOUND)


def test_the_last_of_two_names_is_the_one_that_counts(bench):
    doubled = message(MNIST).SerializeToString() + pb.ModelInferRequest(model_name="churn").SerializeToString()
    with pytest.raises(StatusError, match="input 'image': expected one of 'CreditScore'"):
        bench.infer(doubled)


def test_inputs_may_come_in_any_order(bench):
    built = message(CHURN)
    order = [9, 3, 1, 0, 2, 8, 7, 6, 5, 4]
    shuffled = pb.ModelInferRequest(model_name="churn")
    for place in order:
        shuffled.inputs.append(built.inputs[place])
        shuffled.raw_input_contents.append(text(b"Male") if place == 9 else built.raw_input_contents[place])
    for _ in range(2):  # the second one is recognised
        bench.infer(shuffled)

    for request in bench.queue.submitted:
        assert [tensor.name for tensor in request.inputs] == [tensor.name for tensor in CHURN.inputs]
        assert bytes(request.inputs[9].data) == text(b"Male")


def test_optional_inputs_may_be_left_out(bench):
    inputs = tuple(t if t.name != "Age" else type(t)(t.name, t.datatype, t.shape, optional=True) for t in CHURN.inputs)
    relaxed = type(CHURN)("churn", "1", "", inputs, CHURN.outputs, 8, CHURN.config)
    bench.catalog.replace(relaxed)
    bench.infer(changed(drop_input))

    assert "Age" not in [tensor.name for tensor in bench.queue.submitted[0].inputs]


@pytest.mark.parametrize(
    ("set_to", "levels", "priority"),
    [({"int64_param": 2}, 3, 2), ({"uint64_param": 3}, 3, 3), ({"int64_param": 4}, 3, 0), ({"int64_param": 1}, 0, 0)],
)
def test_a_priority_the_model_does_not_have_is_the_default(set_to, levels, priority):
    batching = type(CHURN.config.batching)(enabled=True, priority_levels=levels)
    bench = Bench(wire.spec("m", [("x", "FP32", (-1,))], [("y", "FP32", (-1,))], batching=batching))
    built = message(bench.catalog.find("m", "").spec)
    built.parameters["priority"].CopyFrom(parameter(**set_to))
    bench.infer(built)

    assert bench.queue.submitted[0].priority == priority


def test_parameters_without_meaning_here_are_ignored_and_the_timeout_is_not(bench):
    def change(m):
        m.parameters["sequence_id"].int64_param = 7
        m.parameters["triton_enable_empty_final_response"].bool_param = False
        m.parameters["my own"].string_param = "x"
        m.parameters["timeout"].int64_param = 1_500_000
        m.inputs[0].parameters["binary_data_size"].int64_param = 999

    bench.infer(changed(change))

    assert bench.queue.submitted[0].timeout == pytest.approx(1.5)


def test_typed_contents_mean_the_same_as_raw_ones(bench):
    built = message(EVERY, rows=1)
    raw = pb.ModelInferRequest.FromString(built.SerializeToString())
    raw.raw_input_contents[:] = [b"\1\0", b"\xfe", b"\0\x3c", struct.pack("<Q", 1 << 63), text(b"a", "é".encode())]
    bench.infer(raw)
    without_half = wire.spec("typed", [(t.name, t.datatype, t.shape) for t in EVERY.inputs if t.name != "h"], [])
    bench.catalog.put(without_half)
    typed = message(without_half)
    del typed.raw_input_contents[:]
    typed.inputs[0].contents.bool_contents.extend([True, False])
    typed.inputs[1].contents.int_contents.append(-2)
    typed.inputs[2].contents.uint64_contents.append(1 << 63)
    typed.inputs[3].contents.bytes_contents.extend([b"a", "é".encode()])
    bench.infer(typed)

    first, second = bench.queue.submitted
    assert [t for t in first.inputs if t.name != "h"] == list(second.inputs)


@pytest.mark.parametrize(
    ("datatype", "used", "values", "says"),
    [
        ("FP32", "int_contents", [1], "expected fp32_contents for FP32, got int_contents"),
        ("FP32", "fp32_contents", [1.0, 2.0], "expected 1 values in fp32_contents, got 2"),
        ("FP32", "fp32_contents", [], "expected 1 values in fp32_contents, got 0"),
        ("INT8", "int_contents", [300], "int_contents has a value out of range for INT8"),
        ("UINT16", "uint_contents", [70_000], "out of range for UINT16"),
        ("FP16", "fp32_contents", [1.0], "FP16 has no typed contents, expected raw_input_contents"),
        ("BF16", "fp32_contents", [1.0], "BF16 has no typed contents"),
        ("BYTES", "bytes_contents", [b"\xff"], "expected UTF-8 text"),
    ],
)
def test_wrong_typed_contents_are_told_what_is_wrong(datatype, used, values, says):
    bench = Bench(wire.spec("m", [("x", datatype, (-1,))], []))
    built = pb.ModelInferRequest(model_name="m")
    getattr(built.inputs.add(name="x", datatype=datatype, shape=[1]).contents, used).extend(values)
    with pytest.raises(StatusError, match=f"input 'x': .*{says}") as error:
        bench.infer(built)

    assert error.value.code is StatusCode.INVALID_ARGUMENT
