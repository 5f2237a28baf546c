"""How much to trust each of several readers: logistic regression on their logits, learned on held-out rows."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray


@dataclass(frozen=True)
class Blend:
    """logit = weights . readers + bias; it also calibrates, since readers are surest of what they trained on."""

    weights: tuple[float, ...]
    bias: float

    @staticmethod
    def learn(readers: NDArray[np.float32], labels: NDArray[np.int64]) -> "Blend":
        """Fit on the readers' logits [rows, readers] by L-BFGS; the problem is convex and has a handful of unknowns."""
        columns = torch.from_numpy(readers).double()
        target = torch.from_numpy(labels).double()
        weights = torch.zeros(columns.shape[1], dtype=torch.float64, requires_grad=True)
        bias = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        solver = torch.optim.LBFGS([weights, bias], max_iter=100, line_search_fn="strong_wolfe")

        def loss() -> torch.Tensor:
            solver.zero_grad()
            value = torch.nn.functional.binary_cross_entropy_with_logits(columns @ weights + bias, target)
            value = value + 1e-4 * weights.square().sum()  # finite even when the held-out rows are all told apart
            value.backward()  # type: ignore[no-untyped-call]
            return value

        solver.step(loss)  # type: ignore[no-untyped-call]
        return Blend(tuple(weights.tolist()), bias.item())

    def logits(self, *readers: NDArray[np.float32]) -> NDArray[np.float32]:
        """The blended logit of each row."""
        total = sum(np.float32(weight) * reader for weight, reader in zip(self.weights, readers, strict=True))
        return np.asarray(total + np.float32(self.bias), np.float32)
