import threading
import time

import pytest

from server.accounting import Accountant, Traced
from server.counts import FOLD, RequestCounts
from server.messages import InferRequest, Timing
from server.statistics import SECONDS_BUCKETS
from server.transports.base import StatusCode
from server.wire.observer import Outcome

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


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


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Call:
    """An RPC that has ended with OK."""

    def __init__(self, started, ident):
        self.started = started
        self.request = InferRequest("churn", "1", ident, (), 1)

    def outcome(self, seconds):
        return Outcome(METHOD, StatusCode.OK, seconds, "ipv4:127.0.0.1:5", "churn", "1", request=self.request)


class Turns:
    """An accountant of a thread that has turns, with one meter, and calls that take 12.5 ms unless said otherwise."""

    def __init__(self, lines_per_second):
        self.clock, self.counts = Clock(), RequestCounts()
        self.accountant = Accountant(self.counts, lines_per_second, self.clock)
        self.meter = self.accountant.meter(METHOD, "churn", "1")
        self.accountant.begin()

    def end(self, *idents, seconds=0.0125):
        for ident in idents:
            self.meter.add(Call(self.clock.now - seconds, ident))

    def examples(self):
        _, durations = self.counts.snapshot()
        return {example.request_id for example in durations["churn", "1", "ModelInfer"].examples if example is not None}


def test_what_ended_in_one_turn_is_counted_at_its_end_and_once(written):
    turns = Turns(0)

    turns.end("a", "b")
    turns.end("slow", seconds=3.0)
    before = turns.counts.snapshot()[0]
    turns.accountant.settle()
    turns.accountant.settle()

    assert sum(before.values()) == 0
    assert measured(turns.counts) == (3, 2, 1)
    assert written() == []


def test_a_call_takes_until_the_end_of_its_turn_when_its_answer_leaves():
    turns = Turns(0)

    turns.end("a")
    turns.clock.now += 3.0
    turns.accountant.settle()

    assert measured(turns.counts) == (1, 0, 1)


def test_what_another_thread_ends_is_counted_at_once():
    turns = Turns(0)

    elsewhere = threading.Thread(target=turns.end, args=("a", "b"))
    elsewhere.start()
    elsewhere.join()

    assert measured(turns.counts) == (2, 2, 0)
    assert turns.accountant.unsettled == []


def test_each_bucket_gets_one_example_of_a_turn_and_no_second_one_until_it_was_read():
    turns = Turns(0)
    turns.end("a", "b")
    turns.end("slow", seconds=3.0)
    turns.accountant.settle()
    turns.end("c")
    turns.end("slower", seconds=3.1)
    turns.accountant.settle()
    first = turns.examples()

    turns.end("d")
    turns.end("slowest", seconds=3.2)
    turns.accountant.settle()

    assert first == {"a", "slow"}
    assert turns.examples() == {"d", "slowest"}


@pytest.mark.parametrize("held", [1, FOLD - 1, FOLD, 2 * FOLD + 1])
def test_what_got_no_line_is_told_of_by_the_next_one_also_from_another_thread(written, held):
    turns = Turns(1)
    turns.end("a")
    turns.accountant.settle()
    turns.end(*["b"] * held)
    turns.accountant.settle()
    elsewhere = threading.Thread(target=turns.end, args=("c",))
    elsewhere.start()
    elsewhere.join()
    turns.clock.now += 1
    turns.accountant.finished(outcome())

    assert [line.get("skipped", 0) for line in written()] == [0, held + 1]
    assert measured(turns.counts) == (held + 2, held + 2, 0)


def test_an_rpc_that_began_while_there_was_no_room_has_a_line_if_there_is_when_it_ends(written):
    turns = Turns(1)
    turns.end("a", "b")
    turns.accountant.settle()
    turns.clock.now += 1.0
    turns.end("c", seconds=0.99)
    turns.end("d")
    turns.accountant.settle()

    assert [(line["id"], line.get("skipped", 0)) for line in written()] == [("a", 0), ("c", 1)]


def test_of_a_full_second_only_what_may_be_an_example_at_the_end_of_its_turn_is_looked_at(monkeypatch):
    turns, looked_at, lasted = Turns(1), [], 0.002
    for _ in range(2):
        turns.end("a", "b")
        turns.clock.now += lasted
        turns.accountant.settle()
    monkeypatch.setattr(turns.accountant, "tell", lambda _, __, ended, ___: looked_at.append(ended.request.id))
    turns.end("like the others", *["c"] * 100)
    turns.end("like them when it ends", seconds=0.009)
    turns.end("slow", seconds=3.0)
    turns.end("fast", seconds=0.0001)
    turns.clock.now += lasted
    turns.accountant.settle()

    assert looked_at == ["slow", "fast"]


def test_of_a_turn_all_that_gets_no_line_is_held_back_whether_it_was_looked_at_or_not(written):
    turns = Turns(1)
    turns.end("a", "b")
    turns.accountant.settle()
    turns.end("c", "d")
    turns.end("slow", seconds=3.0)
    turns.accountant.settle()
    turns.clock.now += 1.0
    turns.end("e")
    turns.accountant.settle()

    assert [(line["id"], line.get("skipped", 0)) for line in written()] == [("a", 0), ("e", 4)]


def test_a_turn_writes_the_lines_that_its_second_has_room_for_and_the_next_tells_of_the_others(written):
    turns = Turns(2)
    turns.end("a", "b", "c", "d", "e")
    turns.accountant.settle()
    turns.end("f")
    turns.accountant.settle()
    turns.clock.now += 1
    turns.end("g", "h", "i")
    turns.accountant.settle()
    turns.clock.now += 1
    turns.end("j")
    turns.accountant.settle()

    assert [(line["id"], line.get("skipped", 0)) for line in written()] == [
        ("a", 0), ("b", 0), ("g", 4), ("h", 0), ("j", 1)
    ]  # fmt: skip
    assert {line["ms"] for line in written()} == {12.5}


def test_a_traced_call_is_told_of_at_once_and_whole():
    class Spans:
        def __init__(self):
            self.of = []

        def rpc(self, outcome):
            self.of.append(outcome.request.id)

    counts, spans = RequestCounts(), Spans()
    accountant = Accountant(counts, 0)
    accountant.begin()
    meter = Traced(accountant, spans).meter(METHOD, "churn", "1")

    meter.add(Call(time.monotonic() - 0.0125, "a"))

    assert spans.of == ["a"]
    assert counts.snapshot()[0] == {("churn", "1", "ModelInfer", "OK"): 1}


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
