"""A request that waited in Redis may be older than the version that is to answer it."""

import pytest

from server.errors import InvalidRequest
from server.fleet.entrance import Entrance
from server.messages import InferRequest, Packed, Tensor
from server.spec import ModelConfig, ModelSpec, TensorSpec

SPEC = ModelSpec(
    "m", "2", "", (TensorSpec("x", "FP32", (-1, 4)), TensorSpec("hint", "INT64", (-1, 1), optional=True)), (), 8,
    ModelConfig("m"),
)  # fmt: skip


def submitted(*requests) -> list[InferRequest]:
    taken = []
    entrance = Entrance(SPEC, lambda request, reply: taken.append(request))
    for inputs in requests:
        entrance(InferRequest("m", "", "", inputs, 1), print)
    return taken


def test_what_fits_runs_under_the_version_that_answers():
    (request,) = submitted((Tensor("x", "FP32", (1, 4), bytes(16)),))

    assert request.model_version == "2"


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ([Tensor("x", "INT32", (1, 4), bytes(16))], r"'x': version 2 takes FP32 \[-1, 4\], .* with INT32 \[1, 4\]"),
        ([Tensor("x", "FP32", (1, 2), bytes(8))], r"takes FP32 \[-1, 4\], the request was accepted with FP32 \[1, 2\]"),
        ([Tensor("old", "FP32", (1, 4), bytes(16))], "'old': version 2 takes no such input"),
        ([Tensor("hint", "INT64", (1, 1), bytes(8))], "takes input 'x' as well, the request has none"),
    ],
)
def test_what_does_not_fit_is_refused_and_never_misread(tensors, says):
    with pytest.raises(InvalidRequest, match=says):
        submitted(tensors)


def test_each_form_is_checked_however_many_others_fitted():
    good, bad = (("x", "FP32", (1, 4)),), (("x", "FP32", (1, 2)),)

    taken = submitted(*[Packed(good, [bytes(16)])] * 3)
    with pytest.raises(InvalidRequest, match=r"was accepted with FP32 \[1, 2\]"):
        submitted(Packed(good, [bytes(16)]), Packed(bad, [bytes(8)]))

    assert [request.model_version for request in taken] == ["2"] * 3


def test_a_plain_request_is_checked_after_a_packed_one_as_well():
    with pytest.raises(InvalidRequest, match="takes input 'x' as well"):
        submitted(Packed((("x", "FP32", (1, 4)),), [bytes(16)]), ())
