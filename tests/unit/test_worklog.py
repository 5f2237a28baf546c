import time

import pytest

from server.errors import InferenceFailed, InvalidValues
from server.messages import InferRequest, InferResponse, Timing
from server.queues.claims import Claim
from server.work import Work
from server.worklog import WorkLog

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


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
