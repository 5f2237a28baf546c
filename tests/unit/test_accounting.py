import io
import json
import logging

import pytest

from server import log
from server.accounting import Accountant
from server.messages import InferRequest, Timing
from server.metrics import RequestCounts
from server.transports.base import StatusCode
from server.wire.observer import Outcome


@pytest.fixture
def written():
    logger = logging.getLogger("sluice")
    before = (logger.handlers[:], logger.propagate, logger.level)
    stream = io.StringIO()
    log.setup("json", "info", stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    logger.handlers[:], logger.propagate = before[0], before[1]
    logger.setLevel(before[2])


def outcome(code=StatusCode.OK, **fields):
    return Outcome("/inference.GRPCInferenceService/ModelInfer", code, 0.0125, "ipv4:127.0.0.1:5", **fields)


def test_a_request_is_counted_and_written_as_one_line(written):
    counts = RequestCounts()
    request = InferRequest("churn", "1", "id-1", (), 2, traceparent="00-ab-cd-01")

    Accountant(counts, 10).finished(
        outcome(model="churn", version="1", request=request, timing=Timing(queue=0.001, batch_rows=8))
    )

    (line,) = written()
    assert counts.snapshot()[0] == {("churn", "1", "ModelInfer", "OK"): 1}
    assert (line["event"], line["model"], line["id"], line["rows"]) == ("request", "churn", "id-1", 2)
    assert (line["ms"], line["queue_ms"], line["batch_rows"]) == (12.5, 1.0, 8)
    assert line["traceparent"] == "00-ab-cd-01"


def test_everything_is_counted_while_lines_are_sampled(written):
    counts = RequestCounts()
    accountant = Accountant(counts, 0)

    for _ in range(5):
        accountant.finished(outcome())

    assert written() == []
    assert counts.snapshot()[0] == {("", "", "ModelInfer", "OK"): 5}


def test_our_own_faults_keep_their_lines_when_successes_have_used_up_theirs(written):
    accountant = Accountant(RequestCounts(), 1)
    for _ in range(3):
        accountant.finished(outcome())

    accountant.finished(outcome(StatusCode.INTERNAL, reason="failed"))

    assert [(line["level"], line["code"]) for line in written()][-1] == ("error", "INTERNAL")
