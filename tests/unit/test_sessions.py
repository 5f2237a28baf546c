"""The pieces of a session process that need no session: memory, packets, layout, limits, budget, watchdog, files."""

import math
import os
import resource
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import FailedPrecondition, ModelLoadFailed
from server.messages import Tensor
from server.sessions import exchange, frames, limits, ort
from server.sessions.area import FIRST_BYTES, KEPT_BYTES, SMALL_BATCHES, Area, align
from server.sessions.base import OutOfMemory, Part, RunFailed
from server.sessions.budget import FIRST_PAUSE, LONGEST_PAUSE, RestartBudget
from server.sessions.confine import confine
from server.sessions.dtypes import NUMPY, to_array, to_raw
from server.sessions.files import check_files
from server.sessions.install import check_installation
from server.sessions.layout import BatchLayout, Column, Output
from server.sessions.plans import SessionPlan
from server.sessions.watchdog import Watchdog
from server.spec import ModelConfig, ModelSpec, TensorSpec
from tests.instances import eventually, part, tensor

MIB = 1 << 20
ROOT = Path(__file__).parents[2]


@pytest.fixture
def area() -> Iterator[Area]:
    made = Area.create(64 * MIB)
    yield made
    made.close()


def spec(*inputs: TensorSpec, outputs: tuple[TensorSpec, ...] = (), rows: int = 8) -> ModelSpec:
    return ModelSpec("tiny", "1", "onnx_onnxv1", inputs, outputs, rows, ModelConfig("tiny"))


# Area


def test_both_ends_see_what_either_writes(area: Area) -> None:
    other = Area(os.dup(area.fd), area.limit)
    area.view[:3] = b"abc"

    assert bytes(other.view[:3]) == b"abc"
    other.close()


def test_an_area_doubles_until_it_is_large_enough_and_keeps_what_is_in_it(area: Area) -> None:
    area.view[:3] = b"abc"

    assert area.grow(5 * MIB)
    assert (area.size, bytes(area.view[:3])) == (8 * MIB, b"abc")


def test_the_other_end_follows(area: Area) -> None:
    other = Area(os.dup(area.fd), area.limit)
    area.grow(MIB)
    area.view[MIB - 1] = 7
    other.follow(MIB)

    assert other.view[MIB - 1] == 7
    other.close()


def test_an_area_does_not_grow_over_its_limit(area: Area) -> None:
    assert not area.grow(64 * MIB + 1)
    assert area.size == FIRST_BYTES


def test_following_a_lie_is_an_error_and_no_crash(area: Area) -> None:
    with pytest.raises(ValueError, match="mmap"):
        area.follow(2 * FIRST_BYTES)


def test_nobody_can_shrink_an_area_under_the_other_end(area: Area) -> None:
    with pytest.raises(PermissionError):
        os.ftruncate(area.fd, 0)


def test_pages_go_back_when_no_recent_batch_needed_them(area: Area) -> None:
    area.grow(2 * KEPT_BYTES)
    area.view[KEPT_BYTES + 5] = 1
    area.view[5] = 1
    for _ in range(SMALL_BATCHES - 1):
        area.settle(100)
    before = area.view[KEPT_BYTES + 5]
    area.settle(100)

    assert (before, area.view[KEPT_BYTES + 5], area.view[5]) == (1, 0, 1)


def test_a_large_batch_keeps_the_pages(area: Area) -> None:
    area.grow(2 * KEPT_BYTES)
    area.view[KEPT_BYTES + 5] = 1
    for used in [100] * (SMALL_BATCHES - 1) + [KEPT_BYTES + 6, 100]:
        area.settle(used)

    assert area.view[KEPT_BYTES + 5] == 1


def test_an_area_closes_while_somebody_looks_at_it(area: Area) -> None:
    slice_of_it = area.view[:4]
    area.close()
    area.close()

    assert bytes(slice_of_it) == bytes(4)


# Packets


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=40))
def test_words_come_back_from_a_packet(words: list[int]) -> None:
    assert tuple(words) == frames.unpack(frames.pack(words))


def test_a_long_text_is_cut_and_still_readable() -> None:
    kind, sequence, text = frames.unpack_text(frames.pack_text(frames.FAILED, 7, "é" * 5000))

    assert (kind, sequence) == (frames.FAILED, 7)
    assert set(text.rstrip("\ufffd")) == {"é"}
    assert len(text) <= frames.MAX_TEXT_BYTES


def test_a_batch_lies_aligned_in_the_area(area: Area) -> None:
    columns = [Column(0, (2, 3), [b"abc", b"def"], 6), Column(1, (2,), [b"x" * 100_000], 100_000)]
    kind, sequence, size, rows, count, *words = frames.unpack(exchange.write_batch(area, 9, 2, columns))

    assert (kind, sequence, size, rows, count) == (frames.RUN, 9, area.size, 2, 2)
    assert words == [0, 0, 6, 2, 2, 3, 1, 64, 100_000, 1, 2]
    assert bytes(area.view[:6]) + bytes(area.view[64:67]) == b"abcdefxxx"


def test_a_batch_over_the_limit_is_out_of_memory(area: Area) -> None:
    with pytest.raises(OutOfMemory, match="the limit is 67108864"):
        exchange.write_batch(area, 1, 1, [Column(0, (1,), [b""], 65 * MIB)])


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=20))
def test_a_nonsensical_answer_is_an_error_and_no_crash(words: list[int]) -> None:
    made = Area.create(MIB)
    try:
        outputs, _, _ = exchange.read_outputs(made, frames.pack(words))
        assert all(len(output.data) <= made.size for output in outputs)
    except (ValueError, IndexError, struct.error, OverflowError):
        pass
    finally:
        made.close()


# Layout

PAIR = (TensorSpec("a", "FP32", (-1, 2)), TensorSpec("s", "BYTES", (-1, 1)))


@given(st.lists(st.integers(1, 4), min_size=1, max_size=6))
def test_scatter_undoes_gather(rows: list[int]) -> None:
    generator = np.random.default_rng(sum(rows))
    parts = [
        part(
            tensor("a", "FP32", generator.random((n, 2)).astype(np.float32)),
            tensor("s", "BYTES", np.array([["x" * int(i)] for i in generator.integers(0, 9, n)], object)),
        )
        for n in rows
    ]
    layout = BatchLayout(spec(*PAIR, outputs=PAIR))
    columns = layout.gather(parts)
    outputs = [Output(column.shape, b"".join(column.chunks)) for column in columns]

    assert [column.shape for column in columns] == [(sum(rows), 2), (sum(rows), 1)]
    assert [one.inputs for one in parts] == layout.scatter(outputs, parts)


def test_inputs_are_found_by_name_where_optional_ones_are_left_out() -> None:
    layout = BatchLayout(spec(TensorSpec("a", "INT8", (-1, 1), optional=True), TensorSpec("b", "INT8", (-1, 1))))
    (column,) = layout.gather([part(Tensor("b", "INT8", (1, 1), b"\x01"))])

    assert column.index == 1


def test_an_input_nobody_knows_fails() -> None:
    with pytest.raises(RunFailed, match="'c' came"):
        BatchLayout(spec(*PAIR)).gather([part(Tensor("c", "INT8", (1, 1), b"\x01"))])


def test_requests_with_different_inputs_do_not_share_a_batch() -> None:
    one, two = Tensor("a", "FP32", (1, 2), bytes(8)), Tensor("s", "BYTES", (1, 1), bytes(4))

    with pytest.raises(RunFailed, match="different inputs"):
        BatchLayout(spec(*PAIR)).gather([part(one, two), part(one)])


def test_reshape_is_between_the_wire_and_the_graph() -> None:
    flat = TensorSpec("x", "INT8", (-1, 2, 3), reshape=(6,))
    single = TensorSpec("y", "INT8", (-1, 1), reshape=())
    layout = BatchLayout(spec(flat, outputs=(flat, single)))
    parts = [part(Tensor("x", "INT8", (1, 2, 3), b"abcdef")), part(Tensor("x", "INT8", (1, 2, 3), b"ghijkl"))]
    (column,) = layout.gather(parts)
    answers = layout.scatter([Output((2, 6), b"abcdefghijkl"), Output((2,), b"12")], parts)

    assert column.shape == (2, 6)
    assert [parts[0].inputs[0], Tensor("y", "INT8", (1, 1), b"1")] == list(answers[0])


def test_a_reshape_that_cannot_be_is_a_failed_run() -> None:
    layout = BatchLayout(spec(TensorSpec("x", "INT8", (-1, -1), reshape=(-1, 4))))

    with pytest.raises(RunFailed, match="6 elements cannot be reshaped"):
        layout.gather([part(Tensor("x", "INT8", (1, 6), b"abcdef"))])


@pytest.mark.parametrize("shape", [(3, 2), (2, 3), (2,), (2, 2, 1), (0, 2)])
def test_an_output_of_other_dimensions_than_promised_fails(shape: tuple[int, ...]) -> None:
    layout = BatchLayout(spec(*PAIR[:1], outputs=PAIR[:1]))
    parts = [part(Tensor("a", "FP32", (1, 2), bytes(8)))] * 2

    with pytest.raises(RunFailed, match="expected shape"):
        layout.scatter([Output(shape, bytes(4 * math.prod(shape)))], parts)


# Datatypes


@pytest.mark.parametrize("datatype", sorted(NUMPY.keys() - {"BYTES"}))
def test_an_array_is_a_view_of_its_raw_bytes(datatype: str) -> None:
    array = np.arange(6).reshape(2, 3).astype(NUMPY[datatype])
    raw = to_raw(datatype, array)
    back = to_array("x", datatype, (2, 3), raw)

    np.testing.assert_array_equal(array, back)
    assert not back.flags.owndata


def test_bytes_are_text_as_arrays_and_text_that_is_not_utf8_is_refused() -> None:
    array = to_array("x", "BYTES", (2, 1), to_raw("BYTES", np.array([["é"], ["b"]])))

    assert array.tolist() == [["é"], ["b"]]


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "says"),
    [
        ("BYTES", (1,), b"\x01\x00\x00\x00\xff", "not UTF-8"),
        ("BYTES", (1,), b"\x09\x00\x00\x00a", "1 are left"),
        ("BYTES", (2,), b"\x01\x00\x00\x00a", "reshape"),
        ("FP32", (2, 2), bytes(12), "buffer"),
    ],
)
def test_bytes_that_are_no_such_tensor_fail_the_run(
    datatype: str, shape: tuple[int, ...], data: bytes, says: str
) -> None:
    with pytest.raises(RunFailed, match=f"input 'x': .*{says}"):
        to_array("x", datatype, shape, data)


# Budget


def test_four_crashes_a_minute_are_forgiven_and_the_fifth_is_not() -> None:
    budget = RestartBudget()

    assert [budget.pause(second) for second in (0, 1, 2, 3, 4)] == [0.0] * 4 + [FIRST_PAUSE]


def test_pauses_double_up_to_a_limit() -> None:
    budget = RestartBudget()
    pauses, now = [], 0.0
    for _ in range(14):
        pauses.append(budget.pause(now))
        now += min(pauses[-1], 11.0)

    assert pauses[4:11] == [10.0, 20.0, 40.0, 80.0, 160.0, LONGEST_PAUSE, LONGEST_PAUSE]


def test_a_quiet_time_makes_everything_good_again() -> None:
    budget = RestartBudget()
    for second in range(6):
        budget.pause(second)

    assert budget.pause(1000) == 0
    assert [budget.pause(1001 + second) for second in range(4)] == [0.0, 0.0, 0.0, FIRST_PAUSE]


def test_one_crash_a_minute_is_never_punished() -> None:
    budget = RestartBudget()

    assert {0.0} == {budget.pause(61.0 * minute) for minute in range(100)}


# Watchdog


class Due:
    """Something due at an instant, which remembers when it was looked at."""

    def __init__(self, due: float = math.inf) -> None:
        self.due = due
        self.rung = threading.Event()
        self.looks = 0

    def check(self, now: float) -> float:
        self.looks += 1
        if now >= self.due:
            self.due = math.inf
            self.rung.set()
        return self.due


@pytest.fixture
def watchdog() -> Iterator[Watchdog]:
    watchdog = Watchdog()
    yield watchdog
    for watched in list(watchdog._watched):
        watchdog.forget(watched)


@pytest.mark.parametrize("first", [math.inf, 1000.0], ids=["asleep", "waiting for another"])
def test_the_watchdog_wakes_for_an_earlier_deadline(watchdog: Watchdog, first: float) -> None:
    other, soon = Due(time.monotonic() + first), Due()
    watchdog.watch(other)
    watchdog.watch(soon)
    assert eventually(lambda: other.looks > 0)
    with watchdog._changed:  # the thread holds it while it looks, so now it sleeps
        pass
    soon.due = time.monotonic() + 0.02
    watchdog.expect(soon.due)

    assert soon.rung.wait(5)
    assert not other.rung.is_set()


def test_the_watchdog_sleeps_while_deadlines_only_move_back(watchdog: Watchdog) -> None:
    due = Due(time.monotonic() + 100)
    watchdog.watch(due)
    assert eventually(lambda: watchdog._wake < math.inf)
    for later in range(1000):
        due.due = time.monotonic() + 200 + later
        watchdog.expect(due.due)

    assert due.looks == 1


def test_the_thread_ends_with_the_last_one_watched(watchdog: Watchdog) -> None:
    due = Due()
    watchdog.watch(due)
    thread = watchdog._thread
    watchdog.forget(due)
    thread.join(5)
    watchdog.watch(due)

    assert not thread.is_alive()
    assert watchdog._thread.is_alive()


# Limits


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "150000 100000"}, 1.5),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({}, None),
    ],
)
def test_the_quota_of_either_cgroup_version_is_read(tmp_path: Path, files: dict[str, str], cores: float | None) -> None:
    (tmp_path / "cpu").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text + "\n")

    assert limits.cpu_quota(tmp_path) == cores


@pytest.mark.parametrize(("quota", "expected"), [(None, 4), (2.5, 2), (0.3, 1), (64.0, 4)])
def test_cores_are_the_affinity_cut_by_the_quota(
    monkeypatch: pytest.MonkeyPatch, quota: float | None, expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    monkeypatch.setattr(limits, "cpu_quota", lambda _: quota)

    assert limits.cores() == expected


@pytest.fixture
def bounds(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the address space bounds that were set, counted from what is mapped; none is set for real."""
    said: list[int] = []

    def setrlimit(which: int, pair: tuple[int, int]) -> None:
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        assert (which, pair[1]) == (resource.RLIMIT_AS, resource.getrlimit(resource.RLIMIT_AS)[1])
        said.append(pair[0] - mapped if pair[0] != resource.RLIM_INFINITY else -1)

    monkeypatch.setattr(resource, "setrlimit", setrlimit)
    return said


@pytest.fixture
def alarms(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    said: list[float] = []
    monkeypatch.setattr(signal, "setitimer", lambda _, seconds: said.append(seconds))
    return said


def test_opening_is_bounded_in_time_and_by_the_size_of_the_file(bounds: list[int], alarms: list[float]) -> None:
    limits.before_load(30.0, 500 * MIB, 10 * MIB)

    assert alarms == [30.0]
    assert bounds == pytest.approx([580 * MIB], abs=16 * MIB)


def test_running_is_bounded_by_the_headroom_and_the_areas(bounds: list[int], alarms: list[float]) -> None:
    limits.after_load(500 * MIB, 70 * MIB, unlimited=False)

    assert alarms == [0]
    assert bounds == pytest.approx([570 * MIB], abs=16 * MIB)


def test_a_gpu_and_no_headroom_mean_no_bound(bounds: list[int], alarms: list[float]) -> None:
    limits.before_load(30.0, 0, MIB)
    limits.after_load(0, MIB, unlimited=False)
    limits.after_load(MIB, MIB, unlimited=True)

    assert (bounds, alarms) == ([-1], [30.0, 0, 0])


# Installation and files


@pytest.mark.parametrize(
    ("installed", "says"),
    [
        ({"onnxruntime", "onnxruntime-gpu"}, "both are installed"),
        (set(), r"sluice\[cpu\]"),
    ],
)
def test_two_or_no_runtimes_are_refused(monkeypatch: pytest.MonkeyPatch, installed: set[str], says: str) -> None:
    def version(name: str) -> str:
        if name not in installed:
            raise metadata.PackageNotFoundError(name)
        return "1.31.1"

    monkeypatch.setattr("server.sessions.install.version", version)

    with pytest.raises(FailedPrecondition, match=says):
        check_installation()


def test_the_runtime_that_is_installed_is_named() -> None:
    assert check_installation() == f"onnxruntime {metadata.version('onnxruntime')}"


def test_a_change_to_any_file_of_a_version_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"model")
    (tmp_path / "w.bin").write_bytes(b"weights")
    checked = check_files(tmp_path / "model.onnx")
    checked.check_unchanged()
    (tmp_path / "w.bin").write_bytes(b"others!")

    with pytest.raises(ModelLoadFailed, match="immutable"):
        checked.check_unchanged()


# Confinement

CONFINED = """
import os, socket, subprocess, threading
from server.sessions.confine import confine

ours, theirs = socket.socketpair()
begin, heard = threading.Event(), []

def attempt(what):
    try:
        what()
    except PermissionError:
        heard.append("refused")

thread = threading.Thread(target=lambda: (begin.wait(), attempt(socket.socket)))
thread.start()
assert confine()
begin.set()
thread.join()
attempt(lambda: socket.create_connection(("127.0.0.1", 1)))
attempt(lambda: subprocess.run(["/bin/true"]))
attempt(lambda: os.execv("/bin/true", ["true"]))
ours.send(b"ok")
print(*heard, theirs.recv(2).decode())
"""


def test_a_confined_process_has_no_network_and_no_programs_in_any_thread() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", CONFINED], cwd=ROOT, capture_output=True, text=True, check=True, timeout=20
    )

    assert ended.stdout.split() == ["refused"] * 4 + ["ok"]


def test_a_machine_without_a_list_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(machine="riscv64"))

    assert confine() is False


def test_align_goes_to_the_next_cache_line() -> None:
    assert [align(offset) for offset in (0, 1, 64, 65)] == [0, 64, 64, 128]


def test_a_part_of_a_batch_needs_no_copy() -> None:
    whole = memoryview(bytes(range(16)))
    layout = BatchLayout(replace(spec(TensorSpec("x", "INT8", (-1, 8)))))
    (column,) = layout.gather([Part((Tensor("x", "INT8", (1, 8), whole[i : i + 8]),), 1) for i in (0, 8)])

    assert all(isinstance(chunk, memoryview) for chunk in column.chunks)


def test_a_session_is_optimised_and_threaded_as_the_plan_says() -> None:
    level, mode = onnxruntime.GraphOptimizationLevel, onnxruntime.ExecutionMode
    plan = SessionPlan("cpu", 0, 2, 0, "/nowhere")
    plain = ort.session_options(plan)
    tuned = ort.session_options(replace(plan, graph_level="none", parallel_threads=3))

    assert (plain.graph_optimization_level, plain.execution_mode) == (level.ORT_ENABLE_ALL, mode.ORT_SEQUENTIAL)
    assert (plain.intra_op_num_threads, plain.inter_op_num_threads) == (2, 1)
    assert (tuned.graph_optimization_level, tuned.execution_mode) == (level.ORT_DISABLE_ALL, mode.ORT_PARALLEL)
    assert (tuned.intra_op_num_threads, tuned.inter_op_num_threads) == (2, 3)
