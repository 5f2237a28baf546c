"""The home of onnxruntime, with cuda.py and tensorrt.py: opens sessions, runs them, translates what it raises, once.

Providers are always explicit: ONNX Runtime otherwise falls back to the CPU in silence, both when a session opens
(a missing CUDA library) and in the middle of a run (`enable_fallback`). Nothing above this module sees an
onnxruntime type, and this module must never know a batch, a process or a wire.
"""

import ctypes
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as binding

from server.sessions.base import BatchError, InstanceDied, OutOfMemory, RunFailed, RunTimedOut
from server.sessions.dtypes import DATATYPE_OF_ONNX, NUMPY, Array
from server.sessions.plans import SessionPlan
from server.spec import TensorSpec

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
FATAL = 4
"""ONNX Runtime's log level: everything less than fatal also reaches us as an exception, which we log."""

_LEVELS = {
    "none": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
_MODES = onnxruntime.ExecutionMode.ORT_SEQUENTIAL, onnxruntime.ExecutionMode.ORT_PARALLEL

_ONNX_BFLOAT16 = 16
_OUT_OF_MEMORY = (
    "Failed to allocate memory",
    "bad_alloc",
    "bad allocation",
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)
"""ONNX Runtime has no type of its own for this, so here, and only here, the text decides."""

_DEVICE_LOST = ("CUDA failure 7", "CUDA_ERROR_", "illegal memory access", "unspecified launch failure")
"""CUDA's errors 700 and up are sticky: every later call of the process fails as well."""

_PREFIX = re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : ")
_SOURCE = re.compile(r"\S+\.(?:cc|h|cu):\d+ (?:[^()]*::[^()]*\([^()]*\) (?:const )?|\w+ )")
MOST_REASON = 500

RUNTIME_ERRORS: tuple[type[Exception], ...] = (
    binding.Fail,
    binding.InvalidArgument,
    binding.NoSuchFile,
    binding.NoModel,
    binding.EngineError,
    binding.RuntimeException,
    binding.InvalidProtobuf,
    binding.ModelLoaded,
    binding.NotImplemented,
    binding.InvalidGraph,
    binding.EPFail,
    RuntimeError,
    ValueError,
    TypeError,
    MemoryError,
)


class SessionRefused(Exception):
    """ONNX Runtime would not open the model, or not on the device that was asked for; the text says why."""


class DeviceLost(InstanceDied):
    """The GPU faulted under this process."""


class Stop:
    """A run that can be stopped from another thread, before or while it runs."""

    def __init__(self) -> None:
        self.options = onnxruntime.RunOptions()
        self.options.log_severity_level = FATAL
        self.requested = False

    def stop(self) -> None:
        """Ask the run to end; ONNX Runtime looks between two operators and between the turns of a Loop."""
        self.requested = True
        self.options.terminate = True


class OrtSession:
    """A loaded graph. Inputs and outputs are as the graph reports them, -1 for symbolic dimensions."""

    def __init__(self, session: onnxruntime.InferenceSession, note: str = "") -> None:
        self.session = session
        self.note = note
        """Why it is not on the device that was wished for, or empty."""
        self.provider: str = session.get_providers()[0]
        self.inputs = tuple(_required(_spec(node), node.type) for node in session.get_inputs())
        specs = [(_spec(node), node) for node in session.get_outputs()]
        self.outputs = tuple(spec for spec, _ in specs if spec.datatype)
        self.unserved = tuple(spec.name for spec, _ in specs if not spec.datatype)
        """Outputs that are no tensors (a sequence of maps, say), which the protocol cannot carry."""
        if not self.outputs:
            raise SessionRefused("expected at least one output that is a tensor, the graph has none")
        self._types = {spec.name: spec.datatype for spec in (*self.inputs, *self.outputs)}
        self._boxed = "BF16" in self._types.values()
        self.padded_rows = 0
        """Rows of filler in the last run; only CUDA graphs need any."""

    def run(self, names: Sequence[str], feeds: Mapping[str, Array], stop: Stop, rows: int = 0) -> list[Array]:  # noqa: ARG002
        """Run the graph and return the outputs called `names`. BF16 goes in and comes out as uint16.

        `rows` above 0 says that the first dimension of everything is a batch of so many independent rows, which a
        device may fill up to a size that suits it.

        Raises:
            RunFailed: the values cannot be computed.
            OutOfMemory: they do not fit.
            RunTimedOut: `stop` was asked for.
            DeviceLost: the device is in a state that only a new process gets out of.
        """
        try:
            if self._boxed:
                return self._run_boxed(names, feeds, stop)
            return list(self.session.run(names, feeds, stop.options))
        except RUNTIME_ERRORS as error:
            raise translate(error, stopped=stop.requested) from error

    def _run_boxed(self, names: Sequence[str], feeds: Mapping[str, Array], stop: Stop) -> list[Array]:
        values = {name: self._box(name, array) for name, array in feeds.items()}
        outputs = self.session.run_with_ort_values(names, values, stop.options)
        return [self._unbox(name, value) for name, value in zip(names, outputs, strict=True)]

    def _box(self, name: str, array: Array) -> onnxruntime.OrtValue:
        if self._types[name] == "BF16":
            return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(array, _ONNX_BFLOAT16)
        return onnxruntime.OrtValue.ortvalue_from_numpy(array)

    def _unbox(self, name: str, value: onnxruntime.OrtValue) -> Array:
        if self._types[name] != "BF16":
            array: Array = value.numpy()
            return array
        raw = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
        return np.frombuffer(raw, NUMPY["BF16"]).reshape(value.shape())


def open_session(model: bytes, plan: SessionPlan) -> OrtSession:
    """Open a serialised model on the device that the plan asks for.

    Raises:
        SessionRefused: with ONNX Runtime's reason.
    """
    if not may_use_gpu(plan):
        note = "TensorRT needs a GPU, there is none" if plan.tensorrt is not None and plan.device != "cpu" else ""
        return OrtSession(open_on(model, plan, CPU, {}), note)
    from server.sessions.cuda import open_gpu  # noqa: PLC0415  (it stands on this module)

    try:
        return open_gpu(model, plan)
    except SessionRefused as error:
        if plan.device == "cuda":
            raise
        return OrtSession(open_on(model, plan, CPU, {}), note=str(error))


def may_use_gpu(plan: SessionPlan) -> bool:
    """Whether opening this plan tries CUDA; that the provider is built in says nothing of a GPU being there."""
    return plan.device == "cuda" or (plan.device == "auto" and CUDA in onnxruntime.get_available_providers())


def open_on(
    model: bytes,
    plan: SessionPlan,
    provider: str,
    provider_options: dict[str, str],
    *below: tuple[str, dict[str, str]],
) -> Any:  # noqa: ANN401
    """Return an InferenceSession that really runs on `provider`, with `below` and the CPU for what it cannot do.

    Raises:
        SessionRefused: ONNX Runtime refused the model, or put it elsewhere.
    """
    options = session_options(plan)
    rest = () if provider == CPU else (*below, (CPU, {}))
    providers = [(provider, provider_options), *rest]
    try:
        session = onnxruntime.InferenceSession(model, options, providers=providers, enable_fallback=0)
    except RUNTIME_ERRORS as error:
        raise SessionRefused(reason(error)) from error
    first = session.get_providers()[0]
    if first != provider:
        raise SessionRefused(f"expected the session on {provider}, ONNX Runtime put it on {first}")
    return session


def session_options(plan: SessionPlan) -> onnxruntime.SessionOptions:
    """Return options with explicit threads that sleep when idle, and no door to other files or libraries.

    Spinning threads answered one MNIST row in 0.18 ms instead of 0.30 (2 threads, 2 cores) and took 1.8 ms of CPU time
    for it instead of 0.4, which the frontend beside them needs more.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = FATAL
    options.intra_op_num_threads = plan.threads
    options.graph_optimization_level = _LEVELS[plan.graph_level]
    options.inter_op_num_threads = plan.parallel_threads or 1
    options.execution_mode = _MODES[plan.parallel_threads > 0]
    options.enable_mem_pattern = False  # a plan is kept per input shape, for ever: a leak where lengths vary
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.load_model_format", "ONNX")
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", plan.data_folder)
    return options


def translate(error: Exception, *, stopped: bool) -> BatchError:
    """Return what an exception of a run means to the scheduler."""
    text = reason(error)
    if stopped:
        return RunTimedOut("the run was stopped")
    if isinstance(error, MemoryError) or any(mark in text for mark in _OUT_OF_MEMORY):
        return OutOfMemory(text)
    if isinstance(error, binding.EPFail) or any(mark in text for mark in _DEVICE_LOST):
        return DeviceLost(text)
    return RunFailed(text)


def reason(error: Exception) -> str:
    """Return the first line of an exception's text, without ONNX Runtime's error numbers and C++ signatures."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return _SOURCE.sub("", _PREFIX.sub("", text))[:MOST_REASON]


def _required(spec: TensorSpec, onnx_type: str) -> TensorSpec:
    if not spec.datatype:
        raise SessionRefused(f"input {spec.name!r}: expected a tensor of a served type, the graph wants {onnx_type}")
    return spec


def _spec(node: Any) -> TensorSpec:  # noqa: ANN401  (onnxruntime has no types)
    shape = tuple(size if isinstance(size, int) else -1 for size in node.shape)
    return TensorSpec(node.name, DATATYPE_OF_ONNX.get(node.type, ""), shape)
