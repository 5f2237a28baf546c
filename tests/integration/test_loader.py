"""Bringing versions into service: what is proven, what is measured, what is refused, and what operators get to see."""

import itertools
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from server.errors import ModelLoadFailed
from server.messages import Tensor
from server.sessions import golden, limits, measure
from server.sessions import loader as loading
from server.sessions.base import BatchError, BatchOutputs, CostPoint, LoadedModel, OutOfMemory, SessionOptions
from server.sessions.loader import ModelLoader
from server.sessions.measure import cost_curve, dependent_output
from server.sessions.plans import ChildPlan, Report
from server.sessions.samples import made_up
from server.sessions.spawn import SessionChild
from server.spec import InstanceGroup, ModelConfig, ModelSpec, ModelVersion, Warmup, WarmupInput
from tests import models
from tests.instances import OPTIONS, answers, eventually, load, load_version, part, resolve, run, tensor
from tests.models import write_version

Load = Callable[..., LoadedModel]
QUICK = replace(OPTIONS, max_batch_size=2)


@pytest.fixture
def loads(tmp_path: Path) -> Iterator[Load]:
    """Return `load` into a folder of this test; what it loads is closed afterwards."""
    loaded: list[LoadedModel] = []

    def load_here(data: bytes, options: SessionOptions = QUICK, **more: object) -> LoadedModel:
        loaded.append(load(tmp_path / "tiny", data, options, **more))
        return loaded[-1]

    yield load_here
    for model in loaded:
        for instance in model.instances:
            instance.close(0)


def floats(*rows: float) -> np.ndarray:
    return np.array([[x] * 4 for x in rows], np.float32)


GOLDEN = {"input/a": floats(1, 2, 3), "input/b": floats(4, 5, 6), "output/sum": floats(5, 7, 9)}


# What is reported


def test_a_loaded_model_tells_how_it_is_served(loads: Load) -> None:
    loaded = loads(models.add(), golden=GOLDEN)

    assert loaded.provider == "CPUExecutionProvider"
    assert loaded.labels == {"instances": "1", "threads": "1", "golden_rows": "3"}
    assert 0 < loaded.load_seconds < 20
    assert loaded.memory_bytes > 0
    assert [point.rows for point in loaded.costs] == [1, 2]
    assert all(point.seconds > 0 for point in loaded.costs)


def test_a_model_is_as_its_graph_says(loads: Load) -> None:
    loaded = loads(models.mixed())

    assert [(tensor.name, tensor.datatype, tensor.shape) for tensor in loaded.spec.inputs] == [
        ("x", "FP64", (-1, 2)),
        ("name", "BYTES", (-1, 1)),
        ("flag", "BOOL", (-1, 5)),
    ]


def test_the_largest_batch_is_the_knee_unless_it_is_configured(loads: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    def flat_from_two_on(*_: object) -> tuple[CostPoint, ...]:
        return tuple(CostPoint(rows, 0.1 * max(1, rows / 2)) for rows in (1, 2, 4, 8))

    monkeypatch.setattr("server.sessions.prove.cost_curve", flat_from_two_on)

    assert loads(models.add(), OPTIONS).spec.max_batch_size == 2


def test_a_configured_batch_size_stays(loads: Load) -> None:
    assert loads(models.add(), config=ModelConfig("tiny", max_batch_size=5)).spec.max_batch_size == 5


def test_a_model_without_a_batch_dimension_has_one_cost(loads: Load) -> None:
    loaded = loads(models.without_batch())

    assert (loaded.spec.max_batch_size, [point.rows for point in loaded.costs]) == (0, [1])


def test_instances_divide_the_cores(loads: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "cores", lambda: 7)
    config = ModelConfig("tiny", instance_groups=(InstanceGroup(count=2), InstanceGroup(count=1, kind="cpu")))
    loaded = loads(models.add(), replace(QUICK, intra_op_threads=0), config=config)

    assert {"instances": "3", "threads": "2"}.items() <= loaded.labels.items()
    assert [instance.name for instance in loaded.instances] == ["tiny/1#0", "tiny/1#1", "tiny/1#2"]
    for instance in loaded.instances:
        outcome = run(instance, part(tensor("a", "FP32", floats(1)), tensor("b", "FP32", floats(2))))
        assert [floats(3).tobytes()] == answers(outcome)


def rows_take(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    def curve(*_: object) -> tuple[CostPoint, ...]:
        return tuple(CostPoint(rows, seconds * rows) for rows in (1, 2))

    monkeypatch.setattr("server.sessions.prove.cost_curve", curve)


@pytest.mark.parametrize(
    ("cores", "seconds", "instances", "threads"),
    [(2, 1e-3, 2, 1), (3, 1e-3, 3, 1), (4, 1e-5, 1, 3), (4, 1e-3, 4, 1), (4, 0.02, 1, 3), (1, 1e-3, 1, 1)],
    ids=["two cores", "three cores", "a cheap row", "four cores", "a row that takes long", "one core"],
)
def test_where_the_config_is_silent_small_models_get_a_session_for_every_core(
    loads: Load, monkeypatch: pytest.MonkeyPatch, cores: int, seconds: float, instances: int, threads: int
) -> None:
    monkeypatch.setattr(limits, "cores", lambda: cores)
    rows_take(monkeypatch, seconds)
    loaded = loads(models.add(), replace(QUICK, intra_op_threads=0), golden=GOLDEN)

    assert len(loaded.instances) == instances
    assert {"instances": f"{instances}", "threads": f"{threads}", "golden_rows": "3"}.items() <= loaded.labels.items()
    assert len({instance.name for instance in loaded.instances}) == instances
    for instance in loaded.instances:
        outcome = run(instance, part(tensor("a", "FP32", floats(1)), tensor("b", "FP32", floats(2))))
        assert [floats(3).tobytes()] == answers(outcome)


def test_each_copy_must_have_opened_the_file_that_was_proven(loads: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[int] = []

    def open_another_file(plan: ChildPlan, undo: ExitStack) -> tuple[SessionChild, Report]:
        child, report = open_one(plan, undo)
        opened.append(child.process.pid)
        return child, report if len(opened) < 3 else replace(report, sha256="another")

    open_one = loading._open
    monkeypatch.setattr(loading, "_open", open_another_file)
    monkeypatch.setattr(limits, "cores", lambda: 4)
    rows_take(monkeypatch, 1e-3)

    with pytest.raises(ModelLoadFailed, match="the model file changed while it was being loaded"):
        loads(models.add(), replace(QUICK, intra_op_threads=0))
    assert eventually(lambda: not any(map(psutil.pid_exists, opened)))
    assert len(opened) == 3


def test_a_model_that_keeps_its_one_session_is_proven_once(loads: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[Path] = []

    def read(directory: Path, *args: Any, **more: Any) -> golden.Golden | None:
        reads.append(directory)
        return read_golden(directory, *args, **more)

    read_golden = golden.read_golden
    monkeypatch.setattr("server.sessions.prove.read_golden", read)
    monkeypatch.setattr(limits, "cores", lambda: 1)
    loads(models.add(), replace(QUICK, intra_op_threads=0), golden=GOLDEN)

    assert len(reads) == 1


def test_a_config_that_says_one_instance_means_it(loads: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "cores", lambda: 2)
    rows_take(monkeypatch, 1e-3)
    config = ModelConfig("tiny", instance_groups=(InstanceGroup(count=1),))

    assert len(loads(models.add(), replace(QUICK, intra_op_threads=0), config=config).instances) == 1


@pytest.mark.parametrize(("said", "threads"), [("3", "3"), ("64", "7"), ("0", "6")])
def test_a_config_may_name_the_threads_but_not_more_than_there_are_cores(
    loads: Load, monkeypatch: pytest.MonkeyPatch, said: str, threads: str
) -> None:
    monkeypatch.setattr(limits, "cores", lambda: 7)
    config = ModelConfig("tiny", parameters={"intra_op_thread_count": said})

    assert loads(models.without_batch(), replace(QUICK, intra_op_threads=0), config=config).labels["threads"] == threads


def test_a_number_of_threads_that_is_none_is_refused(loads: Load) -> None:
    with pytest.raises(ModelLoadFailed, match="expected a number, got 'many'"):
        loads(models.add(), config=ModelConfig("tiny", parameters={"intra_op_thread_count": "many"}))


def test_processes_stay_on_the_cores_they_are_given(tmp_path: Path) -> None:
    path = write_version(tmp_path / "1", models.without_batch())
    core = min(os.sched_getaffinity(0))
    loader = ModelLoader(QUICK, resolve, cores=[core])
    (instance,) = loader.load(ModelVersion(ModelConfig("tiny"), "1", path.parent, path)).instances
    where = os.sched_getaffinity(instance.pid)
    instance.close(0)

    assert where == {core}


def test_outputs_that_are_no_tensors_are_left_out_and_named(loads: Load) -> None:
    loaded = loads(models.of_sequences())

    assert [tensor.name for tensor in loaded.spec.outputs] == ["y"]
    assert loaded.labels["unserved_outputs"] == "list"


def test_a_model_on_the_gpu_is_refused_where_there_is_none(loads: Load) -> None:
    with pytest.raises(ModelLoadFailed, match="CUDAExecutionProvider"):
        loads(models.add(), replace(QUICK, device="cuda"))


def test_a_group_on_the_cpu_stays_there_whatever_the_device(loads: Load) -> None:
    config = ModelConfig("tiny", instance_groups=(InstanceGroup(kind="cpu"),))

    assert loads(models.add(), replace(QUICK, device="cuda"), config=config).provider == "CPUExecutionProvider"


# Golden vectors


@pytest.mark.parametrize("isolation", ["process", "none"])
def test_a_version_that_answers_otherwise_than_exported_is_refused(loads: Load, isolation: str) -> None:
    wrong = GOLDEN | {"output/sum": floats(5, 7, 9.5)}
    expected = r"output 'sum', row 2: expected 9\.5, got 9\.0 .* on CPUExecutionProvider"

    with pytest.raises(ModelLoadFailed, match=expected):
        loads(models.add(), replace(QUICK, isolation=isolation), golden=wrong)


def test_golden_answers_may_differ_by_their_tolerance(loads: Load) -> None:
    near = GOLDEN | {"output/sum": floats(5, 7, 9.5), "atol": np.float64(0.6), "rtol": np.float64(0)}

    assert loads(models.add(), golden=near).labels["golden_rows"] == "3"


def test_golden_text_is_compared_as_text(loads: Load) -> None:
    good = {"input/text": np.array([["ab"], ["cé"]]), "output/upper": np.array([["AB"], ["Cé"]])}

    with pytest.raises(ModelLoadFailed, match="row 1: expected X, got Cé"):
        loads(models.upper(), golden=good | {"output/upper": np.array([["AB"], ["X"]])})


def test_golden_vectors_of_a_model_without_a_batch_dimension(loads: Load) -> None:
    golden = {"input/x": np.float32([1, 2, 3]), "output/y": np.float32([2, 4, 6])}

    assert loads(models.without_batch(), golden=golden).labels["golden_rows"] == "1"


def test_a_wrong_answer_of_a_model_without_a_batch_dimension(loads: Load) -> None:
    golden = {"input/x": np.float32([1, 2, 3]), "output/y": np.float32([2, 4, 7])}

    with pytest.raises(ModelLoadFailed, match=r"expected 7\.0, got 6\.0 at \[2\]"):
        loads(models.without_batch(), golden=golden)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"input/a": floats(1, 2)}, "3 rows|2 rows"),
        ({"input/a": floats(1, 2, 3).astype(np.float64)}, "of FP32, got float64"),
        ({"output/product": floats(1, 2, 3)}, r"got \['product'\]"),
        ({"output/sum": np.ones((3, 5), np.float32)}, "expected shape"),
    ],
)
def test_golden_vectors_that_do_not_fit_are_refused(loads: Load, change: Mapping[str, np.ndarray], says: str) -> None:
    with pytest.raises(ModelLoadFailed, match=says):
        loads(models.add(), golden=GOLDEN | change)


def test_golden_vectors_lacking_an_input_are_refused(loads: Load) -> None:
    with pytest.raises(ModelLoadFailed, match="input/b"):
        loads(models.add(), golden={name: array for name, array in GOLDEN.items() if name != "input/b"})


def pickled(path: Path) -> None:
    np.savez(path, **{"input/a": np.array([{"code": print}])})


def bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(3):
            archive.writestr(f"input/{number}.npy", bytes(1 << 20))


def liar(path: Path) -> None:
    file = BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (10**11,)})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("input/a.npy", file.getvalue() + bytes(400))


def junk(path: Path) -> None:
    path.write_bytes(b"PK\x03\x04" + bytes(100))


@pytest.mark.parametrize(
    ("damage", "says"),
    [(pickled, "Object arrays"), (bomb, "bytes unpacked"), (liar, "claims shape"), (junk, "not a zip file")],
)
def test_a_hostile_golden_file_is_refused(
    tmp_path: Path, damage: Callable[[Path], None], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(golden, "MOST_BYTES", 2 << 20)
    path = write_version(tmp_path / "1", models.add())
    damage(tmp_path / "1" / "golden.npz")

    with pytest.raises(ModelLoadFailed, match=rf"golden\.npz: .*{says}"):
        load_version(path, QUICK)


def test_a_matching_card_is_accepted(tmp_path: Path) -> None:
    loaded = load_version(write_version(tmp_path / "1", models.without_batch(), card=True))
    loaded.instances[0].close(0)

    assert loaded.spec.name == "tiny"


# Rows that depend on each other


@pytest.mark.parametrize("isolation", ["process", "none"])
def test_a_model_whose_rows_depend_on_each_other_is_not_batched(loads: Load, isolation: str) -> None:
    loaded = loads(models.softmax_over_rows(), replace(OPTIONS, isolation=isolation))
    (instance,) = loaded.instances
    together = part(tensor("x", "FP32", np.zeros((4, 2), np.float32)), rows=1)

    assert loaded.spec.max_batch_size == 0
    assert loaded.labels["batching"] == "disabled: output y depends on the other rows of a batch"
    assert [np.full((4, 2), 0.25, np.float32).tobytes()] == answers(run(instance, together))


def test_independent_rows_keep_their_batching(loads: Load) -> None:
    assert "batching" not in loads(models.dynamic()).labels


# Warm-up


def test_a_model_that_refuses_made_up_inputs_is_served_all_the_same(loads: Load) -> None:
    loaded = loads(models.parse_number())
    outcome = run(loaded.instances[0], part(tensor("text", "BYTES", np.array([["12"]], object))))

    assert "refuses made-up inputs" in loaded.labels["warm_up"]
    assert (loaded.costs[0].rows, loaded.costs[0].seconds > 0) == (1, True)
    assert [np.int64(12).tobytes()] == answers(outcome)


def warmup(**inputs: WarmupInput) -> ModelConfig:
    return ModelConfig("tiny", warmups=(Warmup("first", 2, 3, inputs),))


def test_a_configured_warm_up_runs_before_anything_else(loads: Load) -> None:
    with pytest.raises(ModelLoadFailed, match="stoll"):
        loads(models.parse_number(), config=warmup(text=WarmupInput("BYTES", (1,))))


def test_warm_up_data_may_come_from_a_file(loads: Load, tmp_path: Path) -> None:
    (tmp_path / "tiny" / "warmup").mkdir(parents=True)
    (tmp_path / "tiny" / "warmup" / "rows").write_bytes(np.zeros(2, np.int64).tobytes())
    config = warmup(index=WarmupInput("INT64", (1,), "file", "rows"))

    assert loads(models.gather(), config=config).spec.batches


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (warmup(a=WarmupInput("FP32", (4,))), "expected input 'b' as well"),
        (warmup(a=WarmupInput("FP32", (4,), "file", "no"), b=WarmupInput("FP32", (4,))), "expected a file 'no'"),
        (
            warmup(a=WarmupInput("FP32", (4,), "file", "../1/model.onnx"), b=WarmupInput("FP32", (4,))),
            "expected a file",
        ),
    ],
)
def test_a_warm_up_that_cannot_be_is_refused(loads: Load, config: ModelConfig, says: str) -> None:
    with pytest.raises(ModelLoadFailed, match=says):
        loads(models.add(), config=config)


def test_made_up_requests_are_the_same_every_time_and_of_the_model_s_shape(loads: Load) -> None:
    spec = loads(models.mixed()).spec
    rows = made_up(spec, 3)

    assert rows == made_up(spec, 3)
    assert [tensor.shape for tensor in rows[0].inputs] == [(1, 2), (1, 1), (1, 5)]
    assert rows[0].inputs[1].data == b"\x07\x00\x00\x00warm up"


# Measuring


class Timed:
    """An instance that answers at once and moves a clock by what its cost curve says."""

    name = "timed"
    available = True

    def __init__(self, seconds: Callable[[int], float]) -> None:
        self.now = 0.0
        self.sizes: list[int] = []
        self.outcome: Callable[[int], BatchError | None] = lambda _: None
        self._seconds = seconds

    def run(self, parts: list[object], _: float, done: Callable[[BatchOutputs | BatchError], None]) -> None:
        self.sizes.append(len(parts))
        self.now += self._seconds(len(parts))
        done(self.outcome(len(parts)) or BatchOutputs([], 0, 0, 0))


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[int], float]], Timed]:
    def make(seconds: Callable[[int], float]) -> Timed:
        instance = Timed(seconds)
        monkeypatch.setattr(measure.time, "perf_counter", lambda: instance.now)
        return instance

    return make


def test_the_cost_curve_is_what_batches_take(timed: Callable[[Callable[[int], float]], Timed]) -> None:
    points = cost_curve(timed(lambda rows: 0.001 + 0.0005 * rows), object(), [1, 2, 4], 10)

    assert [(point.rows, round(point.seconds, 9)) for point in points] == [(1, 0.0015), (2, 0.002), (4, 0.003)]


def test_measuring_a_slow_model_ends_early(timed: Callable[[Callable[[int], float]], Timed]) -> None:
    instance = timed(lambda rows: 0.2 * rows)
    points = cost_curve(instance, object(), [1, 2, 4, 8, 16, 32, 64], 10)

    assert [point.rows for point in points] == [1]
    assert instance.now < 2 * measure.BUDGET


def test_a_moment_in_which_the_cores_are_busy_makes_no_size_look_dear(
    timed: Callable[[Callable[[int], float]], Timed],
) -> None:
    runs = itertools.count()
    points = cost_curve(
        timed(lambda rows: 0.001 * rows * (3 if 4 < next(runs) < 12 else 1)), object(), [1, 2, 4, 8], 10
    )

    assert [(point.rows, round(point.seconds, 9)) for point in points] == [
        (1, 0.001),
        (2, 0.002),
        (4, 0.004),
        (8, 0.008),
    ]


@pytest.mark.parametrize(("fails", "sizes"), [(4, [1, 2]), (2, [1])])
def test_a_size_that_does_not_always_run_ends_the_curve(
    timed: Callable[[Callable[[int], float]], Timed], fails: int, sizes: list[int]
) -> None:
    runs = itertools.count()
    instance = timed(lambda rows: 0.001 * rows)
    instance.outcome = lambda rows: OutOfMemory("full") if rows >= fails and next(runs) > 2 else None

    assert [point.rows for point in cost_curve(instance, object(), [1, 2, 4], 10)] == sizes


def test_the_row_that_is_measured_is_of_median_length() -> None:
    rows = [part(Tensor("x", "UINT8", (1, length), bytes(length))) for length in (9, 1, 5, 2, 7)]

    assert measure.typical(rows) is rows[2]


def test_rows_are_compared_alone_and_together(loads: Load) -> None:
    loaded = loads(models.add(), golden=GOLDEN)
    spec: ModelSpec = loaded.spec

    assert dependent_output(loaded.instances[0], made_up(spec, 2), 10) is None
