"""What a refusal saves: requests like the one before it are refused unread, and only for a moment."""

from dataclasses import replace

import pytest

from server.errors import DeadlineUnreachable, QueueFull, Unauthenticated
from server.transports.base import StatusCode
from server.wire.refusals import ALIKE, KEPT
from tests.wire import CHURN, INFER, MNIST, Bench, message

BUDGET = 0.1
REFUSAL = "expected a deadline at least 150.0 ms away, got 100.0 ms"


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def refused(clock, *specs, refusal=None, rows=1):
    """Return a wire whose queue has just refused a request, and will refuse none that it is asked for again."""
    bench = Bench(*specs)
    bench.methods[INFER].handler._refusals._clock = clock
    bench.queue.refusals.append(refusal or DeadlineUnreachable(REFUSAL, retry_after=0.05))
    first = bench.start(message(specs[0] if specs else CHURN, rows), remaining=BUDGET)
    assert first.code is StatusCode.RESOURCE_EXHAUSTED
    return bench


def ask(bench, promised=CHURN, remaining=BUDGET, **more):
    return bench.start(message(promised, **more), remaining=remaining).code


def test_what_is_like_a_refused_request_is_refused_without_asking(clock):
    bench = refused(clock)
    call = bench.start(message(CHURN), remaining=BUDGET)

    assert (call.code, call.details) == (StatusCode.RESOURCE_EXHAUSTED, "expected a deadline at least 150.0 ms away")
    assert dict(call.trailers) == {"grpc-retry-pushback-ms": "50"}
    assert bench.queue.submitted == []
    assert bench.queue.rejected == [("churn", "1", "predicted_miss")]
    assert [(one.model, one.code, one.reason) for one in bench.recorder.outcomes] == [
        ("churn", StatusCode.RESOURCE_EXHAUSTED, "predicted_miss")
    ] * 2
    assert bench.admission.inflight == 0


def test_after_a_moment_the_queue_is_asked_again(clock):
    bench = refused(clock)
    clock.now += KEPT

    assert ask(bench) is StatusCode.OK
    assert len(bench.queue.submitted) == 1


@pytest.mark.parametrize("remaining", [None, BUDGET * 1.01, BUDGET * ALIKE * 0.99])
def test_who_has_more_time_or_goes_before_the_others_is_asked_for(clock, remaining):
    assert ask(refused(clock), remaining=remaining) is StatusCode.OK


def test_another_model_and_another_version_are_asked_for(clock):
    assert ask(refused(clock), MNIST) is StatusCode.OK
    bench = refused(clock)
    named = message(CHURN)
    named.model_version = "1"

    assert bench.start(named, remaining=BUDGET).code is StatusCode.OK


def prioritised(spec):
    return replace(spec, config=replace(spec.config, batching=replace(spec.config.batching, priority_levels=2)))


def cached(spec):
    return replace(spec, config=replace(spec.config, response_cache=True))


@pytest.mark.parametrize("changed", [prioritised, cached])
def test_a_model_whose_requests_may_fare_differently_is_asked_for_each(clock, changed):
    spec = changed(CHURN)

    assert ask(refused(clock, spec), spec) is StatusCode.OK


def test_a_refused_request_of_several_rows_says_nothing_of_smaller_ones(clock):
    assert ask(refused(clock, rows=2)) is StatusCode.OK


def test_a_full_queue_is_asked_each_time(clock):
    assert ask(refused(clock, refusal=QueueFull("full", retry_after=0.05))) is StatusCode.OK


def test_who_may_not_call_is_not_told_of_the_load(clock):
    bench = refused(clock)
    bench.methods[INFER].handler._gate.authenticator.check = _refuse

    assert bench.start(message(CHURN), remaining=BUDGET).code is StatusCode.UNAUTHENTICATED


def _refuse(*_):
    raise Unauthenticated("who are you")
