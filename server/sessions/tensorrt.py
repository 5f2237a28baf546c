"""Runs a session on TensorRT, with CUDA below it for the operators that TensorRT does not have.

TensorRT compiles the graph into an engine for one range of shapes, which takes minutes, so engines are kept where the
operator gives a directory: one below it per model file, since an engine that is found is trusted to be of this graph.
The batches that come are of powers of two (cuda.py), so one range from one row to the largest of them fits all.

Source of the option names: ONNX Runtime's TensorRT execution provider documentation, "Configurations".
"""

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import onnxruntime

from server.sessions.cuda import CudaSession, bucket_size, cuda_options
from server.sessions.ort import CPU, CUDA, OrtSession, SessionRefused, open_on
from server.sessions.plans import SessionPlan
from server.spec import TensorSpec

TENSORRT = "TensorrtExecutionProvider"

_RENAMED = {"max_workspace_size_bytes": "trt_max_workspace_size"}
"""Triton's parameter -> ONNX Runtime's option; the others have one name for both."""


def open_tensorrt(model: bytes, plan: SessionPlan) -> CudaSession:
    """Open a session on TensorRT; takes as long as building the engine does where none is kept.

    Raises:
        SessionRefused: TensorRT is not there, has no engine for this graph, or its cache cannot be written.
    """
    if TENSORRT not in onnxruntime.get_available_providers():
        raise SessionRefused(f"this ONNX Runtime has no {TENSORRT}")
    inputs = OrtSession(open_on(model, plan, CPU, {})).inputs
    options = tensorrt_options(plan, inputs, _cache(model, plan))
    session = open_on(model, plan, TENSORRT, options, (CUDA, cuda_options(plan)))
    return CudaSession(session, plan.device_id, graphs=False)


def tensorrt_options(plan: SessionPlan, inputs: Sequence[TensorSpec], cache: str) -> dict[str, str]:
    """Return the provider's options; `cache` is the directory for engines of this very graph, empty for none."""
    said = dict(plan.tensorrt or {})
    options = {"device_id": str(plan.device_id)}
    if said.pop("precision_mode", "FP32") == "FP16":
        options["trt_fp16_enable"] = "True"
    if cache:
        options |= {
            "trt_engine_cache_enable": "True",
            "trt_engine_cache_path": cache,
            "trt_timing_cache_enable": "True",
            "trt_timing_cache_path": cache,
        }
    else:
        said.pop("trt_engine_cache_enable", None)  # it would keep them in the working directory
        said.pop("trt_timing_cache_enable", None)
    options |= {_RENAMED.get(name, name): value for name, value in said.items()}
    return options | _profile(inputs, plan.max_batch_size)


def _profile(inputs: Sequence[TensorSpec], max_batch_size: int) -> dict[str, str]:
    """Return the range of shapes, none where more than the batch is variable: TensorRT then builds as shapes come."""
    if max_batch_size == 0 or any(-1 in spec.shape[1:] or spec.shape[:1] != (-1,) for spec in inputs):
        return {}
    largest = bucket_size(max_batch_size)
    return {
        f"trt_profile_{name}_shapes": ",".join(_shape(spec, rows) for spec in inputs)
        for name, rows in (("min", 1), ("opt", largest), ("max", largest))
    }


def _shape(spec: TensorSpec, rows: int) -> str:
    return f"{spec.name}:{'x'.join(map(str, (rows, *spec.shape[1:])))}"


def _cache(model: bytes, plan: SessionPlan) -> str:
    """Return the directory for the engines of this model file, which nobody else may write to."""
    if not plan.engine_cache or (plan.tensorrt or {}).get("trt_engine_cache_enable") == "False":
        return ""
    path = Path(plan.engine_cache) / sha256(model).hexdigest()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise SessionRefused(f"the engine cache cannot be written: {error.strerror}") from error
    return str(path)
