"""A request that waited in Redis may be older than the version that is to answer it."""

import pytest

from server.errors import InvalidRequest
from server.fleet.workers import Target, _submit
from server.messages import InferRequest, Tensor
from server.spec import ModelConfig, ModelSpec, TensorSpec

SPEC = ModelSpec(
    "m", "2", "", (TensorSpec("x", "FP32", (-1, 4)), TensorSpec("hint", "INT64", (-1, 1), optional=True)), (), 8,
    ModelConfig("m"),
)  # fmt: skip


def submitted(*tensors: Tensor) -> list[InferRequest]:
    taken = []
    target = Target(SPEC, "CPUExecutionProvider", lambda request, reply: taken.append(request), 8, newest=True)
    _submit(target, InferRequest("m", "", "", tensors, 1), print)
    return taken


def test_what_fits_runs_under_the_version_that_answers():
    (request,) = submitted(Tensor("x", "FP32", (1, 4), bytes(16)))

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
        submitted(*tensors)
