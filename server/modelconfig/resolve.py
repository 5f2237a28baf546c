"""Joins what config.pbtxt says with what the ONNX file has: gaps are filled, contradictions refused by name.

The rules are Triton's: the dims of the configuration leave the batch dimension out; they may be narrower than the
graph's, never wider. This module must never know a session or a file.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Literal, NoReturn

from server.errors import ModelLoadFailed
from server.spec import ModelConfig, ModelSpec, ModelVersion, TensorSpec

PLATFORM = "onnxruntime_onnx"


def resolve(
    version: ModelVersion, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], max_batch_size: int
) -> ModelSpec:
    """Return how one version is served, from its configuration and its tensors as ONNX Runtime reports them.

    A model batches when `max_batch_size` of the configuration is positive; when it is not said, if every input and
    output has a variable first dimension, and then up to `max_batch_size`. A model whose batching the configuration
    leaves open altogether gets a dynamic batcher, as Triton's auto-complete gives it one.

    Raises:
        ModelLoadFailed: the configuration contradicts the ONNX file; the sentence names both sides.
    """
    config = version.config
    pairs = [*_pairs("input", config.inputs, inputs), *_pairs("output", config.outputs, outputs)]
    rows = _rows(config, pairs, max_batch_size)
    tensors = [_tensor(pair, batches=rows > 0) for pair in pairs]
    if config.max_batch_size is None and rows and not config.batching.enabled:
        config = replace(config, batching=replace(config.batching, enabled=True))
    _check_rows(config, rows)
    count = len(inputs)
    return ModelSpec(
        config.name, version.version, PLATFORM, tuple(tensors[:count]), tuple(tensors[count:]), rows, config
    )


@dataclass(frozen=True, slots=True)
class _Pair:
    """One tensor as both sides see it: `said` by config.pbtxt, or None, and of the `graph`.

    ONNX Runtime reports () both for a scalar and for a shape that the graph leaves out.
    """

    place: str
    said: TensorSpec | None
    graph: TensorSpec

    @property
    def dims(self) -> tuple[int, ...] | None:
        """What the configuration says the graph takes, None when it says nothing."""
        if self.said is None:
            return None
        return self.said.reshape if self.said.reshape is not None else self.said.shape or None


def _pairs(kind: Literal["input", "output"], said: Sequence[TensorSpec], graph: Sequence[TensorSpec]) -> list[_Pair]:
    """Match tensors by name: those of the configuration in its order, then the rest of the graph's."""
    left = {tensor.name: tensor for tensor in graph}
    pairs = []
    for tensor in said:
        if tensor.name not in left:
            known = ", ".join(repr(known.name[:64]) for known in graph)
            raise ModelLoadFailed(f"config.pbtxt has {kind} {tensor.name[:64]!r}, the ONNX file has {known}")
        pairs.append(_Pair(f"{kind} {tensor.name[:64]!r}", tensor, left.pop(tensor.name)))
    return pairs + [_Pair(f"{kind} {tensor.name[:64]!r}", None, tensor) for tensor in left.values()]


def _rows(config: ModelConfig, pairs: Sequence[_Pair], largest: int) -> int:
    """Return the largest batch, 0 for a model without a batch dimension."""
    if config.max_batch_size:
        for pair in pairs:
            _check_batch_dimension(pair, config.max_batch_size)
    if config.max_batch_size is not None:
        return config.max_batch_size
    variable = all(pair.graph.shape[:1] == (-1,) for pair in pairs)
    ranks = {len(pair.graph.shape) - len(pair.dims) for pair in pairs if pair.dims is not None and pair.graph.shape}
    if len(ranks) > 1:
        raise ModelLoadFailed(
            "some dims of config.pbtxt leave out the first dimension of the ONNX file and some do not;"
            " expected max_batch_size to say which is meant"
        )
    return largest if variable and 0 not in ranks else 0


def _check_batch_dimension(pair: _Pair, rows: int) -> None:
    if pair.graph.shape[:1] == (-1,) or (not pair.graph.shape and pair.dims is not None):
        return
    has = list(pair.graph.shape) if pair.graph.shape else "no shape"
    raise ModelLoadFailed(
        f"{pair.place}: max_batch_size {rows} needs a variable first dimension in the ONNX file, which has {has}"
    )


def _tensor(pair: _Pair, *, batches: bool) -> TensorSpec:
    """Return one tensor as it is served."""
    said, graph = pair.said, pair.graph
    own = graph.shape[1:] if batches else graph.shape
    batch = (-1,) if batches else ()
    if said is None:
        return replace(graph, shape=(*batch, *own))
    if said.datatype and said.datatype != graph.datatype:
        _refuse(pair, said.datatype, graph.datatype)
    if pair.dims is not None and graph.shape and not _fits(pair.dims, own):
        without = " without the batch dimension" if batches else ""
        _refuse(pair, list(pair.dims), f"{list(own)}{without}")
    if said.reshape is not None:
        _check_reshape(pair, said.shape, said.reshape)
    shape = said.shape if pair.dims is not None else own
    return replace(said, datatype=graph.datatype, shape=(*batch, *shape))


def _fits(dims: Sequence[int], graph: Sequence[int]) -> bool:
    return len(dims) == len(graph) and all(has in (-1, said) for said, has in zip(dims, graph, strict=True))


def _check_reshape(pair: _Pair, dims: tuple[int, ...], reshape: tuple[int, ...]) -> None:
    variable = dims.count(-1), reshape.count(-1)
    if variable[0] != variable[1] or (not variable[0] and prod(dims) != prod(reshape)):
        raise ModelLoadFailed(
            f"{pair.place}: expected dims and reshape of the same size, got {list(dims)} and {list(reshape)}"
        )


def _check_rows(config: ModelConfig, rows: int) -> None:
    """Refuse sizes larger than the largest batch."""
    for preferred in config.batching.preferred_batch_sizes:
        if rows and preferred > rows:
            raise ModelLoadFailed(f"preferred_batch_size: expected at most {rows}, got {preferred}")
    for warmup in config.warmups:
        if warmup.batch_size > max(rows, 1):
            raise ModelLoadFailed(
                f"model_warmup {warmup.name[:64]!r}: expected a batch_size of at most {max(rows, 1)},"
                f" got {warmup.batch_size}"
            )


def _refuse(pair: _Pair, said: object, has: object) -> NoReturn:
    raise ModelLoadFailed(f"{pair.place}: config.pbtxt says {said}, the ONNX file has {has}")
