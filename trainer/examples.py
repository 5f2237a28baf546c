"""The one shape in which every data set travels: raw wire inputs beside integer labels.

A model's ONNX graph takes raw values, so a data set is a mapping from input tensor name to array, exactly as a client
would send it. Everything after the readers (evaluation, comparison, golden files) works on this and knows no model.
"""

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
Inputs: TypeAlias = dict[str, Array]
"""Input tensor name -> array with the rows first; BYTES tensors are object arrays of `str`."""


@dataclass(frozen=True)
class Examples:
    """Rows of a data set.

    Attributes:
        inputs: raw wire inputs, one array per tensor, all with the same number of rows.
        labels: class index of each row, int64 [rows].
    """

    inputs: Inputs
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Array) -> "Examples":
        """The given rows, in the given order."""
        return Examples({name: array[rows] for name, array in self.inputs.items()}, self.labels[rows])


@dataclass(frozen=True)
class Dataset:
    """Training rows (validation is cut from them by the recipe) and the test rows nobody looks at while training."""

    train: Examples
    test: Examples


def texts(values: list[str]) -> Array:
    """A BYTES tensor [rows, 1] of the given strings, as ONNX Runtime takes it."""
    column = np.empty((len(values), 1), dtype=object)
    column[:, 0] = values
    return column


def first_rows(examples: Examples, count: int) -> Examples:
    """The first `count` rows, or all when there are fewer."""
    return examples.take(np.arange(min(count, len(examples))))
