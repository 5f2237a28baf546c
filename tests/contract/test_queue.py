"""The promises of server/queues/base.py, for every implementation."""

import threading

import pytest

from server.errors import Cancelled, DeadlineExceeded, InvalidValues, ModelNotReady, QueueFull
from server.messages import InferResponse
from tests.contract.queue_contract import BOUND, HARNESSES, REFUSED

TOLERANCE = 0.020


@pytest.fixture(params=sorted(HARNESSES))
def harness(request):
    made = HARNESSES[request.param]()
    yield made
    made.close()


def test_every_request_is_answered_once_with_its_own_rows(harness):
    answers = [harness.submit([value]) for value in range(BOUND)]
    harness.wait(*answers)
    harness.advance(0.1)

    assert [answer.values for answer in answers] == [[value] for value in range(BOUND)]


def test_many_rows_in_one_request_come_back_in_order(harness):
    answer = harness.submit(range(200))
    harness.wait(answer)

    assert answer.values == list(range(200))


def test_the_answer_says_who_gave_it(harness):
    answer = harness.submit([1], id="abc")
    harness.wait(answer)

    assert (answer.outcome.model_name, answer.outcome.model_version, answer.outcome.id) == ("m", "1", "abc")
    assert answer.outcome.timing.batch_rows == 1


def test_a_request_expires_at_its_deadline_while_every_instance_is_busy(harness):
    harness.hold()
    harness.submit()
    answers = [harness.submit([7], budget=0.2) for _ in range(10)]
    harness.wait(*answers)
    harness.resume()
    harness.advance(0.1)

    assert all(isinstance(answer.outcome, DeadlineExceeded) for answer in answers)
    assert all(0.2 <= answer.seconds <= 0.2 + TOLERANCE for answer in answers)
    assert 7 not in harness.computed()


def test_a_request_that_already_runs_is_answered_at_its_deadline_too(harness):
    harness.hold()
    answer = harness.submit(budget=0.2)
    harness.wait(answer)

    assert isinstance(answer.outcome, DeadlineExceeded)
    assert 0.2 <= answer.seconds <= 0.2 + TOLERANCE


def test_a_deadline_already_past_is_refused(harness):
    with pytest.raises(DeadlineExceeded):
        harness.submit(budget=-0.001)


def test_a_full_queue_refuses_and_says_when_to_come_back(harness):
    harness.hold()
    running = harness.submit()
    waiting = [harness.submit() for _ in range(BOUND)]
    with pytest.raises(QueueFull) as refusal:
        harness.submit()
    harness.resume()
    harness.wait(running, *waiting)

    assert refusal.value.retry_after > 0
    assert all(isinstance(answer.outcome, InferResponse) for answer in waiting)

    again = harness.submit()
    harness.wait(again)


def test_a_request_cancelled_while_it_waits_is_never_computed(harness):
    harness.hold()
    running = harness.submit([1])
    cancelled, kept = harness.submit([8]), harness.submit([9])
    cancelled.ticket.cancel()
    cancelled.ticket.cancel()
    harness.resume()
    harness.wait(running, cancelled, kept)

    assert isinstance(cancelled.outcome, Cancelled)
    assert kept.values == [9]
    assert harness.computed() == [1, 9]


def test_a_request_cancelled_while_it_runs_is_answered_at_once_and_disturbs_nobody(harness):
    harness.hold()
    cancelled = harness.submit([8])
    cancelled.ticket.cancel()
    harness.advance(0.05)
    harness.resume()
    other = harness.submit([9])
    harness.wait(cancelled, other)

    assert isinstance(cancelled.outcome, Cancelled)
    assert other.values == [9]


def test_cancelling_an_answered_request_changes_nothing(harness):
    answer = harness.submit([5])
    harness.wait(answer)
    answer.ticket.cancel()
    harness.advance(0.05)

    assert answer.values == [5]


def test_values_the_model_cannot_compute_fail_alone(harness):
    harness.hold()
    running = harness.submit([0])
    answers = [harness.submit([value]) for value in (1, 2, REFUSED, 4)]
    harness.resume()
    harness.wait(running, *answers)

    assert isinstance(answers[2].outcome, InvalidValues)
    assert [answer.values for answer in answers if answer is not answers[2]] == [[1], [2], [4]]


def test_a_reply_may_submit_the_next_request(harness):
    following = []
    first = harness.submit([1], reply=lambda _: following.append(harness.submit([2])))
    harness.wait(first)
    harness.wait(*following)

    assert following[0].values == [2]


def test_a_reply_that_raises_takes_nobody_with_it(harness, monkeypatch):
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    harness.hold()
    running = harness.submit([0])
    broken = harness.submit([1], reply=lambda _: 1 / 0)
    other = harness.submit([2])
    harness.resume()
    harness.wait(running, broken, other)

    assert other.values == [2]


def test_a_model_out_of_service_takes_nothing_new_and_answers_what_it_had(harness):
    answers = [harness.submit([value]) for value in range(20)]
    harness.retire()
    with pytest.raises(ModelNotReady):
        harness.submit()
    harness.wait(*answers)

    assert [answer.values for answer in answers] == [[value] for value in range(20)]


def test_a_model_nobody_serves_is_not_ready(harness):
    with pytest.raises(ModelNotReady):
        harness.submit(version="9")


def test_statistics_tell_what_waits_and_what_runs(harness):
    harness.hold()
    harness.submit([1])
    harness.advance(0.01)
    harness.submit([1, 2, 3])
    harness.advance(0.01)
    shown = harness.queue.statistics()[("m", "1")]

    assert (shown.depth, shown.rows, shown.running, shown.max_depth) == (1, 3, 1, BOUND)
    assert shown.oldest_age >= 0.01


def test_statistics_of_an_idle_queue_are_zero(harness):
    shown = harness.queue.statistics()[("m", "1")]

    assert (shown.depth, shown.rows, shown.running, shown.oldest_age) == (0, 0, 0, 0.0)
