"""`optimization` of config.pbtxt: how ONNX Runtime is to optimise the graph, and whether TensorRT is to run it.

The names are those of Triton's ONNX Runtime backend. What only it has (OpenVINO, options that name files or load
libraries) is ignored and listed. This module must never know what a session does with it.
"""

from server.modelconfig.fields import Fields
from server.spec import GraphLevel, Optimization

_LEVELS: dict[int, GraphLevel] = {-1: "basic", 0: "all", 1: "extended", 2: "none"}
"""Triton's numbers: 2 switches everything off."""

_PRECISIONS = ("FP32", "FP16")
_NUMBERS = {
    "max_workspace_size_bytes": 1 << 40,
    "trt_max_partition_iterations": 1 << 20,
    "trt_min_subgraph_size": 1 << 20,
    "trt_builder_optimization_level": 5,
    "trt_auxiliary_streams": 64,
}
_SWITCHES = (
    "trt_build_heuristics_enable",
    "trt_context_memory_sharing_enable",
    "trt_engine_cache_enable",
    "trt_force_sequential_engine_build",
    "trt_layer_norm_fp32_fallback",
    "trt_sparsity_enable",
    "trt_timing_cache_enable",
)
_TRUTH = {"1": "True", "true": "True", "0": "False", "false": "False"}


def read_optimization(config: Fields) -> tuple[Optimization, list[str]]:
    """Take `optimization`; returns it with the paths of the TensorRT parameters that are ignored.

    Raises:
        ModelLoadFailed: a value is out of its range.
    """
    fields = config.message("optimization")
    if fields is None:
        return Optimization(), []
    graph = fields.message("graph")
    level = graph.integer("level", -1, 2) if graph is not None else None
    accelerators = fields.message("execution_accelerators")
    gpu = accelerators.messages("gpu_execution_accelerator") if accelerators is not None else []
    tensorrt, ignored = None, []
    for accelerator in gpu:
        name = accelerator.text("name")
        given = accelerator.texts("parameters")
        path = f"optimization.execution_accelerators.gpu_execution_accelerator.{name}"
        if name == "tensorrt":
            tensorrt = _known(accelerator, given)
            ignored += [f"{path}.{key}" for key in given if key not in tensorrt]
        else:
            ignored += [f"{path}.{key}" for key in given] or [path]
    return Optimization(_LEVELS[level or 0], tensorrt), ignored


def _known(fields: Fields, given: dict[str, str]) -> dict[str, str]:
    """Return the parameters that are honoured, checked; truth values as ONNX Runtime spells them."""
    known: dict[str, str] = {}
    for key, value in given.items():
        if key == "precision_mode":
            known[key] = value
            if value not in _PRECISIONS:
                fields.refuse(f"parameters.{key}", f"one of {', '.join(_PRECISIONS)}", value)
        elif key in _NUMBERS:
            known[key] = value
            if not (value.isascii() and value.isdigit() and len(value) < 20 and int(value) <= _NUMBERS[key]):
                fields.refuse(f"parameters.{key}", f"a whole number from 0 to {_NUMBERS[key]}", value)
        elif key in _SWITCHES:
            if value.lower() not in _TRUTH:
                fields.refuse(f"parameters.{key}", "true or false", value)
            known[key] = _TRUTH[value.lower()]
    return known
