"""Requests and answers come out of a link as they went in, however the stream is cut; damage is seen, never a crash."""

import math
from dataclasses import fields, replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from server.errors import ModelNotReady
from server.link import frames, templates
from server.link.frames import CHUNK, CorruptFrame, Inbound, frame
from server.link.packets import AnswerReader, AnswerWriter, RequestReader, RequestWriter
from server.messages import ITEM_BYTES, InferRequest, InferResponse, Packed, Tensor, Timing, element_count
from tests.unit.simulation import spec

SPECS = {1: spec(), 2: spec(8)}


def number_of(wanted):
    return next((number for number, one in SPECS.items() if one is wanted), 0)


def take(inbound, data, sizes=()):
    """Feed bytes in pieces of these sizes, as far as there is space for them, and return the frames."""
    found, at, sizes = [], 0, iter(sizes)
    while at < len(data):
        space = inbound.space()
        count = min(next(sizes, len(data)), len(space), len(data) - at)
        space[:count] = data[at : at + count]
        found += inbound.received(count)
        at += count
    return found


class Wire:
    """What one end has written, and a reader of it."""

    def __init__(self):
        self.data = b""
        self.requests = RequestWriter(self._put, number_of)
        self.answers = AnswerWriter(self._put)
        self._request_reader = RequestReader(SPECS.get)
        self._answer_reader = AnswerReader()

    def _put(self, pieces):
        self.data += b"".join(pieces)

    def read(self, sizes=(), ident=""):
        found = []
        for kind, number, data, start, stop in take(Inbound(), self.data, sizes):
            if kind == frames.REQUEST_TEMPLATE:
                self._request_reader.define(number, data, start, stop)
            elif kind == frames.ANSWER_TEMPLATE:
                self._answer_reader.define(number, data, start, stop)
            elif kind == frames.REQUEST:
                found.append((number, self._request_reader.read(data, start, stop)))
            else:
                found.append((number, self._answer_reader.read(data, start, stop, ident)))
        return found


names = st.text(st.characters(codec="utf-8"), max_size=12)
shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)


@st.composite
def tensors(draw):
    datatype = draw(st.sampled_from([*ITEM_BYTES, "BYTES"]))
    shape = draw(shapes)
    size = draw(st.integers(0, 40)) if datatype == "BYTES" else ITEM_BYTES[datatype] * element_count(shape)
    return Tensor(draw(names), datatype, shape, draw(st.binary(min_size=size, max_size=size)))


@st.composite
def requests(draw):
    inputs = tuple(draw(st.lists(tensors(), min_size=1, max_size=4)))
    if draw(st.booleans()):
        form = tuple((tensor.name, tensor.datatype, tensor.shape) for tensor in inputs)
        inputs = Packed(form, [tensor.data for tensor in inputs])
    return InferRequest(
        draw(names), draw(names), draw(names), inputs, draw(st.integers(1, 4096)), draw(st.integers(0, 1 << 40)),
        draw(st.lists(names, max_size=2).map(tuple)), draw(st.integers(0, 1 << 33)),
        draw(st.one_of(st.just(math.inf), st.floats(0, 1e9))), draw(st.one_of(st.none(), st.floats(0, 1e6))),
        draw(names), draw(st.sampled_from([None, *SPECS.values()])),
    )  # fmt: skip


@st.composite
def answers(draw):
    seconds = st.floats(0, 1e6)
    timing = Timing(*(draw(seconds) for _ in range(4)), draw(st.integers(0, 4096)), draw(seconds))
    return InferResponse(draw(names), draw(names), "an id", tuple(draw(st.lists(tensors(), max_size=3))), timing)


sizes = st.lists(st.integers(1, 200), max_size=60)


@given(st.lists(requests(), min_size=1, max_size=5), sizes)
def test_requests_come_out_as_they_went_in_however_the_stream_is_cut(sent, cuts):
    wire = Wire()
    for number, request in enumerate([*sent, *sent]):
        wire.requests.write(number, request)

    read = wire.read(cuts)

    assert read == list(enumerate([*sent, *sent]))
    assert all(one.spec is other.spec for (_, one), other in zip(read, [*sent, *sent], strict=True))


@given(st.lists(answers(), min_size=1, max_size=5), sizes)
def test_answers_come_out_as_they_went_in_but_for_the_id_that_the_reader_knows(sent, cuts):
    wire = Wire()
    for number, answer in enumerate(sent):
        wire.answers.write(number, answer)

    assert wire.read(cuts, "an id") == list(enumerate(sent))


def test_every_field_of_a_request_and_its_answer_travels():
    """One that is added must be added to the frames, or be left out here with a reason."""
    assert [field.name for field in fields(InferRequest)] == [
        "model_name", "model_version", "id", "inputs", "rows", "size", "outputs", "priority", "deadline", "timeout",
        "traceparent", "spec",
    ]  # fmt: skip
    assert [field.name for field in fields(InferResponse)] == ["model_name", "model_version", "id", "outputs", "timing"]
    assert [field.name for field in fields(Timing)] == [
        "queue", "compute_input", "compute_infer", "compute_output", "batch_rows", "started",
    ]  # fmt: skip


TENSORS = (Tensor("t", "BYTES", (2, 1), b"t" * CHUNK), Tensor("x", "UINT8", (3 * CHUNK, 1), b"x" * 3 * CHUNK))
LARGE = InferRequest("m", "1", "large", TENSORS, 1)


def test_a_large_request_is_received_in_a_buffer_of_its_own_and_its_tensors_are_views_of_it():
    wire = Wire()
    for number in range(3):
        wire.requests.write(number, replace(LARGE, id=str(number)))

    read = wire.read()

    assert [request.id for _, request in read] == ["0", "1", "2"]
    for _, request in read:
        assert all(type(tensor.data) is memoryview and tensor.data.readonly for tensor in request.inputs)
        assert [bytes(tensor.data) for tensor in request.inputs] == [tensor.data for tensor in LARGE.inputs]


def test_like_requests_are_described_once_and_different_ones_never_mixed_up_when_numbers_begin_afresh(monkeypatch):
    monkeypatch.setattr(templates, "MOST_TEMPLATES", 4)
    wire = Wire()
    sent = [
        InferRequest("m", "1", "", (Tensor("x", "UINT8", (n, 1), bytes(n)),), n) for n in (1, 2, 3, 1, 4, 5, 6, 1, 2)
    ]
    for number, request in enumerate(sent):
        wire.requests.write(number, request)
    kinds = [kind for kind, *_ in take(Inbound(), wire.data)]

    assert wire.read() == list(enumerate(sent))
    assert kinds.count(frames.REQUEST_TEMPLATE) == 8
    assert kinds.count(frames.REQUEST) == 9


def test_what_was_checked_against_a_spec_that_has_left_is_not_ready():
    wire = Wire()
    wire.requests = RequestWriter(wire._put, lambda _: 99)
    wire.requests.write(0, replace(LARGE, spec=SPECS[1]))

    with pytest.raises(ModelNotReady):
        wire.read()


def test_a_frame_longer_than_any_may_be_is_corrupt():
    with pytest.raises(CorruptFrame, match="at most 100 bytes, got one of 101"):
        take(Inbound(100), frame(frames.NOTE, 0, bytes(101)))


@given(requests(), st.data())
@example(LARGE, None)
def test_damaged_bytes_are_corrupt_or_another_request_and_nothing_else(request, data):
    """The peer is our own process: what is asked for is that the engine survives, not that each bit is checked."""
    wire = Wire()
    wire.requests.write(0, request)
    damaged = bytearray(wire.data)
    if data is None:
        del damaged[100:200]
    for _ in range(0 if data is None else data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    wire.data = bytes(damaged)
    reader = RequestReader(SPECS.get)
    try:
        for kind, number, body, start, stop in take(Inbound(1 << 20), wire.data):
            if kind == frames.REQUEST_TEMPLATE:
                reader.define(number, body, start, stop)
            elif kind == frames.REQUEST:
                read = reader.read(body, start, stop)

                assert sum(len(tensor.data) for tensor in read.inputs) <= len(wire.data)
    except (CorruptFrame, ValueError, ModelNotReady):  # what `End` ends the link at, and `Desk` answers
        pass
