import gc
import threading
import weakref
from contextlib import nullcontext

import pytest

from server.errors import (
    Cancelled,
    DeadlineExceeded,
    DeadlineUnreachable,
    InferenceFailed,
    InvalidValues,
    QueueFull,
    ShuttingDown,
)
from server.messages import InferResponse, Tensor
from server.sessions.base import BatchOutputs, InstanceDied, OutOfMemory, RunFailed, RunTimedOut
from tests.unit.simulation import LIMITS, FakeInstance, Simulation, echo, limits, linear, spec


def nobody(*_):
    return False


def sizes(simulation, instance=0):
    return [sum(part.rows for part in batch) for batch in simulation.instances[instance].batches]


def submit(simulation, count, **fields):
    return [simulation.submit([i % 256], **fields)[0] for i in range(count)]


def kinds(simulation, numbers):
    return [type(simulation.outcome(number)) for number in numbers]


def failing(error, *culprits):
    """Return a behaviour that fails every batch with a culprit's value in it."""

    def behave(parts):
        if any(culprit in bytes(part.inputs[0].data) for part in parts for culprit in culprits):
            return error("as asked")
        return echo(parts)

    return behave


# Batches


def test_an_idle_instance_starts_at_once_and_what_comes_meanwhile_is_the_next_batch():
    simulation = Simulation()
    submit(simulation, 8)
    simulation.advance(1)

    assert sizes(simulation) == [1, 7]


def test_what_a_thread_submits_before_it_flushes_starts_together():
    simulation = Simulation()
    simulation.bundle.begin(nobody)
    submit(simulation, 8)

    assert sizes(simulation) == []
    assert simulation.bundle.waiting() == 1
    simulation.bundle.flush()
    assert (sizes(simulation), simulation.bundle.waiting()) == ([8], 0)
    simulation.bundle.flush()
    assert sizes(simulation) == [8]


def test_what_another_thread_submits_starts_at_once():
    simulation = Simulation()
    flushing = threading.Thread(target=simulation.bundle.begin, args=(nobody,))
    flushing.start()
    flushing.join()
    submit(simulation, 2)

    assert (sizes(simulation), simulation.bundle.waiting()) == ([1], 0)


def test_what_waits_for_a_flush_still_expires_and_can_be_cancelled():
    simulation = Simulation()
    simulation.bundle.begin(nobody)
    hasty, _ = simulation.submit([1], budget=0.5)
    late, ticket = simulation.submit([2])
    ticket.cancel()
    simulation.advance(1)
    simulation.bundle.flush()

    assert kinds(simulation, [hasty, late]) == [DeadlineExceeded, Cancelled]
    assert sizes(simulation) == []


def test_every_request_gets_its_own_rows():
    simulation = Simulation(instances=2)
    numbers = submit(simulation, 200)
    simulation.advance(1)

    assert [simulation.values(number) for number in numbers] == [[number] for number in numbers]


def test_a_large_request_is_split_over_the_instances_and_put_together_again():
    simulation = Simulation(instances=3)
    number, _ = simulation.submit(range(200))
    simulation.advance(1)

    assert simulation.values(number) == list(range(200))
    assert [sizes(simulation, i)[0] for i in range(3)] == [32, 32, 32]


def test_slices_that_finish_out_of_order_are_put_together_in_order():
    simulation = Simulation(instances=2)
    for instance, seconds in zip(simulation.instances, (0.1, 0.5), strict=True):
        instance.cost = lambda _, seconds=seconds: seconds
    first, _ = simulation.submit(range(64))
    second, _ = simulation.submit(range(100, 164))
    simulation.advance(5)

    assert simulation.values(first) == list(range(64))
    assert simulation.values(second) == list(range(100, 164))


def test_the_answer_names_the_version_that_ran_and_brings_the_outputs_asked_for():
    simulation = Simulation()
    number, _ = simulation.submit([7], id="mine", outputs=("y",))
    simulation.advance(1)
    outcome = simulation.outcome(number)

    assert (outcome.model_name, outcome.model_version, outcome.id) == ("m", "1", "mine")
    assert [tensor.name for tensor in outcome.outputs] == ["y"]
    assert outcome.timing.batch_rows == 1


def test_a_model_without_a_batch_dimension_runs_each_request_alone():
    simulation = Simulation(spec(0, dims=(1,)))
    numbers = submit(simulation, 3)
    simulation.advance(1)

    assert sizes(simulation) == [1, 1, 1]
    assert [simulation.values(number) for number in numbers] == [[0], [1], [2]]


def test_the_next_batch_is_started_before_the_finished_one_is_answered():
    simulation = Simulation()
    order = []
    run = simulation.instances[0].run
    simulation.instances[0].run = lambda parts, timeout, done: (order.append("start"), run(parts, timeout, done))
    for _ in range(2):
        simulation.scheduler.submit(simulation.request([1]), lambda _: order.append("reply"))
    simulation.advance(1)

    assert order == ["start", "start", "reply", "reply"]


def test_a_queue_delay_waits_for_company():
    simulation = Simulation(spec(max_queue_delay=0.010))
    simulation.submit()
    simulation.advance(0.005)
    simulation.submit()
    simulation.advance(1)

    assert sizes(simulation) == [2]
    assert simulation.answered_at[0] == pytest.approx(0.010 + linear(2))


def test_a_reply_may_submit_again():
    simulation = Simulation()
    again = []
    simulation.scheduler.submit(
        simulation.request([1]), lambda _: simulation.scheduler.submit(simulation.request([2]), again.append)
    )
    simulation.advance(1)

    assert isinstance(again[0], InferResponse)


def test_a_reply_that_raises_takes_no_other_answer_with_it(monkeypatch):
    reported = []
    monkeypatch.setattr(threading, "excepthook", reported.append)
    simulation = Simulation()
    submit(simulation, 1)
    simulation.scheduler.submit(simulation.request([1]), lambda _: 1 / 0)
    (number,) = submit(simulation, 1)
    simulation.advance(1)

    assert simulation.values(number) == [0]
    assert reported[0].exc_type is ZeroDivisionError


def test_ordering_is_preserved_over_instances_of_different_speed():
    simulation = Simulation(spec(1, preserve_ordering=True), instances=2)
    simulation.instances[0].cost = lambda _: 0.5
    simulation.instances[1].cost = lambda _: 0.5
    simulation.instances[1 - 0].cost = lambda _: 0.001
    numbers = submit(simulation, 20)
    simulation.advance(60)

    assert list(simulation.answered_at) == numbers


# Deadlines


@pytest.mark.parametrize("instances", [0, 1])
def test_what_waits_expires_at_its_deadline_even_if_nothing_ever_finishes(instances):
    simulation = Simulation(instances=instances, cost=lambda _: 0.03)
    for instance in simulation.instances:
        instance.cost = lambda _: 1000.0
    submit(simulation, instances)
    numbers = submit(simulation, 50, budget=0.15)
    simulation.advance(0.16)

    assert kinds(simulation, numbers) == [DeadlineExceeded] * 50
    assert all(0.15 <= simulation.answered_at[number] <= 0.155 for number in numbers)


@pytest.mark.parametrize(("budget", "refused"), [(0.074, True), (0.076, False)])
def test_a_promise_leaves_a_fifth_of_the_budget_for_the_way_here_and_back(budget, refused):
    simulation = Simulation(cost=lambda _: 0.06)
    with pytest.raises(DeadlineUnreachable, match=r"at least 75\.0 ms") if refused else nullcontext():
        simulation.submit(budget=budget)


@pytest.mark.parametrize(("budget", "refused"), [(0.085, True), (0.087, False)])
def test_a_promise_to_who_has_to_wait_leaves_three_tenths(budget, refused):
    simulation = Simulation(cost=lambda _: 0.03)
    submit(simulation, 1)  # runs until 0.03; the newcomer's answer is there at 0.06
    with pytest.raises(DeadlineUnreachable, match=r"at least 85\.7 ms") if refused else nullcontext():
        simulation.submit(budget=budget)


def test_what_runs_is_answered_at_its_deadline_and_the_run_is_stopped():
    simulation = Simulation(cost=lambda _: 0.01)
    simulation.instances[0].cost = lambda _: 1000.0
    number, _ = simulation.submit(budget=0.1)
    simulation.advance(0.11)

    assert kinds(simulation, [number]) == [DeadlineExceeded]
    assert simulation.answered_at[number] == pytest.approx(0.1, abs=0.002)

    simulation.instances[0].cost = linear
    (healthy,) = submit(simulation, 1)
    simulation.advance(1)

    assert simulation.values(healthy) == [0]


def test_a_deadline_already_past_is_refused():
    with pytest.raises(DeadlineExceeded):
        Simulation().submit(budget=-1.0)


def test_a_predicted_miss_is_refused_with_a_hint_that_holds():
    simulation = Simulation()
    with pytest.raises(DeadlineUnreachable) as refusal:
        submit(simulation, 1000, budget=0.060)
    admitted = len(simulation.outcomes)
    simulation.advance(refusal.value.retry_after + 0.001)
    number, _ = simulation.submit(budget=0.060)
    simulation.advance(1)

    assert admitted > 32
    assert simulation.values(number) == [1]
    assert all(isinstance(outcome, InferResponse) for (outcome,) in simulation.outcomes.values())


def test_an_urgent_request_is_not_refused_because_of_patient_ones_before_it():
    simulation = Simulation()
    submit(simulation, 500)
    number, _ = simulation.submit(budget=0.060)
    simulation.advance(1)

    assert simulation.answered_at[number] <= 0.060
    assert simulation.values(number) == [1]


def test_bad_times_that_are_over_do_not_lock_the_model_out_for_ever():
    simulation = Simulation()
    simulation.instances[0].cost = lambda rows: 20 * linear(rows)
    for _ in range(40):
        submit(simulation, 1)
        simulation.advance(1)
    simulation.instances[0].cost = linear
    refused = 0
    for _ in range(500):
        try:
            simulation.submit(budget=0.050)
        except DeadlineUnreachable:
            refused += 1
        simulation.advance(0.1)

    assert 0 < refused < 200
    assert type(list(simulation.outcomes.values())[-1][0]) is InferResponse


def test_the_models_default_timeout_and_the_requests_own_where_allowed():
    policy = {"default_timeout": 0.2, "allow_timeout_override": True}
    simulation = Simulation(spec(queue=policy), instances=0)
    numbers = [simulation.submit(timeout=timeout)[0] for timeout in (None, 0.1, 0.5)]
    simulation.advance(1)

    assert [simulation.answered_at[number] for number in numbers] == pytest.approx([0.2, 0.1, 0.2], abs=0.005)


def test_a_timeout_that_may_not_be_overridden_is_not():
    simulation = Simulation(spec(queue={"default_timeout": 0.2}), instances=0)
    number, _ = simulation.submit(timeout=0.05)
    simulation.advance(1)

    assert simulation.answered_at[number] == pytest.approx(0.2, abs=0.005)


def test_a_delayed_request_runs_after_the_others_of_its_level():
    simulation = Simulation(spec(1, queue={"default_timeout": 0.05, "timeout_action": "delay"}), cost=lambda _: 0.03)
    submit(simulation, 5)
    simulation.advance(0.06)
    late, _ = simulation.submit([99])
    simulation.advance(1)
    order = [batch[0].inputs[0].data[0] for batch in simulation.instances[0].batches]

    assert 99 in order[:-1]
    assert all(isinstance(outcome[0], InferResponse) for outcome in simulation.outcomes.values())
    assert simulation.values(late) == [99]


# Bounds


@pytest.mark.parametrize(
    "bound", [{"max_requests": 3}, {"max_rows": 6}, {"max_bytes": 8}], ids=lambda bound: next(iter(bound))
)
def test_each_bound_refuses_with_a_retry_hint(bound):
    simulation = Simulation(limits=limits(**bound))
    for _ in range(4):
        simulation.submit([1, 2])
    with pytest.raises(QueueFull, match=next(iter(bound)).removeprefix("max_")) as refusal:
        simulation.submit([1, 2])

    assert refusal.value.retry_after > 0

    simulation.advance(1)
    simulation.submit([1, 2])


def test_a_bound_smaller_than_one_request_does_not_shut_it_out():
    simulation = Simulation(limits=limits(max_rows=1, max_bytes=1))
    number, _ = simulation.submit(range(64))
    simulation.advance(1)

    assert simulation.values(number) == list(range(64))


def test_each_priority_level_has_its_own_bound():
    simulation = Simulation(
        spec(priority_levels=2, default_priority_level=2, levels={1: {"max_queue_size": 1}}), instances=0
    )
    submit(simulation, 5)
    simulation.submit(priority=1)
    with pytest.raises(QueueFull, match="priority"):
        simulation.submit(priority=1)


def test_priorities_outside_the_models_levels_mean_its_default():
    simulation = Simulation(spec(1, priority_levels=2, default_priority_level=1))
    submit(simulation, 1)
    for value, priority in ((1, 2), (2, 0), (3, 77), (4, 1)):
        simulation.submit([value], priority=priority)
    simulation.advance(1)

    assert [batch[0].inputs[0].data[0] for batch in simulation.instances[0].batches] == [0, 2, 3, 4, 1]


# Cancelling


def test_a_cancelled_request_leaves_its_batch_mates_alone():
    simulation = Simulation()
    submit(simulation, 1)
    first, ticket = simulation.submit([5])
    second, _ = simulation.submit([6])
    simulation.advance(linear(1) + 0.001)
    ticket.cancel()
    ticket.cancel()
    simulation.advance(1)

    assert kinds(simulation, [first]) == [Cancelled]
    assert simulation.values(second) == [6]
    assert simulation.instances[0].terminated == 0


def test_a_request_cancelled_in_the_queue_is_never_computed():
    simulation = Simulation()
    submit(simulation, 1)
    _, ticket = simulation.submit([5])
    ticket.cancel()
    simulation.advance(1)

    assert sizes(simulation) == [1]


def test_a_run_nobody_waits_for_is_stopped_and_the_next_one_is_not():
    simulation = Simulation(cost=lambda _: 1.0)
    _, ticket = simulation.submit()
    (after,) = submit(simulation, 1)
    simulation.advance(0.1)
    ticket.cancel()
    simulation.advance(2)

    assert simulation.instances[0].terminated == 1
    assert simulation.values(after) == [0]


@pytest.mark.parametrize(("actual", "stopped"), [(0.24, 0), (0.5, 1)])
def test_a_short_run_nobody_waits_for_is_left_to_end_unless_it_does_not(actual, stopped):
    simulation = Simulation(cost=lambda _: 0.2)
    simulation.instances[0].cost = lambda _: actual
    _, abandoned = simulation.submit()
    (after,) = submit(simulation, 1)
    simulation.advance(0.1)
    abandoned.cancel()
    assert simulation.instances[0].terminated == 0

    simulation.advance(0.2)
    simulation.submit()[1].cancel()
    simulation.advance(2)

    assert simulation.instances[0].terminated == stopped
    assert simulation.values(after) == [0]


def test_no_run_is_started_while_another_is_being_stopped():
    simulation = Simulation(cost=lambda _: 1.0)
    instance = simulation.instances[0]
    _, ticket = simulation.submit()
    (after,) = submit(simulation, 1)
    started = []

    def terminate():
        instance._finish(instance._running, lambda _: RunTimedOut("stopped"))
        started.append(len(instance.batches))

    instance.terminate = terminate
    ticket.cancel()
    simulation.advance(1)

    assert started == [1]
    assert simulation.values(after) == [0]


def test_cancelling_after_the_answer_does_nothing():
    simulation = Simulation()
    number, ticket = simulation.submit()
    simulation.advance(1)
    ticket.cancel()

    assert simulation.values(number) == [1]


def test_an_answered_request_is_not_kept_alive():
    simulation = Simulation()
    for _ in range(3):
        simulation.submit()

    def reply(_):
        """Hold the request's place."""

    ticket = simulation.scheduler.submit(simulation.request([1]), reply)
    watch = weakref.ref(reply)
    simulation.advance(1)
    simulation.instances[0].batches.clear()
    del reply, ticket
    gc.collect()

    assert watch() is None


# Failures


@pytest.mark.parametrize("culprits", [(3,), (0,), (31,), (3, 4, 20)])
def test_a_failed_run_is_bisected_so_that_only_the_culprit_fails(culprits):
    simulation = Simulation(behaviour=failing(RunFailed, *culprits))
    submit(simulation, 1, budget=60)
    numbers = submit(simulation, 32)
    simulation.advance(10)

    for value, number in enumerate(numbers):
        if value in culprits:
            assert isinstance(simulation.outcome(number), InvalidValues)
        else:
            assert simulation.values(number) == [value]


@pytest.mark.parametrize("error", [RunFailed, OutOfMemory, RunTimedOut])
@pytest.mark.parametrize("end", [DeadlineExceeded, Cancelled])
def test_who_shared_a_failed_batch_with_one_answered_meanwhile_is_not_blamed_for_it(error, end):
    simulation = Simulation(behaviour=failing(error, 3))
    simulation.instances[0].part_cost = lambda parts: 0.5 if len(parts) > 1 else linear(1)
    simulation.submit([100])
    culprit, ticket = simulation.submit([3], budget=0.2 if end is DeadlineExceeded else 60)
    mate, _ = simulation.submit([7], budget=60)
    simulation.advance(0.1)
    if end is Cancelled:
        ticket.cancel()
    simulation.advance(10)

    assert sizes(simulation) == [1, 2, 1]
    assert kinds(simulation, [culprit]) == [end]
    assert simulation.values(mate) == [7]


def test_bisecting_goes_before_everything_else_and_takes_log_n_runs():
    simulation = Simulation(behaviour=failing(RunFailed, 3))
    simulation.submit([100])
    numbers = submit(simulation, 32)
    for _ in range(100):
        simulation.submit([100])
    simulation.advance(10)

    assert sizes(simulation)[1:12] == [32, 16, 16, 8, 8, 4, 4, 2, 2, 1, 1]
    assert isinstance(simulation.outcome(numbers[3]), InvalidValues)


def test_the_message_of_a_failure_tells_nothing_of_ours():
    simulation = Simulation(behaviour=lambda _: RunFailed("/secret/path.onnx line 7"))
    number, _ = simulation.submit()
    simulation.advance(1)

    assert str(simulation.outcome(number)) == "the model cannot compute these input values"


def test_a_batch_that_kills_is_run_again_one_by_one_and_the_killer_fails():
    simulation = Simulation(behaviour=failing(InstanceDied, 3))
    simulation.submit([100])
    numbers = submit(simulation, 8)
    simulation.advance(10)

    assert sizes(simulation) == [1, 8, 1, 1, 1, 1, 1, 1, 1, 1]
    assert isinstance(simulation.outcome(numbers[3]), InferenceFailed)
    assert [simulation.values(n) for n in numbers if n != numbers[3]] == [[v] for v in range(8) if v != 3]
    assert simulation.scheduler.statistics().retried_rows == 8


def test_a_request_whose_slices_ran_beside_two_killers_is_innocent():
    simulation = Simulation(behaviour=failing(InstanceDied, 3, 5))
    simulation.submit([100])
    first, large, second = (simulation.submit(values)[0] for values in ([3], list(range(10, 50)), [5]))
    simulation.advance(10)

    assert sizes(simulation)[1:] == [32, 1, 31, 10, 9, 1]
    assert kinds(simulation, [first, second]) == [InferenceFailed, InferenceFailed]
    assert simulation.values(large) == list(range(10, 50))


def test_a_killed_instance_gets_its_batch_back_when_it_is_available():
    simulation = Simulation()
    numbers = submit(simulation, 3)
    simulation.instances[0].die(back_after=0.5)
    simulation.advance(0.4)

    assert not any(simulation.outcomes[number] for number in numbers)

    simulation.advance(1)

    assert [simulation.values(number) for number in numbers] == [[0], [1], [2]]


class Flickering(FakeInstance):
    """Looks dead exactly once, when its death is heard of; it is back at once and says so to nobody."""

    looks = iter(())
    available = property(lambda self: next(self.looks, True))


def test_an_instance_that_is_back_before_its_death_was_noted_is_not_forgotten():
    simulation = Simulation()
    instance = simulation.instances[0]
    number, _ = simulation.submit()
    instance.__class__ = Flickering
    instance.looks = iter([False])
    instance._finish(instance._running, lambda _: InstanceDied("briefly"))
    simulation.advance(1)

    assert simulation.values(number) == [1]


def test_another_instance_takes_over_from_a_dead_one():
    simulation = Simulation(instances=2)
    numbers = submit(simulation, 40)
    simulation.instances[1].die(back_after=1000)
    simulation.advance(1)

    assert [simulation.values(number) for number in numbers] == [[number] for number in numbers]


def test_an_instance_that_died_while_idle_costs_nobody_a_try():
    simulation = Simulation()
    simulation.instances[0].die(back_after=0.5)
    number, _ = simulation.submit()
    simulation.advance(1)

    assert simulation.values(number) == [1]
    assert simulation.scheduler.statistics().execution_count == 1
    assert simulation.scheduler.statistics().retried_rows == 0


def test_the_cost_points_are_what_was_measured_and_follow_what_runs_take():
    simulation = Simulation()
    measured = dict(simulation.scheduler.cost_points())
    simulation.instances[0].cost = lambda rows: 2 * linear(rows)
    for _ in range(200):
        simulation.submit([1])
        simulation.advance(1)

    assert {rows: pytest.approx(linear(rows)) for rows in (1, 2, 4, 8, 16, 32)}.items() <= measured.items()
    assert dict(simulation.scheduler.cost_points())[1] == pytest.approx(2 * linear(1), rel=0.01)


def test_out_of_memory_halves_the_batch_and_remembers():
    def small_only(parts):
        return OutOfMemory("too big") if sum(part.rows for part in parts) > 8 else echo(parts)

    simulation = Simulation(behaviour=small_only)
    number, _ = simulation.submit(range(64))
    others = submit(simulation, 20)
    simulation.advance(10)

    assert simulation.values(number) == list(range(64))
    assert [simulation.values(other) for other in others] == [[value] for value in range(20)]
    assert simulation.scheduler.max_batch_rows == 8
    assert max(sizes(simulation)[-3:]) <= 8


def test_a_single_row_that_does_not_fit_fails():
    simulation = Simulation(behaviour=lambda _: OutOfMemory("too big"))
    number, _ = simulation.submit(range(4))
    simulation.advance(1)

    assert isinstance(simulation.outcome(number), InferenceFailed)


def test_a_run_that_hangs_fails_alone_and_its_batch_mates_are_answered():
    def cost(rows):
        return linear(rows)

    simulation = Simulation(limits=limits(run_timeout=1.0))
    instance = simulation.instances[0]
    instance.part_cost = lambda parts: 1e9 if any(3 in bytes(part.inputs[0].data) for part in parts) else cost(1)
    simulation.submit([100])
    numbers = submit(simulation, 5, budget=30)
    simulation.advance(10)

    assert isinstance(simulation.outcome(numbers[3]), InferenceFailed)
    assert [simulation.values(numbers[i]) for i in (0, 1, 2, 4)] == [[0], [1], [2], [4]]


def test_a_run_that_hangs_alone_is_not_tried_again():
    simulation = Simulation(limits=limits(run_timeout=1.0))
    simulation.instances[0].part_cost = lambda _: 1e9
    number, _ = simulation.submit(budget=30)
    simulation.advance(10)

    assert isinstance(simulation.outcome(number), InferenceFailed)
    assert sizes(simulation) == [1]


def test_an_instance_that_reports_twice_is_heard_once():
    simulation = Simulation()
    instance = simulation.instances[0]
    run = instance.run
    instance.run = lambda parts, timeout, done: run(parts, timeout, lambda result: (done(result), done(result)))
    numbers = submit(simulation, 40)
    simulation.advance(1)

    assert [simulation.values(number) for number in numbers] == [[number] for number in numbers]
    assert simulation.scheduler.statistics().inference_count == 40


@pytest.mark.parametrize(
    "outputs",
    [
        lambda parts: [],
        lambda parts: [(Tensor("y", "UINT8", (part.rows + 1, 1), b""),) for part in parts],
        lambda parts: [(Tensor("y", "UINT8", (), b"\1"),) for part in parts],
        lambda parts: [() for part in parts],
    ],
    ids=["no parts", "rows", "scalar", "no outputs"],
)
def test_outputs_of_the_wrong_shape_fail_the_request_and_not_the_server(outputs):
    simulation = Simulation(behaviour=lambda parts: BatchOutputs(outputs(parts), 0, 0, 0))
    number, _ = simulation.submit()
    simulation.advance(1)

    assert isinstance(simulation.outcome(number), InferenceFailed)

    simulation.instances[0].behaviour = echo
    number, _ = simulation.submit()
    simulation.advance(1)

    assert simulation.values(number) == [1]


def test_an_instance_that_refuses_to_start_fails_the_request_and_not_the_server():
    simulation = Simulation()
    run = simulation.instances[0].run
    simulation.instances[0].run = lambda *_: 1 / 0
    number, _ = simulation.submit()

    assert isinstance(simulation.outcome(number), InferenceFailed)

    simulation.instances[0].run = run
    number, _ = simulation.submit()
    simulation.advance(1)

    assert simulation.values(number) == [1]


# Draining


def test_a_drain_refuses_new_requests_answers_the_old_ones_and_then_says_so():
    simulation = Simulation()
    numbers = submit(simulation, 40)
    drained = []
    simulation.scheduler.drain(lambda: drained.append(simulation.now))
    with pytest.raises(ShuttingDown):
        simulation.submit()

    assert not drained

    simulation.advance(1)

    assert [simulation.values(number) for number in numbers] == [[number] for number in numbers]
    assert len(drained) == 1


def test_draining_an_idle_scheduler_is_over_at_once():
    drained = []
    Simulation().scheduler.drain(lambda: drained.append(1))

    assert drained == [1]


def test_close_answers_whatever_is_left():
    simulation = Simulation()
    numbers = submit(simulation, 40)
    simulation.scheduler.close()
    simulation.scheduler.close()

    assert kinds(simulation, numbers) == [ShuttingDown] * 40

    simulation.advance(1)

    assert simulation.instances[0].terminated == 1


# Statistics


def test_statistics_count_what_happened():
    simulation = Simulation(limits=limits(max_requests=10))
    simulation.instances[0].cost = lambda _: 0.03
    simulation.submit([1, 2, 3])
    _, ticket = simulation.submit()
    ticket.cancel()
    submit(simulation, 9)
    simulation.submit([1], budget=0.0205)
    with pytest.raises(QueueFull):
        simulation.submit()
    simulation.advance(1)
    counted = simulation.scheduler.statistics()

    assert (counted.inference_count, counted.execution_count) == (12, 2)
    assert (counted.success.count, counted.fail.count, counted.cancel.count) == (10, 1, 1)
    assert counted.rejected == {"queue_full": 1}
    assert counted.dropped == {"cancelled": 1, "expired": 1}
    assert counted.queue.count == sum(counted.queue_seconds.counts) == 10
    assert {rows: batch.compute_infer.count for rows, batch in counted.batches.items()} == {3: 1, 9: 1}
    assert counted.last_inference_ms > 1_600_000_000_000


def test_a_snapshot_no_longer_changes():
    simulation = Simulation()
    before = simulation.scheduler.statistics()
    submit(simulation, 5)
    simulation.advance(1)

    assert before.success.count == sum(before.queue_seconds.counts) == 0


def test_queue_statistics_show_this_moment():
    simulation = Simulation()
    simulation.submit([1, 2])
    simulation.advance(0.001)
    simulation.submit([1, 2, 3])
    simulation.advance(0.002)
    shown = simulation.scheduler.queue_statistics()

    assert (shown.depth, shown.rows, shown.running) == (1, 3, 1)
    assert shown.oldest_age == pytest.approx(0.002)
    assert shown.max_depth == LIMITS.max_requests


def test_padding_is_counted_in_the_unit_of_size():
    simulation = Simulation()
    simulation.submit([0])
    simulation.submit([1], size=90)
    simulation.submit([2], size=100)
    simulation.advance(1)
    counted = simulation.scheduler.statistics()

    assert (counted.sized_bytes, counted.padded_bytes) == (190, 10)
