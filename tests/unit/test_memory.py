from dataclasses import replace

import pytest

from server.errors import ModelNotReady, ShuttingDown
from server.messages import InferRequest
from server.queues.memory import MemoryQueue
from server.spec import ModelConfig, ModelSpec

REQUEST = InferRequest("m", "1", "", (), rows=1)


class Draining:
    """A scheduler that drains, and lets something happen the moment a request meets it."""

    spec = None

    def __init__(self, meanwhile=lambda: None):
        self._meanwhile = meanwhile

    def submit(self, request, reply):
        self._meanwhile()
        raise ShuttingDown("the model is shutting down")


def test_a_version_that_is_not_in_service_is_not_ready():
    with pytest.raises(ModelNotReady):
        MemoryQueue(lambda name, version: None, list).submit(REQUEST, print)


@pytest.mark.parametrize("successor", [None, Draining()])
def test_a_version_that_leaves_between_look_up_and_submit_is_not_ready_so_that_the_caller_looks_again(successor):
    serving = {}
    serving["m", "1"] = Draining(lambda: serving.update({("m", "1"): successor}))

    with pytest.raises(ModelNotReady, match="no longer in service"):
        MemoryQueue(lambda name, version: serving[name, version], list).submit(REQUEST, print)


def test_a_server_that_drains_says_so():
    target = Draining()

    with pytest.raises(ShuttingDown):
        MemoryQueue(lambda name, version: target, list).submit(REQUEST, print)


class Taking:
    """A scheduler that takes what it gets."""

    def __init__(self, spec):
        self.spec = spec
        self.taken = []

    def submit(self, request, reply):
        self.taken.append(request)


def test_a_request_that_was_checked_against_a_model_since_reloaded_does_not_reach_the_new_one():
    before, after = (ModelSpec("m", "1", "", (), (), 8, ModelConfig("m")) for _ in range(2))
    target = Taking(after)
    queue = MemoryQueue(lambda name, version: target, list)

    with pytest.raises(ModelNotReady, match="no longer in service"):
        queue.submit(replace(REQUEST, spec=before), print)
    assert target.taken == []

    for spec in (after, None):  # None: another process checked it, and answers for it
        queue.submit(replace(REQUEST, spec=spec), print)
    assert [request.spec for request in target.taken] == [after, None]
