"""What config.pbtxt says of TensorRT reaches ONNX Runtime, and a machine without it falls back in the open.

No GPU is needed or used, and none was: what TensorRT does with these options has not been run.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from server.sessions import cuda, ort, tensorrt
from server.sessions.cuda import CudaSession
from server.sessions.ort import CPU, CUDA, OrtSession, SessionRefused
from server.sessions.plans import SessionPlan
from server.sessions.tensorrt import TENSORRT, tensorrt_options
from server.spec import TensorSpec
from tests import models

INPUTS = (TensorSpec("image", "UINT8", (-1, 28, 28)), TensorSpec("scale", "FP32", (-1, 1)))


def plan(device: str = "auto", **changes: object) -> SessionPlan:
    return SessionPlan(device, 3, 1, 0, "/nowhere", **{"tensorrt": {}, "max_batch_size": 12, **changes})


def test_parameters_become_options_of_the_provider() -> None:
    said = {"precision_mode": "FP16", "max_workspace_size_bytes": "1024", "trt_sparsity_enable": "True"}

    assert tensorrt_options(plan(tensorrt=said), INPUTS, "/cache/abc") == {
        "device_id": "3",
        "trt_fp16_enable": "True",
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": "/cache/abc",
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": "/cache/abc",
        "trt_max_workspace_size": "1024",
        "trt_sparsity_enable": "True",
        "trt_profile_min_shapes": "image:1x28x28,scale:1x1",
        "trt_profile_opt_shapes": "image:16x28x28,scale:16x1",
        "trt_profile_max_shapes": "image:16x28x28,scale:16x1",
    }


def test_nothing_is_kept_where_there_is_no_directory_for_it() -> None:
    said = {"trt_engine_cache_enable": "True", "trt_timing_cache_enable": "True", "precision_mode": "FP32"}

    assert (
        tensorrt_options(plan(tensorrt=said), (), "").keys() & {"trt_engine_cache_enable", "trt_fp16_enable"} == set()
    )


@pytest.mark.parametrize(
    ("inputs", "largest"),
    [
        ((TensorSpec("text", "INT64", (-1, -1)),), 8),
        ((TensorSpec("x", "FP32", (4,)),), 0),
        ((TensorSpec("x", "FP32", (2, 4)),), 8),
    ],
)
def test_shapes_without_bound_have_no_profile(inputs: tuple[TensorSpec, ...], largest: int) -> None:
    options = tensorrt_options(plan(max_batch_size=largest), inputs, "")

    assert [name for name in options if "profile" in name] == []


def test_each_model_file_has_engines_of_its_own_that_nobody_else_writes(tmp_path: Path) -> None:
    one, other = (tensorrt._cache(data, plan(engine_cache=str(tmp_path / "cache"))) for data in (b"one", b"other"))

    assert one != other
    assert Path(one).stat().st_mode & 0o777 == 0o700
    assert (
        tensorrt._cache(b"one", plan(engine_cache=str(tmp_path), tensorrt={"trt_engine_cache_enable": "False"})) == ""
    )


def test_a_cache_that_cannot_be_written_is_a_reason_to_do_without_tensorrt(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(SessionRefused, match="the engine cache cannot be written: Not a directory"):
        tensorrt._cache(b"", plan(engine_cache=str(tmp_path / "file")))


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[list[str]]]:
    """Return the providers that were asked for, each time; what is opened runs on the CPU and says otherwise."""
    asked: list[list[str]] = []

    class Posing:
        def __init__(self, real: object, provider: str) -> None:
            self._real, self._provider = real, provider

        def get_providers(self) -> list[str]:
            return [self._provider]

        def __getattr__(self, name: str) -> object:
            return getattr(self._real, name)

    def session(model: bytes, options: object, providers: list[tuple[str, dict[str, str]]], **_: object) -> object:
        asked.append([name for name, _ in providers])
        return Posing(real(model, options, providers=[CPU]), providers[0][0])

    real = ort.onnxruntime.InferenceSession
    monkeypatch.setattr(ort.onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(ort.onnxruntime, "get_available_providers", lambda: [TENSORRT, CUDA, CPU])
    monkeypatch.setattr(cuda.onnxruntime, "preload_dlls", lambda: None)
    return lambda: asked


def test_tensorrt_serves_with_cuda_and_the_cpu_below_it(opened: Callable[[], list[list[str]]]) -> None:
    session = ort.open_session(models.add(), plan("cuda"))

    assert isinstance(session, CudaSession)
    assert (session.provider, session.note) == (TENSORRT, "")
    assert opened() == [[CPU], [TENSORRT, CUDA, CPU]]


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_without_tensorrt_cuda_serves_and_says_why(
    opened: Callable[[], list[list[str]]], monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    monkeypatch.setattr(ort.onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    session = ort.open_session(models.add(), plan(device))

    assert (session.provider, session.note) == (CUDA, "no TensorRT: this ONNX Runtime has no TensorrtExecutionProvider")
    assert opened() == [[CUDA, CPU]]


def test_a_model_that_does_not_ask_for_tensorrt_does_not_get_it(opened: Callable[[], list[list[str]]]) -> None:
    ort.open_session(models.add(), plan("cuda", tensorrt=None))

    assert opened() == [[CUDA, CPU]]


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_this_very_machine_falls_back_to_the_cpu_in_the_open_or_refuses() -> None:
    if CUDA in ort.onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime is built for GPUs")

    fallen = ort.open_session(models.add(), plan())

    assert isinstance(fallen, OrtSession)
    assert (fallen.provider, fallen.note) == (CPU, "TensorRT needs a GPU, there is none")
    assert ort.open_session(models.add(), plan("cpu")).note == ""
    with pytest.raises(SessionRefused, match="put it on CPUExecutionProvider"):
        ort.open_session(models.add(), plan("cuda"))
