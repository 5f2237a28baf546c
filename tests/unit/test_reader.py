"""Whatever a well-formed request holds arrives, recognised or parsed. The oracle is protobuf itself.

FUZZ_CASES in the environment asks for more damaged messages than the quick run has.
"""

import math
import os
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.errors import InvalidRequest
from server.messages import ITEM_BYTES, InferResponse, Tensor, element_count
from server.pb import open_inference_pb2 as pb
from server.transports.base import StatusCode, StatusError
from server.wire.answer import encode
from server.wire.layout import LARGE, Asked, Layout, encode_varint
from server.wire.prescan import varint
from server.wire.reader import Reader
from tests import wire
from tests.wire import LIMITS, FakeCatalog, message, text

DATATYPES = [*ITEM_BYTES, "BYTES"]
names = st.text("abcXYZ_0", min_size=1, max_size=8)


@st.composite
def models(draw):
    batches = draw(st.booleans())
    tensors = []
    for name in draw(st.lists(names, min_size=1, max_size=4, unique=True)):
        dims = draw(st.lists(st.sampled_from([-1, 1, 2, 3]), min_size=0 if batches else 1, max_size=2))
        tensors.append((name, draw(st.sampled_from(DATATYPES)), (-1, *dims) if batches else tuple(dims)))
    return wire.spec("m", tensors, [("y", "FP32", (-1,))], max_batch_size=4 if batches else 0)


@st.composite
def requests(draw):
    promised = draw(models())
    rows = draw(st.integers(1, 3))
    built = pb.ModelInferRequest(model_name="m", id=draw(st.text("ab-1é", max_size=12)))
    built.model_version = draw(st.sampled_from(["", "1"]))
    if draw(st.booleans()):
        built.parameters["timeout"].int64_param = draw(st.integers(0, 1 << 40))
    for tensor in draw(st.permutations(promised.inputs)):
        free = [draw(st.integers(1, 3)) if size == -1 else size for size in tensor.shape]
        shape = [rows, *free[1:]] if promised.batches else free
        built.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=shape)
        built.raw_input_contents.append(draw(contents(tensor.datatype, math.prod(shape))))
    return promised, built


def contents(datatype, count):
    if datatype == "BYTES":
        texts = st.text(max_size=9).map(str.encode)
        return st.lists(texts, min_size=count, max_size=count).map(lambda values: text(*values))
    if datatype == "BOOL":
        return st.lists(st.booleans(), min_size=count, max_size=count).map(bytes)
    size = count * ITEM_BYTES[datatype]
    return st.binary(min_size=size, max_size=size)


@given(requests())
@settings(max_examples=150, deadline=None)
def test_every_well_formed_request_arrives_as_it_was_sent(case):
    promised, built = case
    reader = Reader(FakeCatalog(promised), LIMITS)
    data = built.SerializeToString()

    parsed, taught = reader.read(data, 5.0)
    recognised, layout = reader.read(data, 5.0)

    sent = {
        t.name: (t.datatype, tuple(t.shape), raw) for t, raw in zip(built.inputs, built.raw_input_contents, strict=True)
    }
    assert {t.name: (t.datatype, t.shape, bytes(t.data)) for t in parsed.inputs} == sent
    assert [t.name for t in parsed.inputs] == [t.name for t in promised.inputs]
    assert (parsed.id, parsed.deadline) == (built.id, 5.0)
    assert recognised == parsed
    assert layout is taught


@given(requests(), st.data())
@settings(max_examples=100, deadline=None)
def test_a_recognised_layout_takes_other_contents_and_another_id(case, data):
    promised, built = case
    reader = Reader(FakeCatalog(promised), LIMITS)
    _, taught = reader.read(built.SerializeToString(), 5.0)
    other = pb.ModelInferRequest.FromString(built.SerializeToString())
    other.id = data.draw(st.text("xyz", max_size=150))
    for index, tensor in enumerate(other.inputs):
        other.raw_input_contents[index] = data.draw(contents(tensor.datatype, math.prod(tensor.shape)))

    request, layout = reader.read(other.SerializeToString(), 6.0)

    assert request.id == other.id
    assert {t.name: bytes(t.data) for t in request.inputs} == {
        t.name: raw for t, raw in zip(other.inputs, other.raw_input_contents, strict=True)
    }
    if len(other.id) < 128:
        assert (
            layout is taught or built.parameters
        )  # a map of one entry keeps its bytes; protobuf promises nothing more


@pytest.mark.parametrize("cut", [0, 1, -1], ids=["whole", "a byte short", "a byte long"])
def test_a_large_tensor_is_looked_at_and_not_copied(cut):
    wide = LARGE + 1
    tensors = [("a", "UINT8", 2), ("b", "BOOL", wide), ("c", "BYTES", 1), ("d", "INT8", wide)]
    promised = wire.spec("m", [(name, datatype, (-1, size)) for name, datatype, size in tensors], [])
    reader = Reader(FakeCatalog(promised), LIMITS)
    raws = [b"aa", bytes([1]) * wide, text(b"x"), b"d" * wide]

    def ask():
        built = pb.ModelInferRequest(model_name="m")
        for tensor, raw in zip(promised.inputs, raws, strict=True):
            built.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=(1, *tensor.shape[1:]))
            built.raw_input_contents.append(raw)
        return reader.read(built.SerializeToString(), 5.0)[0]

    ask()
    raws[3] = b"e" * (wide - cut)
    if cut:
        with pytest.raises(InvalidRequest, match=f"expected {wide} bytes of raw contents"):
            ask()
        return
    request = ask()

    assert [bytes(tensor.data) for tensor in request.inputs] == raws
    assert [type(tensor.data) for tensor in request.inputs] == [bytes, memoryview, bytes, memoryview]

    raws[1] = bytes([2]) * wide
    with pytest.raises(InvalidRequest, match="BOOL byte"):
        ask()


def test_a_layout_is_forgotten_with_its_version():
    catalog = FakeCatalog(wire.MNIST)
    reader = Reader(catalog, LIMITS)
    data = message(wire.MNIST).SerializeToString()
    reader.read(data, 1.0)
    catalog.replace(wire.spec("mnist", [("image", "UINT8", (-1, 14, 14))], []))

    with pytest.raises(Exception, match=r"expected shape \[-1,14,14\]"):
        reader.read(data, 1.0)


def test_a_thousand_shapes_are_not_remembered():
    reader = Reader(FakeCatalog(wire.MNIST), LIMITS)
    for rows in range(1, 40):
        reader.read(message(wire.MNIST, rows=rows).SerializeToString(), 1.0)

    assert [len(binding.layouts) for binding in reader._bindings.values()] == [16]


def test_a_layout_that_begins_like_another_is_not_taken_for_it():
    optional = wire.spec("m", [("a", "UINT8", (-1,)), ("b", "UINT8", (-1,))], [])
    loose = type(optional.inputs[1])("b", "UINT8", (-1,), optional=True)
    promised = type(optional)("m", "1", "", (optional.inputs[0], loose), (), 4, optional.config)
    reader = Reader(FakeCatalog(promised), LIMITS)
    both = message(promised)
    one = pb.ModelInferRequest.FromString(both.SerializeToString())
    del one.inputs[1], one.raw_input_contents[1]
    for built in (one, both, one, both):
        request, _ = reader.read(built.SerializeToString(), 1.0)

        assert len(request.inputs) == len(built.inputs)


outputs = st.lists(
    st.tuples(names, st.sampled_from(DATATYPES), st.lists(st.integers(0, 3), max_size=3), st.binary(max_size=300)),
    max_size=4,
)


@given(st.text("ab", min_size=1, max_size=200), st.text(max_size=200), outputs)
@settings(max_examples=150, deadline=None)
def test_an_answer_is_byte_for_byte_what_protobuf_writes(name, request_id, tensors):
    promised = wire.spec(name, [], [])
    answer = InferResponse(name, "1", request_id, tuple(Tensor(n, d, tuple(s), raw) for n, d, s, raw in tensors))
    expected = pb.ModelInferResponse(model_name=name, model_version="1", id=request_id)
    for n, d, shape, raw in tensors:
        expected.outputs.add(name=n, datatype=d, shape=shape)
        expected.raw_output_contents.append(raw)
    layout = Layout(promised, [], 1, Asked())
    for _ in range(2):  # the second time from what was remembered
        assert encode(answer, layout) == expected.SerializeToString()


def test_one_layout_answers_in_more_than_one_shape():
    layout = Layout(wire.spec("m", [], []), [], 1, Asked())
    for length in (2, 5, 2):
        answer = InferResponse("m", "1", "", (Tensor("y", "UINT8", (1, length), bytes(length)),))
        read = pb.ModelInferResponse.FromString(encode(answer, layout))

        assert (list(read.outputs[0].shape), len(read.raw_output_contents[0])) == ([1, length], length)


def test_shapes_of_answers_are_not_remembered_without_end():
    layout = Layout(wire.spec("m", [], []), [], 1, Asked())
    for length in range(1, 200):
        encode(InferResponse("m", "1", "", (Tensor("y", "UINT8", (length,), bytes(length)),)), layout)

    assert len(layout.heads) <= 64


@given(st.integers(0, (1 << 64) - 1))
def test_varints_round_trip(value):
    data = encode_varint(value)

    assert varint(data, 0, len(data)) == (value, len(data))


CODES = {StatusCode.INVALID_ARGUMENT, StatusCode.NOT_FOUND, StatusCode.RESOURCE_EXHAUSTED, StatusCode.UNIMPLEMENTED}


def mutate(data, rng):
    """Flip, cut, double, drop or splice a few bytes."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(out) + 1)
        kind = rng.randrange(6)
        if kind == 0 and at < len(out):
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and at < len(out):
            out[at] = rng.choice((0x00, 0x01, 0x0A, 0x2A, 0x3A, 0x7F, 0x80, 0xFF))
        elif kind == 2:
            del out[at:]
        elif kind == 3:
            out[at:at] = out[at : at + rng.randrange(20)]
        elif kind == 4:
            del out[at : at + rng.randrange(8)]
        else:
            out[at:at] = rng.randbytes(rng.randrange(6))
    return bytes(out)


def test_damaged_bytes_end_in_a_documented_code():
    cases = int(os.environ.get("FUZZ_CASES", "10000"))
    bench = wire.Bench()
    rng = random.Random(20260101)
    seeds = [
        message(s, rows=r, request_id="id").SerializeToString()
        for s in (wire.CHURN, wire.MNIST, wire.SENTIMENT)
        for r in (1, 3)
    ]
    for seed in seeds:
        bench.infer(seed)
    seen = set()
    for _ in range(cases):
        data = mutate(rng.choice(seeds), rng)
        try:
            answer = bench.infer(data)
        except StatusError as error:
            seen.add(error.code)
            assert error.code in CODES, (data, error.details)
            assert error.details.isprintable()
            continue
        check_against_protobuf(data, answer, bench.queue.submitted[-1])

    assert StatusCode.INVALID_ARGUMENT in seen
    assert (bench.admission.inflight, bench.admission.inflight_bytes) == (0, 0)


def check_against_protobuf(data, answer, request):
    """What was accepted must be what protobuf reads in the bytes, tensor by tensor."""
    truth = pb.ModelInferRequest.FromString(data)
    assert (answer.model_name, answer.id) == (truth.model_name, truth.id)
    by_name = {tensor.name: tensor for tensor in request.inputs}
    assert len(by_name) == len(truth.inputs)
    raws = iter(truth.raw_input_contents)
    for tensor in truth.inputs:
        found = by_name[tensor.name]
        assert (found.datatype, found.shape) == (tensor.datatype, tuple(tensor.shape))
        if truth.raw_input_contents:
            assert bytes(found.data) == next(raws)
        if found.datatype != "BYTES":
            assert len(found.data) == element_count(found.shape) * ITEM_BYTES[found.datatype]
