"""What a refusal saves: requests like the one before it are refused unread, and only for a moment."""

import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from server.errors import DeadlineUnreachable, QueueFull, Unauthenticated
from server.pb import open_inference_pb2 as pb
from server.spec import QueuePolicy
from server.transports.base import StatusCode
from server.wire import exchange
from server.wire.refusals import KEPT, LATER, PASSING, SOONER
from tests.wire import CHURN, INFER, LIMITS, MNIST, SENTIMENT, Bench, message

BUDGET, NEEDED = 0.1, 0.15
REFUSAL = "expected a deadline at least 150.0 ms away, got 100.0 ms"


class Clock:
    """The time, and how many rows have been worked off."""

    def __init__(self):
        self.now = 0.0
        self.taken = 1000

    def __call__(self):
        return self.now

    def refusal(self, retry_after=0.05, wait=1.0):
        return DeadlineUnreachable(REFUSAL, retry_after=retry_after, wait=wait, taken=lambda: self.taken)


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(exchange, "time", SimpleNamespace(monotonic=clock))
    return clock


def refused(clock, *specs, refusal=None, rows=1, first=None, remaining=BUDGET):
    """Return a wire whose queue has just refused a request, and will refuse none that it is asked for again."""
    bench = Bench(*specs)
    bench.methods[INFER].handler.refusals._clock = clock
    bench.queue.refusals.append(refusal or clock.refusal())
    first = bench.start(first or message(specs[0] if specs else CHURN, rows), deadline=clock.now + remaining)
    assert first.code is StatusCode.RESOURCE_EXHAUSTED
    return bench


def judged(bench, promised=CHURN, remaining=BUDGET, rows=1, waited=0.0):
    """Return what a transport is told of a message, before there is a call."""
    return bench.methods[INFER].shed.refuse(message(promised, rows).SerializeToString(), remaining, (), waited)


def test_what_is_like_a_refused_request_is_refused_without_asking(clock):
    bench = refused(clock)
    refusal = judged(bench)

    assert refusal.status.code is StatusCode.RESOURCE_EXHAUSTED
    assert refusal.status.details == "expected a deadline at least 150.0 ms away"
    assert dict(refusal.status.trailers) == {"grpc-retry-pushback-ms": "50"}
    assert message(CHURN).SerializeToString()[: refusal.alike - 1] == b"\x0a\x05churn"


def test_all_that_were_refused_so_are_counted_at_once(clock):
    bench = refused(clock)
    shed = bench.methods[INFER].shed
    for calls in (1, 20):
        judged(bench).count(calls)
    clock.now += KEPT * BUDGET
    assert judged(bench) is None
    shed.count(0)
    shed.count(0)

    assert bench.queue.rejected == [("churn", "1", "predicted_miss", 21)]
    assert bench.recorder.turned_away == [(INFER, StatusCode.RESOURCE_EXHAUSTED, "predicted_miss", 21, "churn", "1")]


def test_a_refusal_counts_no_longer_than_what_was_waiting_before_it(clock):
    bench = refused(clock, refusal=clock.refusal(wait=0.01))
    clock.now += 0.0099
    assert judged(bench) is not None
    clock.now += 0.0002

    assert judged(bench) is None


@pytest.mark.parametrize("refusal", [{"wait": 0.0015}, {"wait": 0.0}])
def test_where_hardly_anything_waits_each_is_asked_for(clock, refusal):
    assert judged(refused(clock, refusal=clock.refusal(**refusal))) is None


def test_where_nobody_counts_what_is_worked_off_each_is_asked_for(clock):
    assert judged(refused(clock, refusal=DeadlineUnreachable(REFUSAL, retry_after=0.05, wait=1.0))) is None


@pytest.mark.parametrize(("said", "once"), [(b"\x12\x00", b""), (b"\x12\x011\x12\x011", b"\x12\x011")])
def test_what_says_its_version_again_is_no_measure_for_others(clock, said, once):
    name, rest = b"\x0a\x05churn", message(CHURN).SerializeToString()[7:]
    bench = refused(clock, first=name + said + rest)
    other = refused(clock, first=name + once + rest)

    assert bench.methods[INFER].shed.refuse(name + once + rest, BUDGET, (), 0.0) is None
    assert other.methods[INFER].shed.refuse(name + once + rest, BUDGET, (), 0.0) is not None


def test_after_a_moment_the_queue_is_asked_again(clock):
    bench = refused(clock, refusal=clock.refusal(retry_after=1.0))
    clock.now += KEPT * BUDGET * 0.99
    assert judged(bench) is not None
    clock.now += KEPT * BUDGET * 0.02

    assert judged(bench) is None


def test_after_a_moment_nobody_is_asked_about_whatever_model_comes(clock):
    bench = refused(clock)
    clock.now += KEPT * BUDGET * 0.9
    bench.queue.refusals.append(clock.refusal())
    bench.start(message(MNIST), deadline=clock.now + BUDGET)
    recent = bench.methods[INFER].shed.recent
    clock.now += KEPT * BUDGET * 0.2
    assert judged(bench) is None
    assert judged(bench, MNIST) is not None
    clock.now += KEPT * BUDGET

    assert recent
    assert judged(bench, SENTIMENT) is None
    assert not recent


def test_as_many_pass_as_were_worked_off_since(clock):
    bench = refused(clock)
    assert judged(bench) is not None
    clock.taken += 4
    passed = [judged(bench) is None for _ in range(6)]
    clock.taken += 10
    passed += [judged(bench) is None for _ in range(12)]

    assert PASSING == 0.9
    assert passed == [True] * 4 + [False] * 2 + [True] * 9 + [False] * 3


def test_who_was_let_pass_is_refused_by_what_was_refused_since_it_came(clock):
    bench = refused(clock)
    clock.now += 0.004

    assert judged(bench, waited=0.005) is not None
    assert judged(bench, waited=0.003) is None


@pytest.mark.parametrize("remaining", [NEEDED * LATER * 1.01, BUDGET * SOONER * 0.99])
def test_who_has_more_time_or_goes_before_the_others_is_asked_for(clock, remaining):
    assert judged(refused(clock), remaining=remaining) is None


def test_another_model_and_another_version_are_asked_for(clock):
    bench = refused(clock)
    named = message(CHURN)
    named.model_version = "1"

    assert judged(bench, MNIST) is None
    assert bench.methods[INFER].shed.refuse(named.SerializeToString(), BUDGET, (), 0.0) is None


def prioritised(spec):
    return replace(spec, config=replace(spec.config, batching=replace(spec.config.batching, priority_levels=2)))


def cached(spec):
    return replace(spec, config=replace(spec.config, response_cache=True))


def with_less_time(spec):
    return queueing(spec, default_timeout=0.01)


def queueing(spec, **policy):
    batching = replace(spec.config.batching, default_queue_policy=QueuePolicy(**policy))
    return replace(spec, config=replace(spec.config, batching=batching))


@pytest.mark.parametrize("changed", [prioritised, cached, with_less_time])
def test_a_model_whose_requests_may_fare_differently_is_asked_for_each(clock, changed):
    spec = changed(CHURN)

    assert judged(refused(clock, spec), spec) is None


def test_a_refused_request_of_several_rows_says_nothing_of_smaller_ones(clock):
    assert judged(refused(clock, rows=2)) is None


@pytest.mark.parametrize(("allowed", "known"), [(True, False), (False, True)])
def test_who_gives_itself_less_time_than_it_has_says_nothing_of_others(clock, allowed, known):
    spec = queueing(CHURN, allow_timeout_override=allowed)
    hasty = message(spec)
    hasty.parameters["timeout"].int64_param = 1000

    assert (judged(refused(clock, spec, first=hasty), spec) is not None) is known


def test_time_that_no_request_is_given_does_not_count(clock):
    clock.now = time.monotonic()
    bench = refused(clock, remaining=100 * LIMITS.max_deadline)
    (known,) = bench.methods[INFER].handler.refusals.recent.values()

    assert LIMITS.max_deadline <= known.left < LIMITS.max_deadline + 10


@pytest.mark.parametrize("other", [MNIST, replace(CHURN, version="2")], ids=["model", "version"])
def test_a_message_that_names_a_model_and_then_another_says_nothing_of_the_first(clock, other):
    named = pb.ModelInferRequest(model_name=CHURN.name, model_version="1").SerializeToString()
    later = message(other)
    later.model_version = other.version
    bench = refused(clock, CHURN, other, first=named + later.SerializeToString())

    assert bench.methods[INFER].handler.refusals.recent == {}


def test_long_names_that_differ_at_their_end_are_told_apart(clock):
    one, other = (replace(CHURN, name="x" * 199 + end) for end in "ab")

    assert judged(refused(clock, one, other), other) is None


def test_a_full_queue_is_asked_each_time(clock):
    assert judged(refused(clock, refusal=QueueFull("full", retry_after=0.05))) is None


def test_who_may_not_call_is_not_told_of_the_load_and_takes_nobodys_place(clock):
    bench = refused(clock)
    authenticator = bench.methods[INFER].handler._gate.authenticator
    right, authenticator.check = authenticator.check, _refuse
    assert judged(bench) is None
    clock.taken += 2
    strangers = [judged(bench) for _ in range(10)]
    authenticator.check = right

    assert strangers == [None] * 10
    assert [judged(bench) is None for _ in range(3)] == [True, True, False]


def _refuse(*_):
    raise Unauthenticated("who are you")
