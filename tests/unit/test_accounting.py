import io
import json
import logging
import time

import pytest

from server import log
from server.accounting import Accountant, Traced, WorkLog
from server.counts import RequestCounts
from server.errors import InferenceFailed, InvalidValues
from server.messages import InferRequest, InferResponse, Timing
from server.queues.claims import Claim
from server.statistics import SECONDS_BUCKETS
from server.transports.base import StatusCode
from server.wire.observer import Outcome
from server.work import Work

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


def test_calls_that_were_turned_away_are_counted_one_by_one_and_written_as_one_line(written):
    counts = RequestCounts()
    accountant = Accountant(counts, 1)
    accountant.shed("/inference.GRPCInferenceService/ModelInfer", StatusCode.RESOURCE_EXHAUSTED, "too_late", 7)
    accountant.shed("/inference.GRPCInferenceService/ModelInfer", StatusCode.RESOURCE_EXHAUSTED, "too_late", 5)

    (line,) = written()
    assert (line["event"], line["calls"], line["reason"]) == ("requests_shed", 7, "too_late")
    calls, seconds = counts.snapshot()
    assert calls == {("", "", "ModelInfer", "RESOURCE_EXHAUSTED"): 12}
    assert sum(seconds["", "", "ModelInfer"].counts) == 12


METHOD = "/inference.GRPCInferenceService/ModelInfer"


def measured(counts):
    """Return what was counted of OK, and how many durations are below 25 ms and above."""
    calls, seconds = counts.snapshot()
    split = SECONDS_BUCKETS.index(0.025) + 1
    durations = seconds["churn", "1", "ModelInfer"].counts
    return calls["churn", "1", "ModelInfer", "OK"], sum(durations[:split]), sum(durations[split:])


def test_a_meter_counts_what_needs_no_line_and_leaves_the_rest_to_be_heard_of(written):
    counts = RequestCounts()
    accountant = Accountant(counts, 1)
    meter = accountant.meter(METHOD, "churn", "1")
    whole = outcome(model="churn", version="1")

    first = meter.suffices(whole.seconds)  # there is room for a line, and no example
    accountant.finished(whole)
    alike = [meter.suffices(whole.seconds) for _ in range(3)]
    slow = meter.suffices(3.0)  # no example of so long a one

    assert (first, alike, slow) == (False, [True] * 3, False)
    assert measured(counts) == (4, 4, 0)
    assert len(written()) == 1


def test_what_a_meter_counted_is_held_back_like_any_line(written, monkeypatch):
    counts = RequestCounts()
    accountant = Accountant(counts, 1)
    accountant.finished(outcome(model="churn", version="1"))
    meter = accountant.meter(METHOD, "churn", "1")
    assert [meter.suffices(0.0125) for _ in range(2)] == [True] * 2
    monkeypatch.setattr(accountant._usual, "_clock", lambda: time.monotonic() + 1)
    assert not meter.suffices(0.0125)
    accountant.finished(outcome(model="churn", version="1"))

    assert [line.get("skipped") for line in written()] == [None, 2]


def test_a_traced_call_is_never_left_to_a_meter():
    counts = RequestCounts()
    meter = Traced(Accountant(counts, 0), tracing=None).meter(METHOD, "churn", "1")

    assert [meter.suffices(0.0125) for _ in range(3)] == [False] * 3
    assert counts.snapshot()[0] == {}


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


def work(outcome, *, reply_to="", traceparent=""):
    request = InferRequest("churn", "", "id-1", (), 2, traceparent=traceparent)
    return Work(Claim("churn-0123", request, 2, 1, "1-0", reply_to), outcome, time.monotonic() - 0.5)


@pytest.mark.parametrize(("reply_to", "event"), [("", "job_run"), ("frontend-1", "request_run")])
def test_a_workers_line_has_the_jobs_id_and_the_trace_it_belongs_to(written, reply_to, event):
    outcome = InferResponse("churn", "3", "id-1", (), Timing(queue=0.001, compute_infer=0.002, batch_rows=8))

    WorkLog(10, None).worked(work(outcome, reply_to=reply_to, traceparent=f"00-{TRACE}-00f067aa0ba902b7-00"))

    (line,) = written()
    assert (line["event"], line["key"], line["id"], line["trace_id"]) == (event, "churn-0123", "id-1", TRACE)
    assert (line["outcome"], line["version"], line["attempt"], line["batch_rows"]) == ("done", "3", 2, 8)
    assert 500 <= line["ms"] < 30_000


def test_a_workers_line_tells_the_cause_of_its_own_failures_only(written):
    log_of_work = WorkLog(10, None)

    log_of_work.worked(work(InferenceFailed("the session died")))
    log_of_work.worked(work(InvalidValues("what the caller sent")))

    failed, refused = written()
    assert (failed["level"], failed["outcome"], failed["error"]) == ("warning", "InferenceFailed", "the session died")
    assert (refused["level"], refused["outcome"]) == ("info", "InvalidValues")
    assert "error" not in refused
    assert "trace_id" not in refused


def test_a_workers_lines_are_sampled_and_failures_apart(written):
    log_of_work, done = WorkLog(1, None), InferResponse("churn", "3", "id-1", ())

    for outcome in (done, done, done, InferenceFailed("x")):
        log_of_work.worked(work(outcome))

    assert [line["outcome"] for line in written()][-1] == "InferenceFailed"
    assert len(written()) <= 3  # a second may have begun between them
