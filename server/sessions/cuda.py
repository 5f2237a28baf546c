"""Runs a session on CUDA: inputs and outputs bound on the device, host memory pinned, a CUDA graph per batch size.

A captured graph replays fixed kernels on fixed addresses, and ONNX Runtime does not check that the shapes of a run
are those of the graph id it names. So a `Bucket` owns its shapes, its buffers and its graph id together, is found by
its shapes only, and batches are filled up to the next power of two by repeating their last row. The fill is cut off
again; only models whose rows were seen to be independent are filled (`rows` > 0).

Source of the binding rules: ONNX Runtime's CUDA execution provider documentation, "Using CUDA Graphs".
"""

import ctypes
import itertools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime
from typing_extensions import override

from server.log import event
from server.sessions.dtypes import Array
from server.sessions.ort import CUDA, RUNTIME_ERRORS, OrtSession, SessionRefused, Stop, open_on, translate
from server.sessions.plans import SessionPlan

NO_GRAPH = "-1"
"""The graph id that tells ONNX Runtime neither to capture nor to replay."""

TRIALS = 5
"""Runs timed with and without a graph before the bucket settles for the faster."""

Shapes = tuple[tuple[int, ...], ...]


class CudaSession(OrtSession):
    """A session on a GPU; `graphs` is whether it was opened with graph capture enabled."""

    def __init__(self, session: onnxruntime.InferenceSession, device_id: int, *, graphs: bool) -> None:
        super().__init__(session)
        types = {spec.datatype for spec in (*self.inputs, *self.outputs)}
        self._device_id = device_id
        self._graphs = graphs
        self._bucketed = not types & {"BYTES", "BF16"}
        self._buckets: dict[Shapes, Bucket] = {}
        self._ids = itertools.count(1)

    @override
    def run(self, names: Sequence[str], feeds: Mapping[str, Array], stop: Stop, rows: int = 0) -> list[Array]:
        self.padded_rows = 0
        if not self._bucketed:
            stop.options.add_run_config_entry("gpu_graph_id", NO_GRAPH)
            return super().run(names, feeds, stop, rows)
        try:
            if rows == 0 or not self._fixed(feeds):  # shapes without bound are not worth buffers of their own
                return self._run_bound(names, feeds, stop)
            self.padded_rows = bucket_size(rows) - rows
            return self._bucket(names, feeds, bucket_size(rows)).run(feeds, rows, stop)
        except RUNTIME_ERRORS as error:
            raise translate(error, stopped=stop.requested) from error

    def _run_bound(self, names: Sequence[str], feeds: Mapping[str, Array], stop: Stop) -> list[Array]:
        """Run any shape once: ONNX Runtime allocates the outputs on the device and copies them back."""
        stop.options.add_run_config_entry("gpu_graph_id", NO_GRAPH)
        binding = self.session.io_binding()
        for name, array in feeds.items():
            binding.bind_cpu_input(name, array)
        for name in names:
            binding.bind_output(name, "cuda", self._device_id)
        self.session.run_with_iobinding(binding, stop.options)
        return list(binding.copy_outputs_to_cpu())

    def _bucket(self, names: Sequence[str], feeds: Mapping[str, Array], size: int) -> "Bucket":
        shapes = tuple((size, *array.shape[1:]) for array in feeds.values())
        bucket = self._buckets.get(shapes)
        if bucket is None:
            graph_id = str(next(self._ids)) if self._graphs else NO_GRAPH
            bucket = Bucket(self.session, self._device_id, dict(zip(feeds, shapes, strict=True)), graph_id)
            first = self._run_bound(names, {name: filled(array, size) for name, array in feeds.items()}, Stop())
            bucket.bind(names, first, feeds)
            self._buckets[shapes] = bucket
        return bucket

    def _fixed(self, feeds: Mapping[str, Array]) -> bool:
        return all(-1 not in spec.shape[1:] for spec in self.inputs if spec.name in feeds)


class Bucket:
    """Buffers for one set of input shapes: pinned on the host, fixed on the device, and maybe a captured graph."""

    def __init__(self, session: Any, device_id: int, shapes: Mapping[str, tuple[int, ...]], graph_id: str) -> None:  # noqa: ANN401
        self._session = session
        self._device_id = device_id
        self._shapes = shapes
        self._graph_id = graph_id
        self._binding = session.io_binding()
        self._host: dict[str, Array] = {}
        self._device: dict[str, Any] = {}
        self._outputs: list[Any] = []

    def bind(self, names: Sequence[str], outputs: Sequence[Array], feeds: Mapping[str, Array]) -> None:
        """Allocate for inputs like `feeds` and outputs like `outputs`, and settle whether a graph pays."""
        for name, shape in self._shapes.items():
            self._host[name] = pinned(shape, feeds[name].dtype)
            self._device[name] = self._on_device(shape, feeds[name].dtype)
            self._binding.bind_ortvalue_input(name, self._device[name])
        for name, array in zip(names, outputs, strict=True):
            value = self._on_device(array.shape, array.dtype)
            self._binding.bind_ortvalue_output(name, value)
            self._outputs.append(value)
        if self._graph_id != NO_GRAPH and not self._graph_pays(feeds):
            self._graph_id = NO_GRAPH

    def run(self, feeds: Mapping[str, Array], rows: int, stop: Stop) -> list[Array]:
        """Run `rows` rows; what fills the bucket up is the last of them again."""
        for name, array in feeds.items():
            host = self._host[name]
            if (len(array), host.shape[1:]) != (rows, array.shape[1:]):
                raise ValueError(f"input {name!r}: expected {rows} rows of {host.shape[1:]}, got {array.shape}")
            host[:rows] = array
            host[rows:] = array[-1:]
            self._device[name].update_inplace(host)
        stop.options.add_run_config_entry("gpu_graph_id", self._graph_id)
        self._session.run_with_iobinding(self._binding, stop.options)
        return [value.numpy()[:rows] for value in self._outputs]

    def _graph_pays(self, feeds: Mapping[str, Array]) -> bool:
        rows = len(next(iter(feeds.values())))
        graph_id = self._graph_id
        try:
            replayed = _fastest(lambda: self.run(feeds, rows, Stop()))
        except RUNTIME_ERRORS as error:
            event("cuda_graph_refused", logging.WARNING, why=str(error), shapes=str(list(self._shapes.values())))
            return False
        self._graph_id = NO_GRAPH
        plain = _fastest(lambda: self.run(feeds, rows, Stop()))
        self._graph_id = graph_id
        return replayed < plain

    def _on_device(self, shape: Sequence[int], dtype: np.dtype[Any]) -> Any:  # noqa: ANN401
        return onnxruntime.OrtValue.ortvalue_from_shape_and_type(list(shape), dtype.type, "cuda", self._device_id)


def open_gpu(model: bytes, plan: SessionPlan) -> CudaSession:
    """Open a session on the GPU, by TensorRT where the plan asks for it and it can, else by CUDA, which says why.

    Raises:
        SessionRefused: there is no such GPU, or a library of CUDA's is missing.
    """
    onnxruntime.preload_dlls()  # the libraries come from wheels, where the system's loader does not look
    if plan.tensorrt is None:
        return open_cuda(model, plan)
    from server.sessions.tensorrt import open_tensorrt  # noqa: PLC0415  (it stands on this module)

    try:
        return open_tensorrt(model, plan)
    except SessionRefused as error:
        event("tensorrt_unavailable", logging.WARNING, why=str(error))
        session = open_cuda(model, plan)
        session.note = f"no TensorRT: {error}"
        return session


def open_cuda(model: bytes, plan: SessionPlan) -> CudaSession:
    """Open a session on the GPU, with graph capture where every node of the graph can run there.

    Raises:
        SessionRefused: there is no such GPU, or a library of CUDA's is missing.
    """
    if plan.cuda_graphs:
        try:
            options = cuda_options(plan) | {"enable_cuda_graph": "1"}
            return CudaSession(open_on(model, plan, CUDA, options), plan.device_id, graphs=True)
        except SessionRefused as error:
            event("cuda_graphs_unavailable", why=str(error))
    return CudaSession(open_on(model, plan, CUDA, cuda_options(plan)), plan.device_id, graphs=False)


def cuda_options(plan: SessionPlan) -> dict[str, str]:
    """Return the CUDA provider's options: full float32 precision, and memory taken in the sizes asked for."""
    options = {
        "device_id": str(plan.device_id),
        "use_tf32": "0",
        "arena_extend_strategy": "kSameAsRequested",
        "cudnn_conv_use_max_workspace": "1",
    }
    if plan.gpu_memory_limit_bytes:
        options["gpu_mem_limit"] = str(plan.gpu_memory_limit_bytes)
    return options


def bucket_size(rows: int) -> int:
    """Return the smallest power of two that holds `rows`."""
    return 1 << (rows - 1).bit_length()


def filled(array: Array, size: int) -> Array:
    """Return the array with its last row repeated until it has `size` rows."""
    return np.concatenate([array, np.repeat(array[-1:], size - len(array), axis=0)])


def pinned(shape: Sequence[int], dtype: np.dtype[Any]) -> Array:
    """Return an array in page-locked memory, which the GPU copies from without a detour; plain where that fails."""
    array: Array = np.zeros(shape, dtype)
    runtime = _cuda_runtime()
    if runtime is not None and array.nbytes:
        status = runtime.cudaHostRegister(ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes), 0)
        if status != 0:
            event("host_memory_not_pinned", logging.WARNING, status=status)
    return array


def _cuda_runtime() -> ctypes.CDLL | None:
    """Return CUDA's runtime library, which `preload_dlls` has loaded."""
    for name in ("libcudart.so.13", "libcudart.so.12"):
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


def _fastest(run: Callable[[], object]) -> float:
    """Return the shortest of a few runs in seconds; the first, which captures or allocates, is not counted."""
    run()
    seconds = []
    for _ in range(TRIALS):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return min(seconds)
