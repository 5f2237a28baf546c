"""Golden vectors: inputs with known answers that every version proves itself on before it serves.

`golden.npz` holds arrays `input/<tensor>` and `output/<tensor>` with equally many rows, and scalars `rtol` and
`atol`, with `fp16/` before their names for half precision; BYTES tensors are numpy's `<U` strings. Never pickled data:
a model store is not trusted with code.
"""

import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from server.errors import ModelLoadFailed
from server.messages import Tensor
from server.sessions.base import Part
from server.sessions.dtypes import NUMPY, Array, strings, to_raw
from server.sessions.samples import in_rows
from server.spec import ModelSpec, TensorSpec

FILE = "golden.npz"
HALF = 5e-3
"""Both tolerances of half precision where the file has none for it: its numbers have 11 bits, and errors add up."""
MOST_BYTES = 256 << 20
"""Of all arrays together, unpacked: a small zip can claim any size."""


@dataclass(frozen=True, slots=True)
class Golden:
    """The vectors of one version, as requests of one row each (a single request for a model that does not batch)."""

    parts: tuple[Part, ...]
    expected: Mapping[str, Array]
    rtol: float
    atol: float


def read_golden(directory: Path, spec: ModelSpec, *, half: bool = False) -> Golden | None:
    """Return a version's golden vectors, None where it has none; `half` with the tolerance of half precision.

    Raises:
        ModelLoadFailed: the file is damaged, too large, or does not fit the model.
    """
    path = directory / FILE
    if not path.exists():
        return None
    arrays = _read(path)
    tensors = [_input(tensor, arrays) for tensor in spec.inputs if not (tensor.optional and _absent(tensor, arrays))]
    expected = {name.removeprefix("output/"): array for name, array in arrays.items() if name.startswith("output/")}
    unknown = expected.keys() - {tensor.name for tensor in spec.outputs}
    if unknown or not expected:
        raise ModelLoadFailed(f"{FILE}: expected outputs of the model, got {sorted(unknown) or 'none'}")
    rows = tensors[0].shape[0] if spec.batches else 1
    shapes = [tensor.shape for tensor in tensors] + [array.shape for array in expected.values()]
    if spec.batches and {shape[:1] for shape in shapes} != {(rows,)}:
        raise ModelLoadFailed(f"{FILE}: expected {rows} rows in every array")
    parts = in_rows(tensors, rows) if spec.batches else [Part(tuple(tensors), 1)]
    places, default = (("fp16/rtol", "fp16/atol"), HALF) if half else (("rtol", "atol"), 1e-4)
    rtol, atol = (float(arrays.get(name, np.float64(default))) for name in places)
    return Golden(tuple(parts), expected, rtol, atol)


def check_answers(golden: Golden, answers: Sequence[tuple[Tensor, ...]], provider: str) -> None:
    """Compare what the model says now with what it said when it was exported.

    Raises:
        ModelLoadFailed: naming the first output, row, expected and actual value that differ.
    """
    for row, tensors in enumerate(answers):
        for tensor in tensors:
            if tensor.name in golden.expected:
                whole = golden.expected[tensor.name]
                expected = (
                    whole[row : row + 1] if len(golden.parts) > 1 or len(whole) == tensor.shape[0] == 1 else whole
                )
                _compare(golden, tensor, expected, f"output {tensor.name!r}, row {row}", provider)


def _compare(golden: Golden, tensor: Tensor, expected: Array, where: str, provider: str) -> None:
    if tensor.datatype == "BYTES":
        got = strings(tensor.shape, tensor.data)
        right = np.asarray(got.astype(str) == expected.astype(str))
    else:
        got = np.frombuffer(tensor.data, NUMPY[tensor.datatype]).reshape(tensor.shape)
        if tensor.datatype == "BF16":
            got = (got.astype(np.uint32) << 16).view(np.float32)
        if got.shape != expected.shape:
            raise ModelLoadFailed(
                f"golden vectors: {where}: expected shape {list(expected.shape)}, got {list(got.shape)}"
            )
        right = np.isclose(
            got.astype(np.float64), expected.astype(np.float64), golden.rtol, golden.atol, equal_nan=True
        )
    if not right.all():
        at = tuple(int(i) for i in np.argwhere(~right)[0])
        raise ModelLoadFailed(
            f"golden vectors: {where}: expected {expected[at]!s:.64}, got {got[at]!s:.64} at {list(at)} on {provider}"
        )


def _absent(tensor: TensorSpec, arrays: Mapping[str, Array]) -> bool:
    return f"input/{tensor.name}" not in arrays


def _input(spec: TensorSpec, arrays: Mapping[str, Array]) -> Tensor:
    if _absent(spec, arrays):
        raise ModelLoadFailed(f"{FILE}: expected an array input/{spec.name}")
    array = arrays[f"input/{spec.name}"]
    if spec.datatype == "BYTES":
        array = array.astype(object)
    elif array.dtype != NUMPY[spec.datatype]:
        raise ModelLoadFailed(f"{FILE}: expected input/{spec.name} of {spec.datatype}, got {array.dtype}")
    return Tensor(spec.name, spec.datatype, array.shape, to_raw(spec.datatype, array))


def _read(path: Path) -> dict[str, Array]:
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MOST_BYTES:
                raise ModelLoadFailed(f"{FILE}: expected at most {MOST_BYTES} bytes unpacked")
            return {entry.filename.removesuffix(".npy"): _array(archive, entry) for entry in archive.infolist()}
    except (OSError, ValueError, EOFError, NotImplementedError, RuntimeError, zipfile.BadZipFile) as error:
        raise ModelLoadFailed(f"{FILE}: expected a zip of plain arrays: {error}") from error


def _array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Array:
    """Read one array, after checking that its header asks for no more memory than the file holds."""
    with archive.open(entry) as file:
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(file)
    if math.prod(shape) * dtype.itemsize > entry.file_size:
        raise ValueError(f"{entry.filename} claims shape {shape}")
    with archive.open(entry) as file:
        array: Array = np.lib.format.read_array(file, allow_pickle=False)
    return array
