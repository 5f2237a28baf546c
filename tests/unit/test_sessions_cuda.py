"""The rules of CUDA sessions, on a fake device that is as careless as the real one: no GPU is needed or used.

The fake replays a captured graph on the buffers it was captured with, whatever the binding of the run says; a batch
that reached a graph of another shape would get a stale answer.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from server.sessions import cuda, ort
from server.sessions.base import OutOfMemory, RunFailed
from server.sessions.cuda import CudaSession, bucket_size
from server.sessions.ort import DeviceLost, SessionRefused, Stop, translate
from server.sessions.plans import SessionPlan

PLAN = SessionPlan("cuda", 3, 1, 0, "/nowhere", cuda_graphs=True)


class DeviceValue:
    """An OrtValue on the device."""

    def __init__(self, shape: Sequence[int], dtype: type) -> None:
        self.array = np.zeros(shape, dtype)

    def update_inplace(self, data: np.ndarray) -> None:
        self.array[...] = data

    def numpy(self) -> np.ndarray:
        return self.array.copy()


@dataclass
class Binding:
    """An IOBinding: device values by name, or arrays for one run."""

    inputs: dict[str, Any] = field(default_factory=dict)
    outputs: dict[str, Any] = field(default_factory=dict)

    def bind_ortvalue_input(self, name: str, value: DeviceValue) -> None:
        self.inputs[name] = value

    def bind_cpu_input(self, name: str, array: np.ndarray) -> None:
        self.inputs[name] = SimpleNamespace(array=array)

    def bind_ortvalue_output(self, name: str, value: DeviceValue) -> None:
        self.outputs[name] = value

    def bind_output(self, name: str, device: str, device_id: int) -> None:
        assert (device, device_id) == ("cuda", 3)
        self.outputs[name] = None

    def copy_outputs_to_cpu(self) -> list[np.ndarray]:
        return [value.array for value in self.outputs.values()]


class Device:
    """A session of `y = 2 x`; `clock` advances by what a run costs, with a graph or without."""

    def __init__(self, replay_seconds: float, plain_seconds: float) -> None:
        self.now = 0.0
        self.graphs: dict[str, Binding] = {}
        self.runs: list[tuple[str, tuple[int, ...]]] = []
        self.fail: Exception | None = None
        self._replay_seconds = replay_seconds
        self._plain_seconds = plain_seconds

    def get_providers(self) -> list[str]:
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    def get_inputs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name="x", type="tensor(float)", shape=["N", 2])]

    def get_outputs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name="y", type="tensor(float)", shape=["N", 2])]

    def io_binding(self) -> Binding:
        return Binding()

    def run_with_iobinding(self, binding: Binding, options: Any) -> None:
        if self.fail is not None:
            raise self.fail
        graph = options.get_run_config_entry("gpu_graph_id")
        captured = binding if graph == cuda.NO_GRAPH else self.graphs.setdefault(graph, binding)
        x = captured.inputs["x"].array
        self.runs.append((graph, x.shape))
        self.now += self._plain_seconds if graph == cuda.NO_GRAPH else self._replay_seconds
        if captured.outputs["y"] is None:
            captured.outputs["y"] = DeviceValue(x.shape, np.float32)
        captured.outputs["y"].array[...] = 2 * x


Make = Callable[..., tuple[CudaSession, Device]]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Make:
    def session(*, graphs: bool = True, replay: float = 1.0, plain: float = 2.0) -> tuple[CudaSession, Device]:
        device = Device(replay, plain)
        values = SimpleNamespace(
            ortvalue_from_shape_and_type=lambda shape, dtype, _, __: DeviceValue(shape, dtype),
        )
        monkeypatch.setattr(cuda, "onnxruntime", SimpleNamespace(OrtValue=values))
        monkeypatch.setattr(cuda.time, "perf_counter", lambda: device.now)
        return CudaSession(device, 3, graphs=graphs), device

    return session


def rows(count: int, start: float = 0.0) -> np.ndarray:
    return np.arange(start, start + 2 * count, dtype=np.float32).reshape(count, 2)


def ask(session: CudaSession, array: np.ndarray, *, batches: bool = True) -> np.ndarray:
    (answer,) = session.run(["y"], {"x": array}, Stop(), len(array) if batches else 0)
    return answer


@pytest.mark.parametrize(("count", "size"), [(1, 1), (2, 2), (3, 4), (5, 8), (8, 8), (33, 64)])
def test_a_bucket_is_the_next_power_of_two(count: int, size: int) -> None:
    assert bucket_size(count) == size


def test_every_batch_size_gets_its_own_answer(make: Make) -> None:
    session, _ = make()
    for count in (3, 1, 8, 4, 3, 5, 2, 1):
        x = rows(count, start=count)

        np.testing.assert_array_equal(2 * x, ask(session, x))
        assert session.padded_rows == bucket_size(count) - count


def test_a_graph_id_is_never_used_with_two_shapes(make: Make) -> None:
    session, device = make()
    for count in (1, 2, 3, 4, 5, 6, 7, 8, 1, 3, 5):
        ask(session, rows(count))
    shapes: dict[str, set[tuple[int, ...]]] = {}
    for graph, shape in device.runs:
        shapes.setdefault(graph, set()).add(shape)
    shapes.pop(cuda.NO_GRAPH)

    assert [len(seen) for seen in shapes.values()] == [1] * 4


def test_a_batch_of_other_shape_cannot_reach_a_bucket(make: Make) -> None:
    session, _ = make()
    ask(session, rows(2))
    (bucket,) = session._buckets.values()

    with pytest.raises(ValueError, match=r"expected 1 rows of \(2,\)"):
        bucket.run({"x": np.zeros((1, 3), np.float32)}, 1, Stop())


def test_a_graph_that_does_not_pay_is_not_used(make: Make) -> None:
    session, device = make(replay=2.0, plain=1.0)
    ask(session, rows(2))
    device.runs.clear()
    ask(session, rows(2))

    assert device.runs == [(cuda.NO_GRAPH, (2, 2))]


def test_a_graph_that_pays_is_replayed(make: Make) -> None:
    session, device = make()
    ask(session, rows(2))
    device.runs.clear()
    ask(session, rows(2))

    assert device.runs == [("1", (2, 2))]


def test_rows_that_may_depend_on_each_other_are_never_filled_up(make: Make) -> None:
    session, device = make()
    np.testing.assert_array_equal(2 * rows(3), ask(session, rows(3), batches=False))

    assert (session.padded_rows, device.runs) == (0, [(cuda.NO_GRAPH, (3, 2))])


def test_a_session_without_graphs_captures_none(make: Make) -> None:
    session, device = make(graphs=False)
    ask(session, rows(3))

    assert {cuda.NO_GRAPH} == {graph for graph, _ in device.runs}


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("CUDA failure 2: out of memory", OutOfMemory),
        ("Failed to allocate memory for requested buffer of size 9", OutOfMemory),
        ("CUDA failure 700: an illegal memory access was encountered", DeviceLost),
        ("indices element out of data bounds", RunFailed),
    ],
)
def test_what_a_device_reports_is_told_apart(make: Make, text: str, kind: type[Exception]) -> None:
    session, device = make()
    device.fail = RuntimeError(text)

    with pytest.raises(kind):
        ask(session, rows(1))


def test_a_fault_of_the_provider_is_the_end_of_the_process() -> None:
    assert isinstance(translate(ort.binding.EPFail("gone"), stopped=False), DeviceLost)


def test_options_say_precision_memory_and_device() -> None:
    options = cuda.cuda_options(SessionPlan("cuda", 3, 1, 1 << 30, "/nowhere"))

    assert {"device_id": "3", "use_tf32": "0", "gpu_mem_limit": str(1 << 30)}.items() <= options.items()


def test_a_graph_with_nodes_on_the_cpu_is_opened_without_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def open_on(_: bytes, __: SessionPlan, ___: str, options: dict[str, str]) -> Device:
        asked.append(options.get("enable_cuda_graph", "0"))
        if asked == ["1"]:
            raise SessionRefused("not all nodes are on CUDA")
        return Device(1, 1)

    monkeypatch.setattr(cuda, "open_on", open_on)
    monkeypatch.setattr(cuda.onnxruntime, "preload_dlls", lambda: None)

    assert not cuda.open_cuda(b"", PLAN)._graphs
    assert asked == ["1", "0"]


def test_a_machine_without_a_gpu_refuses_or_falls_back_in_the_open(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> CudaSession:
        raise SessionRefused("libcudart.so.13: cannot open shared object file")

    monkeypatch.setattr(cuda, "open_cuda", refuse)
    monkeypatch.setattr(ort.onnxruntime, "get_available_providers", lambda: [ort.CUDA, ort.CPU])
    monkeypatch.setattr(ort, "open_on", lambda *_: Device(1, 1))
    fallen = ort.open_session(b"", SessionPlan("auto", 0, 1, 0, "/nowhere"))

    assert fallen.note == "libcudart.so.13: cannot open shared object file"
    with pytest.raises(SessionRefused):
        ort.open_session(b"", PLAN)
