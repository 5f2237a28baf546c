import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import InferenceFailed, QueueFull, ServingError
from server.messages import NO_DEADLINE, InferRequest, InferResponse, Tensor, Timing
from server.queues.envelope import (
    DamagedEnvelope,
    decode_outcome,
    decode_request,
    encode_outcome,
    encode_request,
    fingerprint,
)

TEXT = st.text(max_size=20)
TENSORS = st.lists(
    st.builds(
        Tensor,
        name=TEXT,
        datatype=st.sampled_from(["FP32", "BYTES", "INT64"]),
        shape=st.lists(st.integers(0, 1 << 40), max_size=4).map(tuple),
        data=st.binary(max_size=200),
    ),
    max_size=4,
).map(tuple)
REQUESTS = st.builds(
    InferRequest,
    model_name=TEXT,
    model_version=TEXT,
    id=TEXT,
    inputs=TENSORS,
    rows=st.integers(0, 1 << 20),
    size=st.integers(0, 1 << 20),
    outputs=st.lists(TEXT, max_size=3).map(tuple),
    priority=st.integers(0, 1 << 32),
    timeout=st.none() | st.floats(0, 1e6),
    traceparent=TEXT,
)
RESPONSES = st.builds(
    InferResponse, model_name=TEXT, model_version=TEXT, id=TEXT, outputs=TENSORS, timing=st.builds(Timing)
)


@given(REQUESTS)
def test_a_request_comes_back_as_it_was(request_):
    assert decode_request(encode_request(request_)) == request_


@given(RESPONSES)
def test_an_answer_comes_back_as_it_was(response):
    assert decode_outcome(encode_outcome(response)) == response


def test_the_deadline_is_the_receivers_business():
    sent = InferRequest("m", "1", "", (), 1, deadline=123.0)

    assert decode_request(encode_request(sent)).deadline == NO_DEADLINE
    assert math.isclose(decode_request(encode_request(sent), 55.0).deadline, 55.0)


def test_errors_keep_their_class_text_and_hint():
    back = decode_outcome(encode_outcome(QueueFull("queue: it is full", retry_after=0.5)))

    assert (type(back), str(back), back.retry_after) == (QueueFull, "queue: it is full", 0.5)
    assert type(decode_outcome(encode_outcome(InferenceFailed("x")))) is InferenceFailed


def test_an_error_of_a_newer_build_is_still_an_error():
    class FromTheFuture(ServingError):
        pass

    back = decode_outcome(encode_outcome(FromTheFuture("new")))

    assert (type(back), str(back)) == (ServingError, "new")


SENT = encode_request(InferRequest("m", "1", "id", (Tensor("x", "FP32", (1,), b"abcd"),), 1))


@pytest.mark.parametrize("place", range(len(SENT)))
def test_no_changed_byte_goes_unnoticed(place):
    damaged = bytearray(SENT)
    damaged[place] ^= 0x40
    with pytest.raises(DamagedEnvelope):
        decode_request(bytes(damaged))


@given(st.integers(0, len(SENT) - 1))
def test_no_cut_goes_unnoticed(length):
    with pytest.raises(DamagedEnvelope):
        decode_request(SENT[:length])


@given(st.binary(max_size=100))
def test_junk_is_damaged_and_nothing_worse(junk):
    with pytest.raises(DamagedEnvelope):
        decode_request(junk)
    with pytest.raises(DamagedEnvelope):
        decode_outcome(junk)


def test_a_request_is_not_an_answer():
    with pytest.raises(DamagedEnvelope, match="expected it to start with"):
        decode_outcome(SENT)


def test_the_fingerprint_is_of_the_work_not_of_the_call():
    base = InferRequest("m", "1", "a", (Tensor("x", "FP32", (1,), b"abcd"),), 1)
    same = InferRequest("m", "1", "b", base.inputs, 1, priority=1, deadline=5.0, traceparent="00-1")
    others = [
        InferRequest("m", "2", "a", base.inputs, 1),
        InferRequest("m", "1", "a", base.inputs, 1, outputs=("y",)),
        InferRequest("m", "1", "a", (Tensor("x", "FP32", (1,), b"abce"),), 1),
        InferRequest("m", "1", "a", (Tensor("x", "INT32", (1,), b"abcd"),), 1),
    ]

    assert fingerprint(base) == fingerprint(same)
    assert len({fingerprint(request) for request in (base, *others)}) == 5
