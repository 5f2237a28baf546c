"""What every instance promises (server/sessions/base.py), for the thread and for the process."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from server.codec import decode_bytes, encode_bytes
from server.messages import Tensor
from server.sessions.base import (
    BatchOutputs,
    Instance,
    InstanceDied,
    OutOfMemory,
    Part,
    RunFailed,
    RunTimedOut,
)
from server.sessions.budget import FIRST_PAUSE
from server.sessions.dtypes import NUMPY, to_raw
from server.sessions.process import ProcessInstance
from tests import models
from tests.instances import OPTIONS, Heard, Isolation, answers, eventually, load, part, run, tensor
from tests.reactor import Reactor

Make = Callable[..., Instance]
FOREVER = 1 << 40


@pytest.fixture(scope="module")
def reactor() -> Iterator[Reactor]:
    with Reactor() as reactor:
        yield reactor


@pytest.fixture(scope="module", params=["process", "heard", "none"])
def kind(request: pytest.FixtureRequest) -> str:
    """A process with a collector of its own, one whose answers another thread hears, or a thread."""
    return request.param


@pytest.fixture(scope="module")
def make(kind: str, reactor: Reactor, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Make]:
    """Return a function that loads a model into one instance; each model is loaded once per kind."""
    opened: dict[bytes, Instance] = {}

    def load_once(data: bytes, *, fresh: bool = False, **changes: object) -> Instance:
        if fresh or data not in opened:
            isolation: Isolation = "none" if kind == "none" else "process"
            options = replace(OPTIONS, isolation=isolation, **changes)
            (instance,) = load(tmp_path_factory.mktemp("model") / "tiny", data, options).instances
            if kind == "heard":
                instance.read_by(reactor.add_reader)
            opened[data if not fresh else os.urandom(8)] = instance
        return opened[data] if not fresh else instance

    yield load_once
    for instance in opened.values():
        instance.close(0.0)


@pytest.fixture(params=["collector", "heard"])
def process(
    request: pytest.FixtureRequest, reactor: Reactor, tmp_path: Path
) -> Iterator[Callable[[bytes], ProcessInstance]]:
    """Return a function that loads a model into a fresh process, whose death is part of the test."""
    opened: list[ProcessInstance] = []

    def load_fresh(data: bytes) -> ProcessInstance:
        (instance,) = load(tmp_path / "tiny", data).instances
        assert isinstance(instance, ProcessInstance)
        opened.append(instance)
        if request.param == "heard":
            instance.read_by(reactor.add_reader)
        return instance

    yield load_fresh
    for instance in opened:
        instance.close(0.0)


def row_of_add(a: float, b: float, rows: int = 1) -> Part:
    one, other = (np.full((rows, 4), x, np.float32) for x in (a, b))
    return part(tensor("a", "FP32", one), tensor("b", "FP32", other))


def trips(*counts: int) -> Part:
    return part(tensor("trips", "INT64", np.array(counts).reshape(-1, 1)))


# Answers


def test_each_part_gets_its_own_rows_in_order(make: Make) -> None:
    outcome = run(make(models.add()), row_of_add(1, 2), row_of_add(10, 20, rows=3), row_of_add(5, 5))

    assert [t[0].shape for t in outcome.parts] == [(1, 4), (3, 4), (1, 4)]
    assert [np.float32([x] * 4 * n).tobytes() for x, n in ((3, 1), (30, 3), (10, 1))] == answers(outcome)


def test_times_of_a_run_are_told(make: Make) -> None:
    outcome = run(make(models.add()), row_of_add(1, 2))

    assert min(outcome.compute_input, outcome.compute_infer, outcome.compute_output) > 0
    assert outcome.padded_rows == 0


@pytest.mark.parametrize("datatype", sorted(models.ONNX_TYPES))
def test_every_datatype_comes_back_bit_for_bit(make: Make, datatype: str) -> None:
    if datatype == "BYTES":
        data = encode_bytes(["é".encode(), b"", b"nul\x00inside", b"a", b"b", b"c"])
    elif datatype == "BOOL":
        data = bytes([1, 0, 1, 1, 0, 0])
    else:
        array = np.arange(6).astype(NUMPY[datatype]) * 3
        data = to_raw(datatype, array)
    half = len(data) // 2 if datatype != "BYTES" else 4 + 2 + 4 + 4 + 10
    parts = [part(Tensor("x", datatype, (1, 3), piece)) for piece in (data[:half], data[half:])]

    outcome = run(make(models.identity(datatype)), *parts)

    assert [data[:half], data[half:]] == answers(outcome)
    assert [t[0].datatype for t in outcome.parts] == [datatype, datatype]


def test_several_inputs_and_outputs_of_different_types(make: Make) -> None:
    def request(number: float, name: str) -> Part:
        return part(
            tensor("x", "FP64", np.array([[number, -number]])),
            tensor("name", "BYTES", np.array([[name]], object)),
            tensor("flag", "BOOL", np.array([[True, False, True, False, True]])),
        )

    outcome = run(make(models.mixed()), request(1.5, "Zoë"), request(2.5, "x" * 300))

    assert [np.array([3.0, -3.0]).tobytes(), np.array([5.0, -5.0]).tobytes()] == answers(outcome, 0)
    assert [["Zoë".encode()], [b"x" * 300]] == [decode_bytes(data) for data in answers(outcome, 1)]
    assert [bytes([0, 1, 0, 1, 0])] * 2 == answers(outcome, 2)


def test_strings_are_text_inside_the_model(make: Make) -> None:
    outcome = run(make(models.upper()), *(part(tensor("text", "BYTES", np.array([[s]], object))) for s in ("ab", "c")))

    assert [encode_bytes([b"AB"]), encode_bytes([b"C"])] == answers(outcome)


def test_a_model_without_a_batch_dimension_runs_one_request(make: Make) -> None:
    one = part(tensor("x", "FP32", np.array([1, 2, 3], np.float32)), rows=1)
    instance = make(models.without_batch())

    assert [np.float32([2, 4, 6]).tobytes()] == answers(run(instance, one))
    assert isinstance(run(instance, one, one), RunFailed)


def test_variable_dimensions_change_from_batch_to_batch(make: Make) -> None:
    for length in (1, 7, 3):
        rows = [part(tensor("x", "FP32", np.full((1, length), value, np.float32))) for value in (2, 4)]

        assert [np.float32([2]).tobytes(), np.float32([4]).tobytes()] == answers(run(make(models.dynamic()), *rows))


def test_rows_of_different_shape_fail_together_and_run_alone(make: Make) -> None:
    short, long = (part(tensor("x", "FP32", np.ones((1, length), np.float32))) for length in (2, 3))
    instance = make(models.dynamic())

    assert isinstance(run(instance, short, long), RunFailed)
    assert [np.float32([1]).tobytes()] == answers(run(instance, long))


def test_an_empty_variable_dimension_is_a_shape_like_any_other(make: Make) -> None:
    empty = part(Tensor("x", "INT32", (2, 0), b""))

    outcome = run(make(models.identity("INT32", ("N", "L"))), empty)

    assert [(t[0].shape, t[0].data) for t in outcome.parts] == [((2, 0), b"")]


def test_views_of_a_larger_request_are_as_good_as_bytes(make: Make) -> None:
    whole = memoryview(np.arange(8, dtype=np.float32).tobytes())
    parts = [
        Part((Tensor("a", "FP32", (1, 4), x), Tensor("b", "FP32", (1, 4), x)), 1) for x in (whole[:16], whole[16:])
    ]

    assert b"".join(answers(run(make(models.add()), *parts))) == np.arange(0, 16, 2, dtype=np.float32).tobytes()


def test_answers_stay_when_the_next_batch_has_run(make: Make) -> None:
    instance = make(models.add())
    first = run(instance, row_of_add(1, 1))
    run(instance, row_of_add(7, 7))

    assert [np.float32([2] * 4).tobytes()] == answers(first)
    assert isinstance(first.parts[0][0].data, bytes)


def test_batches_larger_than_any_before_find_room(make: Make) -> None:
    instance = make(models.identity("UINT8", ("N", "L")))
    for size in (10, 3 << 20, 10, 9 << 20):
        data = os.urandom(size)

        assert [data] == answers(run(instance, part(Tensor("x", "UINT8", (1, size), data))))


# Failures


def test_a_value_the_model_cannot_compute_fails_the_run_and_nothing_else(make: Make) -> None:
    instance = make(models.gather())
    index = [part(tensor("index", "INT64", np.array([[i]]))) for i in (1, 99)]
    outcome = run(instance, *index)

    assert isinstance(outcome, RunFailed)
    assert "out of data bounds" in str(outcome)
    assert [np.float32([2, 3]).tobytes()] == answers(run(instance, index[0]))


def test_bytes_that_do_not_fit_the_shape_fail(make: Make) -> None:
    wrong = part(Tensor("a", "FP32", (1, 4), b"\0" * 12), Tensor("b", "FP32", (1, 4), b"\0" * 16))

    assert isinstance(run(make(models.add()), wrong), RunFailed)


def test_text_that_is_not_utf8_fails(make: Make) -> None:
    outcome = run(make(models.upper()), part(Tensor("text", "BYTES", (1, 1), encode_bytes([b"\xff\xfe"]))))

    assert isinstance(outcome, RunFailed)
    assert "UTF-8" in str(outcome)


@pytest.mark.parametrize("data", [b"\x09\x00\x00\x00a", b"\x01\x00\x00\x00a" * 2, b"a"])
def test_text_that_is_not_what_its_lengths_say_fails_the_run_only(make: Make, data: bytes) -> None:
    instance = make(models.upper())

    assert isinstance(run(instance, part(Tensor("text", "BYTES", (1, 1), data))), RunFailed)
    assert instance.available


@pytest.mark.parametrize("size", [1 << 42, 1 << 46])
def test_an_output_that_no_memory_holds_is_out_of_memory(make: Make, size: int) -> None:
    instance = make(models.expand())

    assert isinstance(run(instance, part(tensor("size", "INT64", np.array([[size]])))), OutOfMemory)
    assert [np.float32([1, 1]).tobytes()] == answers(run(instance, part(tensor("size", "INT64", np.array([[2]])))))


def test_an_output_larger_than_the_memory_limit_is_out_of_memory(
    process: Callable[[bytes], ProcessInstance],
) -> None:
    """Two gibibytes the machine could well overcommit: the child's own bound of half a gibibyte stops it."""
    instance = process(models.expand())

    assert isinstance(run(instance, part(tensor("size", "INT64", np.array([[1 << 29]])))), OutOfMemory)
    assert instance.restarts == 0


def test_an_output_larger_than_the_area_is_out_of_memory(process: Callable[[bytes], ProcessInstance]) -> None:
    outcome = run(process(models.expand()), part(tensor("size", "INT64", np.array([[5 << 20]]))))

    assert isinstance(outcome, OutOfMemory)
    assert "the limit is 16777216" in str(outcome)


def test_a_batch_larger_than_the_area_is_out_of_memory(process: Callable[[bytes], ProcessInstance]) -> None:
    instance = process(models.identity("UINT8", ("N", "L")))
    large = part(Tensor("x", "UINT8", (1, 9 << 20), bytes(9 << 20)))

    assert isinstance(run(instance, large, large), OutOfMemory)
    assert len(answers(run(instance, large))[0]) == 9 << 20


def test_an_output_that_breaks_its_promise_fails(make: Make) -> None:
    instance = make(models.identity("FP32"))
    wrong = part(Tensor("x", "FP32", (1, 4), bytes(16)))

    assert isinstance(run(instance, wrong), RunFailed)


# Time


def test_a_run_is_stopped_at_its_bound(make: Make) -> None:
    instance = make(models.loop())
    started = time.monotonic()

    assert isinstance(run(instance, trips(FOREVER), timeout=0.3), RunTimedOut)
    assert 0.3 <= time.monotonic() - started < 3
    assert [np.int64(5).tobytes()] == answers(run(instance, trips(5)))


def test_a_short_bound_holds_after_a_long_one(make: Make) -> None:
    instance = make(models.loop())
    run(instance, trips(1), timeout=1000)
    started = time.monotonic()

    assert isinstance(run(instance, trips(FOREVER), timeout=0.1), RunTimedOut)
    assert time.monotonic() - started < 3


def test_terminate_stops_the_run_in_progress(make: Make) -> None:
    instance = make(models.loop())
    heard = Heard()
    instance.run([trips(FOREVER)], 1000, heard)
    started = time.monotonic()
    instance.terminate()

    assert isinstance(heard.wait(), RunTimedOut)
    assert time.monotonic() - started < 2
    assert [np.int64(1).tobytes()] == answers(run(instance, trips(1)))


def test_terminate_without_a_run_does_nothing(make: Make) -> None:
    instance = make(models.loop())
    instance.terminate()

    assert [np.int64(3).tobytes()] == answers(run(instance, trips(3)))


# One at a time, exactly once


def test_the_next_run_may_start_inside_done(make: Make) -> None:
    instance = make(models.add())
    seen: list[bytes] = []
    finished = threading.Event()

    def done(outcome: object) -> None:
        seen.extend(answers(outcome))
        if len(seen) == 200:
            finished.set()
        else:
            instance.run([row_of_add(len(seen), 0)], 10, done)

    instance.run([row_of_add(0, 0)], 10, done)

    assert finished.wait(20)
    assert [np.float32([i] * 4).tobytes() for i in range(200)] == seen


def test_done_is_called_once_from_a_thread_of_the_instance(make: Make) -> None:
    instance = make(models.add())
    heard = [Heard() for _ in range(20)]
    for one in heard:
        instance.run([row_of_add(1, 1)], 10, one)
        one.wait()

    assert [len(one.outcomes) for one in heard] == [1] * 20
    assert threading.current_thread().name not in {name for one in heard for name in one.threads}


def test_answers_are_heard_by_another_thread_once_it_offers_to_and_as_before_when_it_has_ended(
    process: Callable[[bytes], ProcessInstance],
) -> None:
    instance = process(models.add())

    def threads(runs: int) -> list[str]:
        heard = [Heard() for _ in range(runs)]
        for one in heard:
            instance.run([row_of_add(1, 2)], 10, one)
            one.wait()
            assert [np.float32([3] * 4).tobytes()] == answers(one.outcomes[0])
        return [name for one in heard for name in one.threads]

    with Reactor() as others:
        instance.read_by(others.add_reader)
        assert eventually(lambda: threads(1) == ["reactor"])
        assert threads(5) == ["reactor"] * 5

    assert not {*threads(5)} & {"reactor"}


def test_available_is_false_while_a_run_is_in_progress(make: Make) -> None:
    instance = make(models.loop())
    heard = Heard()
    instance.run([trips(FOREVER)], 1000, heard)
    during = instance.available
    instance.terminate()
    heard.wait()

    assert (during, instance.available) == (False, True)


# The end


def test_close_lets_the_run_in_progress_finish(make: Make) -> None:
    instance = make(models.matrix_chain(depth=10), fresh=True)
    heard = Heard()
    instance.run([part(Tensor("x", "FP32", (8, 512), bytes(8 * 512 * 4)))], 10, heard)
    instance.close(10)

    assert [bytes(8 * 512 * 4)] == answers(heard.wait(0.5))


def test_close_does_not_wait_longer_than_the_grace(make: Make) -> None:
    instance = make(models.loop(), fresh=True)
    heard = Heard()
    instance.run([trips(FOREVER)], 1000, heard)
    started = time.monotonic()
    instance.close(0.1)

    assert isinstance(heard.wait(0.5), RunTimedOut)
    assert time.monotonic() - started < 3


def test_a_run_after_close_is_refused_and_closing_twice_is_fine(make: Make) -> None:
    instance = make(models.add(), fresh=True)
    instance.close(0)
    instance.close(0)

    assert isinstance(run(instance, row_of_add(1, 1)), InstanceDied)
    assert not instance.available


# Death, which only a process survives


@pytest.mark.parametrize(
    ("datatype", "model"), [("INT32", models.divide), ("INT64", models.divide), ("INT64", models.modulo)]
)
def test_a_division_trap_kills_the_child_and_not_us(
    process: Callable[[bytes], ProcessInstance], datatype: str, model: Callable[[str], bytes]
) -> None:
    instance = process(model(datatype))
    lowest = np.iinfo(NUMPY[datatype]).min
    back = threading.Event()
    instance.on_available(back.set)

    def divided(a: int, b: int) -> Part:
        return part(*(tensor(n, datatype, np.array([[x]], NUMPY[datatype])) for n, x in (("a", a), ("b", b))))

    outcome = run(instance, divided(6, 3), divided(lowest, -1))
    refused = run(instance, divided(6, 3))

    assert isinstance(outcome, InstanceDied)
    assert f"signal {signal.SIGFPE.value}" in str(outcome)
    assert isinstance(refused, InstanceDied) or instance.restarts == 1
    assert back.wait(20)
    assert [NUMPY[datatype].type(6 % 3 if model is models.modulo else 2).tobytes()] == answers(
        run(instance, divided(6, 3))
    )


def test_a_killed_child_loses_its_batch_and_comes_back(process: Callable[[bytes], ProcessInstance]) -> None:
    instance = process(models.loop())
    back = threading.Event()
    instance.on_available(back.set)
    heard = Heard()
    instance.run([trips(FOREVER)], 1000, heard)
    os.kill(instance.pid, signal.SIGKILL)

    assert isinstance(heard.wait(), InstanceDied)
    assert "signal 9" in str(heard.outcomes[0])
    assert back.wait(20)
    assert instance.available
    assert [np.int64(2).tobytes()] == answers(run(instance, trips(2)))
    assert len(heard.outcomes) == 1


def test_a_child_that_dies_while_it_is_heard_elsewhere_loses_its_batch_and_its_successor_is_heard_there_too(
    process: Callable[[bytes], ProcessInstance], reactor: Reactor
) -> None:
    instance = process(models.loop())
    instance.read_by(reactor.add_reader)
    for _ in range(2):
        lost, back, heard = Heard(), threading.Event(), Heard()
        while "reactor" not in heard.threads:
            heard = Heard()
            instance.run([trips(1)], 10, heard)
            heard.wait()
        instance.on_available(back.set)
        instance.run([trips(FOREVER)], 1000, lost)
        os.kill(instance.pid or 0, signal.SIGKILL)
        lost.wait()

        assert [type(outcome) for outcome in lost.outcomes] == [InstanceDied]
        assert back.wait(20)


def test_an_idle_child_that_is_killed_comes_back(process: Callable[[bytes], ProcessInstance]) -> None:
    instance = process(models.add())
    first = instance.pid
    os.kill(first, signal.SIGKILL)

    assert eventually(lambda: instance.available and instance.pid != first)
    assert [np.float32([3] * 4).tobytes()] == answers(run(instance, row_of_add(1, 2)))


def test_a_child_that_hangs_is_killed_at_the_bound(process: Callable[[bytes], ProcessInstance]) -> None:
    instance = process(models.add())
    os.kill(instance.pid, signal.SIGSTOP)
    started = time.monotonic()

    assert isinstance(run(instance, row_of_add(1, 2), timeout=0.2), RunTimedOut)
    assert time.monotonic() - started < 3
    assert eventually(lambda: instance.available)


def test_runs_that_had_to_be_killed_do_not_take_the_instance_out(
    process: Callable[[bytes], ProcessInstance],
) -> None:
    instance = process(models.add())
    for killed in range(1, 7):
        os.kill(instance.pid, signal.SIGSTOP)
        assert isinstance(run(instance, row_of_add(1, 2), timeout=0.01), RunTimedOut)
        assert eventually(
            lambda: instance.restarts == killed and instance.available,  # noqa: B023  (used at once)
            seconds=FIRST_PAUSE / 2,
        )


def test_five_crashes_a_minute_take_the_instance_out(process: Callable[[bytes], ProcessInstance]) -> None:
    instance = process(models.add())
    for crash in range(1, 5):
        os.kill(instance.pid, signal.SIGKILL)
        assert eventually(lambda: instance.restarts == crash and instance.available)  # noqa: B023  (used at once)
    os.kill(instance.pid, signal.SIGKILL)

    assert eventually(lambda: instance.pid is None)
    assert isinstance(run(instance, row_of_add(1, 2)), InstanceDied)
    assert instance.restarts == 4
    instance.close(0)  # does not wait for the pause


def test_signals_to_the_group_do_not_end_the_child(process: Callable[[bytes], ProcessInstance]) -> None:
    instance = process(models.add())
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(instance.pid, number)

    assert [np.float32([3] * 4).tobytes()] == answers(run(instance, row_of_add(1, 2)))
    assert instance.restarts == 0


def test_the_child_is_the_first_to_go_when_memory_runs_out(process: Callable[[bytes], ProcessInstance]) -> None:
    instance = process(models.add())

    assert Path(f"/proc/{instance.pid}/oom_score_adj").read_text() == "500\n"


def test_the_child_can_reach_no_network_and_start_no_program(process: Callable[[bytes], ProcessInstance]) -> None:
    status = Path(f"/proc/{process(models.add()).pid}/status").read_text()

    assert "Seccomp:\t2" in status
    assert "NoNewPrivs:\t1" in status


def test_the_child_knows_none_of_our_secrets(
    process: Callable[[bytes], ProcessInstance], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLUICE_API_KEYS", "hidden")
    instance = process(models.add())

    assert b"hidden" not in Path(f"/proc/{instance.pid}/environ").read_bytes()


def test_outputs_come_in_parts_of_their_own_type(make: Make) -> None:
    outcome = run(make(models.add()), row_of_add(1, 2))

    assert isinstance(outcome, BatchOutputs)
    assert isinstance(outcome.parts[0], tuple)
