"""Readers of the three file formats: a CSV of customers, IDX images and labels, a CSV of reviews; knows no model.

Users' copies of public data are messy. What can be coped with is (CRLF ends, a byte order mark, other column order,
extra columns, blank cells, unknown categories; docs/data.md says how); everything else is refused with the file, the
row and the column. Row numbers are line numbers, the header being line 1, so that an editor finds them.
"""

import csv
import io
import math
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from trainer.errors import DataError

Row: TypeAlias = dict[str, str]


def records(path: Path, data: bytes, columns: Sequence[str]) -> Iterator[tuple[int, Row]]:
    """The rows of a CSV file as (line number, the wanted columns), whatever order and extra columns it has.

    Raises:
        DataError: not UTF-8, a column is missing or named twice, a row has another number of cells, or no row at all.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: expected UTF-8, found byte {data[error.start]:#04x} at {error.start}") from error
    reader = csv.reader(io.StringIO(text, newline=""))
    header = _header(path, next(reader, []), columns)
    line = 1
    try:
        for line, cells in _filled(reader):
            if len(cells) != len(header):
                raise DataError(f"{path} row {line}: expected {len(header)} cells, found {len(cells)}")
            row = dict(zip(header, cells, strict=True))
            yield line, {column: row[column].strip() for column in columns}
    except csv.Error as error:
        raise DataError(f"{path} row {reader.line_num}: not readable as CSV: {error}") from error
    if line == 1:
        raise DataError(f"{path}: expected rows after the header, found none")


def _header(path: Path, cells: list[str], columns: Sequence[str]) -> list[str]:
    header = [name.strip() for name in cells]
    for column in columns:
        if header.count(column) != 1:
            raise DataError(f"{path}: expected one column {column!r}, found {header.count(column)} in {header[:20]}")
    return header


def _filled(reader: Any) -> Iterator[tuple[int, list[str]]]:  # noqa: ANN401 - csv's reader type has no public name
    """Line number and cells of every line that is not blank."""
    for cells in reader:
        if cells:
            yield reader.line_num, cells


def number(path: Path, line: int, column: str, cell: str) -> float:
    """A finite number; a blank cell is NaN, which means "not known".

    Raises:
        DataError: anything else, naming row and column.
    """
    if not cell:
        return math.nan
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{path} row {line}, column {column}: expected a number, found {cell!r}")
    return value


def binary_label(path: Path, line: int, column: str, cell: str) -> int:
    """A label 0 or 1 (also written `0.0`, `1.0`).

    Raises:
        DataError: anything else, a blank included, naming row and column.
    """
    labels = {"0": 0, "1": 1, "0.0": 0, "1.0": 1}
    if cell not in labels:
        raise DataError(f"{path} row {line}, column {column}: expected the label 0 or 1, found {cell!r}")
    return labels[cell]


def idx(path: Path, data: bytes, dimensions: int) -> NDArray[np.uint8]:
    """An IDX file of unsigned bytes (format: LeCun's MNIST page): magic, sizes, then the values.

    Args:
        path: named in errors.
        data: the uncompressed file.
        dimensions: 1 for labels, 3 for images.

    Raises:
        DataError: another magic number, or more or fewer bytes than the sizes promise.
    """
    header = 4 + 4 * dimensions
    if len(data) < header:
        raise DataError(f"{path}: expected an IDX header of {header} bytes, found {len(data)} bytes in all")
    magic, *shape = struct.unpack(f">{1 + dimensions}I", data[:header])
    if magic != 0x0800 + dimensions:
        raise DataError(f"{path}: expected IDX magic {0x0800 + dimensions:#010x}, found {magic:#010x}")
    expected = header + math.prod(shape)
    if len(data) != expected:
        raise DataError(f"{path}: sizes {shape} need {expected} bytes, found {len(data)}; is the file cut short?")
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)
