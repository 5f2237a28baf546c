"""Building ONNX graphs: ONNX's own text syntax for preprocessing, torch's exporter for networks, one merge.

Everything a request needs happens inside the one graph, so serving cannot drift from training. Only operators of
the plain CPU build of ONNX Runtime are used: standard ones, `ai.onnx.ml`, and `com.microsoft.Tokenizer`.
"""

import logging
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import compose, helper, numpy_helper
from torch import nn

OPSET = 20
ML_OPSET = 4
IR_VERSION = 10  # what ONNX Runtime 1.20, the oldest supported, reads
BATCH = "batch"


def parse(text: str) -> onnx.ModelProto:
    """A model written in ONNX's text syntax (onnx.ai/onnx/repo-docs/Syntax.html); the header is added here."""
    header = f'<ir_version: {IR_VERSION}, opset_import: ["": {OPSET}, "ai.onnx.ml": {ML_OPSET}, "com.microsoft": 1]>\n'
    return onnx.parser.parse_model(header + text)


def constants(model: onnx.ModelProto, values: Mapping[str, NDArray[Any] | np.generic]) -> None:
    """Give the graph its learned tensors, by name."""
    model.graph.initializer.extend(numpy_helper.from_array(np.ascontiguousarray(v), k) for k, v in values.items())


def attributes(model: onnx.ModelProto, node: str, **values: object) -> None:
    """Set attributes of the node called `node` that are too large for the text (vocabularies, tables)."""
    found = next(candidate for candidate in model.graph.node if node in candidate.output)
    found.attribute.extend(helper.make_attribute(name, value) for name, value in values.items())


def export(network: nn.Module, example: Mapping[str, torch.Tensor], output: str) -> onnx.ModelProto:
    """A torch network as an ONNX model whose first dimension is the symbolic batch.

    Args:
        network: in evaluation mode, on the CPU.
        example: input name -> any tensor of the right type and shape with two rows or more; in argument order.
        output: the name of the one output.
    """
    rows = torch.export.Dim(BATCH)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it reports optional torchvision operators it lacks
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside torch's own exporter, nothing a user can act on
        program = torch.onnx.export(
            network,
            tuple(example.values()),
            input_names=list(example),
            output_names=[output],
            dynamic_shapes=tuple({0: rows} for _ in example),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None  # noqa: S101 - None only when exporting to a file
    model: onnx.ModelProto = program.model_proto
    model.ir_version = IR_VERSION
    del model.graph.value_info[:]  # stale once a variant transposes a weight
    return model


def join(front: onnx.ModelProto, core: onnx.ModelProto, wires: Mapping[str, str]) -> onnx.ModelProto:
    """One model: `front`'s outputs feed `core`'s inputs as `wires` says; names inside `core` are prefixed."""
    core = compose.add_prefix(core, "net/", rename_inputs=False, rename_outputs=False)
    del core.functions[:]  # leftovers of the exporter, used by no node, that a merge cannot carry
    joined: onnx.ModelProto = compose.merge_models(front, core, io_map=list(wires.items()))
    versions = {entry.domain: entry.version for entry in joined.opset_import}
    del joined.opset_import[:]  # a merge lists every domain twice, which the quantiser refuses
    joined.opset_import.extend(helper.make_opsetid(domain, version) for domain, version in versions.items())
    return joined


def finish(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """Check the whole graph, drop what describes the exporter's machine, and name it."""
    model.graph.name = name
    model.producer_name, model.producer_version = "sluice-train", ""
    del model.metadata_props[:]
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    onnx.checker.check_model(model)
    return model
