import io
import json
import logging

import pytest

from server import log
from server.accounting import Accountant
from server.counts import RequestCounts
from server.messages import InferRequest, Timing
from server.transports.base import StatusCode
from server.wire.observer import Outcome

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


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
    request = InferRequest("churn", "1", "id-1", (), 2, traceparent=f"00-{TRACE}-00f067aa0ba902b7-01")

    Accountant(counts, 10).finished(
        outcome(model="churn", version="1", request=request, timing=Timing(queue=0.001, batch_rows=8))
    )

    (line,) = written()
    assert counts.snapshot()[0] == {("churn", "1", "ModelInfer", "OK"): 1}
    assert (line["event"], line["model"], line["id"], line["rows"]) == ("request", "churn", "id-1", 2)
    assert (line["ms"], line["queue_ms"], line["batch_rows"]) == (12.5, 1.0, 8)
    assert line["trace_id"] == TRACE


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


@pytest.mark.parametrize("flags", ["00", "01"])
def test_a_line_has_the_callers_trace_id_also_where_nothing_is_traced_here(written, flags):
    metadata = [("traceparent", f"00-{TRACE}-00f067aa0ba902b7-{flags}")]

    Accountant(RequestCounts(), 10).finished(outcome(StatusCode.UNAUTHENTICATED, metadata=metadata))

    assert [line["trace_id"] for line in written()] == [TRACE]


def test_what_is_no_traceparent_is_not_written(written):
    Accountant(RequestCounts(), 10).finished(outcome(metadata=[("traceparent", "00-secret-text-01")]))

    assert ["trace_id" in line for line in written()] == [False]


@pytest.mark.parametrize(("flags", "linked"), [("01", TRACE), ("00", "")])
def test_an_example_names_the_request_and_its_trace_if_that_was_kept(flags, linked):
    counts = RequestCounts()
    request = InferRequest("churn", "1", "id-1", (), 2, traceparent=f"00-{TRACE}-00f067aa0ba902b7-{flags}")

    Accountant(counts, 0).finished(outcome(model="churn", version="1", request=request))

    (example,) = [e for e in counts.snapshot()[1]["churn", "1", "ModelInfer"].examples if e is not None]
    assert (example.seconds, example.request_id, example.trace_id) == (0.0125, "id-1", linked)
