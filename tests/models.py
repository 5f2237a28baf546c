"""Tiny ONNX models built on the fly, one per trait the server must cope with, and the files around them.

A batching model's first dimension is the symbolic `N`; everything else is as small as it can be.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

ONNX_TYPES: dict[str, int] = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "BF16": TensorProto.BFLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}
"""The protocol's datatypes as ONNX spells them."""

Dims = Sequence[int | str | None]


def value(name: str, datatype: str, dims: Dims) -> onnx.ValueInfoProto:
    """Return one graph input or output."""
    return helper.make_tensor_value_info(name, ONNX_TYPES[datatype], dims)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    initializers: Sequence[onnx.TensorProto] = (),
) -> bytes:
    """Return a serialised model with opsets every supported ONNX Runtime knows."""
    graph = helper.make_graph(list(nodes), "tiny", list(inputs), list(outputs), list(initializers))
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


def constant(name: str, array: np.ndarray) -> onnx.TensorProto:
    """Return an initializer."""
    return onnx.numpy_helper.from_array(array, name)


def add() -> bytes:
    """`sum = a + b`, rows of four floats."""
    inputs = [value("a", "FP32", ["N", 4]), value("b", "FP32", ["N", 4])]
    return model([helper.make_node("Add", ["a", "b"], ["sum"])], inputs, [value("sum", "FP32", ["N", 4])])


def identity(datatype: str, dims: Dims = ("N", 3)) -> bytes:
    """`y = x` in any datatype of the protocol."""
    node = helper.make_node("Identity", ["x"], ["y"])
    return model([node], [value("x", datatype, dims)], [value("y", datatype, dims)])


def upper() -> bytes:
    """Upper-case one string a row."""
    flat = helper.make_node("Reshape", ["text", "flat_shape"], ["flat"])
    node = helper.make_node("StringNormalizer", ["flat"], ["big"], case_change_action="UPPER", locale="C")
    back = helper.make_node("Reshape", ["big", "row_shape"], ["upper"])
    shapes = [constant("flat_shape", np.array([-1])), constant("row_shape", np.array([-1, 1]))]
    return model([flat, node, back], [value("text", "BYTES", ["N", 1])], [value("upper", "BYTES", ["N", 1])], shapes)


def mixed() -> bytes:
    """Three inputs of different types and widths, three outputs: pass `name` and `flag` on, double `x`."""
    nodes = [
        helper.make_node("Add", ["x", "x"], ["double"]),
        helper.make_node("Identity", ["name"], ["name_out"]),
        helper.make_node("Not", ["flag"], ["not_flag"]),
    ]
    inputs = [value("x", "FP64", ["N", 2]), value("name", "BYTES", ["N", 1]), value("flag", "BOOL", ["N", 5])]
    outputs = [value("double", "FP64", ["N", 2]), value("name_out", "BYTES", ["N", 1])]
    return model(nodes, inputs, [*outputs, value("not_flag", "BOOL", ["N", 5])])


def without_batch() -> bytes:
    """`y = x * 2` on exactly three floats: no batch dimension."""
    node = helper.make_node("Add", ["x", "x"], ["y"])
    return model([node], [value("x", "FP32", [3])], [value("y", "FP32", [3])])


def dynamic() -> bytes:
    """Both dimensions symbolic: the mean of each row, whatever its length."""
    node = helper.make_node("ReduceMean", ["x"], ["mean"], axes=[1], keepdims=1)
    return model([node], [value("x", "FP32", ["N", "L"])], [value("mean", "FP32", ["N", 1])])


def gather() -> bytes:
    """Look up one of four rows of a table; an index outside it fails the whole run."""
    table = constant("table", np.arange(8, dtype=np.float32).reshape(4, 2))
    nodes = [
        helper.make_node("Squeeze", ["index", "axes"], ["flat"]),
        helper.make_node("Gather", ["table", "flat"], ["row"]),
    ]
    return model(
        nodes,
        [value("index", "INT64", ["N", 1])],
        [value("row", "FP32", ["N", 2])],
        [table, constant("axes", np.array([1]))],
    )


def divide(datatype: str = "INT32") -> bytes:
    """Integer division: INT_MIN / -1 is a SIGFPE inside ONNX Runtime."""
    inputs = [value("a", datatype, ["N", 1]), value("b", datatype, ["N", 1])]
    return model([helper.make_node("Div", ["a", "b"], ["quotient"])], inputs, [value("quotient", datatype, ["N", 1])])


def modulo(datatype: str = "INT64") -> bytes:
    """Integer remainder, with the same trap as `divide`."""
    inputs = [value("a", datatype, ["N", 1]), value("b", datatype, ["N", 1])]
    return model([helper.make_node("Mod", ["a", "b"], ["rest"])], inputs, [value("rest", datatype, ["N", 1])])


def loop() -> bytes:
    """Count to the largest `trips` of the batch, one at a time: 2**40 never returns."""
    body = helper.make_graph(
        [
            helper.make_node("Add", ["total", "one"], ["next"]),
            helper.make_node("Identity", ["go"], ["go_on"]),
        ],
        "body",
        [value("i", "INT64", []), value("go", "BOOL", []), value("total", "INT64", [])],
        [value("go_on", "BOOL", []), value("next", "INT64", [])],
    )
    nodes = [
        helper.make_node("ReduceMax", ["trips"], ["most"], keepdims=0),
        helper.make_node("Loop", ["most", "", "zero"], ["count"], body=body),
        helper.make_node("Mul", ["trips", "nothing"], ["zeros"]),
        helper.make_node("Add", ["zeros", "count"], ["counted"]),
    ]
    constants = [constant("one", np.array(1)), constant("zero", np.array(0)), constant("nothing", np.array(0))]
    return model(nodes, [value("trips", "INT64", ["N", 1])], [value("counted", "INT64", ["N", 1])], constants)


def expand() -> bytes:
    """Blow one row up to the size it asks for: a small request with an output of any size."""
    nodes = [
        helper.make_node("ReduceMax", ["size"], ["most"], keepdims=0),
        helper.make_node("Shape", ["size"], ["shape"]),
        helper.make_node("Gather", ["shape", "first"], ["rows"]),
        helper.make_node("Unsqueeze", ["most", "axes"], ["width"]),
        helper.make_node("Concat", ["rows", "width"], ["wanted"], axis=0),
        helper.make_node("ConstantOfShape", ["wanted"], ["blown"], value=constant("v", np.ones(1, np.float32))),
    ]
    constants = [constant("first", np.array([0])), constant("axes", np.array([0]))]
    return model(nodes, [value("size", "INT64", ["N", 1])], [value("blown", "FP32", ["N", "W"])], constants)


def parse_number() -> bytes:
    """Cast a string to a number: "abc" fails inside ONNX Runtime."""
    node = helper.make_node("Cast", ["text"], ["number"], to=TensorProto.INT64)
    return model([node], [value("text", "BYTES", ["N", 1])], [value("number", "INT64", ["N", 1])])


def softmax_over_rows() -> bytes:
    """Softmax over the batch dimension: a row's answer depends on its batch-mates, so it must not be batched."""
    node = helper.make_node("Softmax", ["x"], ["y"], axis=0)
    return model([node], [value("x", "FP32", ["N", 2])], [value("y", "FP32", ["N", 2])])


def matrix_chain(width: int = 512, depth: int = 40) -> bytes:
    """A run of some length without any loop: `depth` matrix products, so that a kill or a stop meets it half-way."""
    weights = constant("w", np.eye(width, dtype=np.float32))
    names = ["x", *(f"h{i}" for i in range(1, depth)), "y"]
    nodes = [helper.make_node("MatMul", [a, "w"], [b]) for a, b in pairwise(names)]
    return model(nodes, [value("x", "FP32", ["N", width])], [value("y", "FP32", ["N", width])], [weights])


def wide(count: int = 10) -> bytes:
    """`count` FP32 inputs of one column, their sum as output: the shape of the churn model's traffic."""
    names = [f"x{i}" for i in range(count)]
    node = helper.make_node("Sum", names, ["sum"])
    return model([node], [value(name, "FP32", ["N", 1]) for name in names], [value("sum", "FP32", ["N", 1])])


def write_version(
    directory: Path, data: bytes, golden: Mapping[str, np.ndarray] | None = None, card: bool = False
) -> Path:
    """Write one version directory and return its model file."""
    directory.mkdir(parents=True)
    path = directory / "model.onnx"
    path.write_bytes(data)
    if golden is not None:
        np.savez(directory / "golden.npz", **golden)  # type: ignore[arg-type]
    if card:
        (directory / "card.json").write_text(json.dumps({"sha256": hashlib.sha256(data).hexdigest()}))
    return path


def with_external_data(location: str, offset: int | None = None, length: int | None = None) -> bytes:
    """`y = x + w` where the two floats of `w` lie in a file beside the model, as its author claims."""
    weights = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    claims = {"location": location, "offset": offset, "length": length}
    for key, claim in claims.items():
        if claim is not None:
            weights.external_data.add(key=key, value=str(claim))
    node = helper.make_node("Add", ["x", "w"], ["y"])
    return model([node], [value("x", "FP32", ["N", 2])], [value("y", "FP32", ["N", 2])], [weights])


def claiming_dims(*dims: int) -> bytes:
    """`y = x + w` where `w` claims dimensions that its two floats do not fill."""
    weights = constant("w", np.zeros(2, np.float32))
    weights.dims[:] = dims
    node = helper.make_node("Add", ["x", "w"], ["y"])
    return model([node], [value("x", "FP32", ["N", 2])], [value("y", "FP32", ["N", 2])], [weights])


def circular() -> bytes:
    """Two nodes that wait for each other."""
    nodes = [helper.make_node("Add", ["x", "b"], ["a"]), helper.make_node("Add", ["x", "a"], ["b"])]
    return model(nodes, [value("x", "FP32", ["N", 2])], [value("b", "FP32", ["N", 2])])


def of_opset(version: int) -> bytes:
    """`add` of another opset."""
    proto = onnx.load_from_string(add())
    proto.opset_import[0].version = version
    return bytes(proto.SerializeToString())


def of_unknown_domain() -> bytes:
    """A node of an operator library nobody has."""
    node = helper.make_node("Evil", ["x"], ["y"], domain="com.example.custom")
    graph = helper.make_graph([node], "tiny", [value("x", "FP32", ["N"])], [value("y", "FP32", ["N"])])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.example.custom", 1)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


def of_sequences() -> bytes:
    """An output that is no tensor, as scikit-learn's converters write them, beside one that is."""
    nodes = [helper.make_node("SequenceConstruct", ["x"], ["list"]), helper.make_node("Identity", ["x"], ["y"])]
    listed = helper.make_tensor_sequence_value_info("list", TensorProto.FLOAT, ["N", 2])
    return model(nodes, [value("x", "FP32", ["N", 2])], [listed, value("y", "FP32", ["N", 2])])


def of_constant(floats: int) -> bytes:
    """A handful of bytes that ONNX Runtime unfolds to `floats` floats when it opens the model."""
    nodes = [
        helper.make_node("Expand", ["one", "shape"], ["ones"]),
        helper.make_node("ReduceSum", ["ones"], ["sum"], keepdims=0),
        helper.make_node("Add", ["x", "sum"], ["y"]),
    ]
    constants = [constant("one", np.ones(1, np.float32)), constant("shape", np.array([floats]))]
    return model(nodes, [value("x", "FP32", ["N", 2])], [value("y", "FP32", ["N", 2])], constants)


def top_k() -> bytes:
    """The largest `k` of four floats, the same `k` for all rows."""
    nodes = [
        helper.make_node("ReduceMax", ["k"], ["most"], keepdims=0),
        helper.make_node("Unsqueeze", ["most", "axes"], ["count"]),
        helper.make_node("TopK", ["x", "count"], ["largest", "places"], axis=1),
    ]
    inputs = [value("x", "FP32", ["N", 4]), value("k", "INT64", ["N", 1])]
    return model(nodes, inputs, [value("largest", "FP32", ["N", 2])], [constant("axes", np.array([0]))])


def non_maximum_suppression() -> bytes:
    """One box and score a row, and as many boxes kept as asked for."""
    nodes = [
        helper.make_node("Unsqueeze", ["box", "first"], ["boxes"]),
        helper.make_node("Reshape", ["score", "flat"], ["scores"]),
        helper.make_node("NonMaxSuppression", ["boxes", "scores", "most"], ["kept"]),
    ]
    constants = [
        constant("first", np.array([0])),
        constant("flat", np.array([1, 1, -1])),
        constant("most", np.array([1 << 40])),
    ]
    inputs = [value("box", "FP32", ["N", 4]), value("score", "FP32", ["N", 1])]
    return model(nodes, inputs, [value("kept", "INT64", ["K", 3])], constants)
