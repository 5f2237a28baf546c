"""Figures of merit, computed with numpy from class probabilities; knows no model and no file.

All functions take `probabilities` [rows, classes] (rows sum to one) and `labels` [rows].
"""

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.floating]
Labels: TypeAlias = NDArray[np.int64]


def class_probabilities(output: Floats) -> Floats:
    """A model's output as [rows, classes]; a single column is the probability of class 1."""
    if output.shape[1] > 1:
        return output
    return np.concatenate([1 - output, output], axis=1)


def accuracy(probabilities: Floats, labels: Labels) -> float:
    """Share of rows whose most probable class is the label."""
    return float((probabilities.argmax(axis=1) == labels).mean())


def log_loss(probabilities: Floats, labels: Labels) -> float:
    """Mean negative log likelihood, in nats."""
    chosen = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(np.clip(chosen, 1e-12, 1)).mean())


def roc_auc(probabilities: Floats, labels: Labels) -> float:
    """Area under the ROC curve of class 1 as the Mann-Whitney statistic; ties count one half."""
    score = probabilities[:, 1]
    _, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks = (ends - (counts - 1) / 2)[inverse]
    positives = int((labels == 1).sum())
    negatives = len(labels) - positives
    if not positives or not negatives:
        return math.nan
    return float((ranks[labels == 1].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def calibration(probabilities: Floats, labels: Labels, bins: int = 10) -> list[tuple[float, float, int]]:
    """Reliability curve of class 1: (mean prediction, share of class 1, rows) of each equal-width bin that has rows."""
    score = probabilities[:, 1]
    index = np.minimum((score * bins).astype(int), bins - 1)
    filled = [index == number for number in range(bins) if (index == number).any()]
    return [(float(score[rows].mean()), float((labels[rows] == 1).mean()), int(rows.sum())) for rows in filled]


def calibration_error(probabilities: Floats, labels: Labels, bins: int = 10) -> float:
    """Expected calibration error of class 1 (Naeini 2015): mean |prediction - outcome| over bins, weighted by rows."""
    curve = calibration(probabilities, labels, bins)
    return sum(abs(predicted - outcome) * rows for predicted, outcome, rows in curve) / len(labels)


def f1_score(probabilities: Floats, labels: Labels) -> float:
    """Harmonic mean of precision and recall of class 1 at the threshold 0.5."""
    predicted = probabilities.argmax(axis=1)
    hits = int(((predicted == 1) & (labels == 1)).sum())
    wrong = int((predicted != labels).sum())
    return 2 * hits / (2 * hits + wrong) if hits else 0.0


def confusion(probabilities: Floats, labels: Labels) -> list[list[int]]:
    """Counts [true class][predicted class]."""
    classes = probabilities.shape[1]
    cells = labels * classes + probabilities.argmax(axis=1)
    counts: list[list[int]] = np.bincount(cells, minlength=classes * classes).reshape(classes, classes).tolist()
    return counts


BINARY: dict[str, Callable[[Floats, Labels], float]] = {
    "accuracy": accuracy,
    "roc_auc": roc_auc,
    "f1": f1_score,
    "log_loss": log_loss,
    "calibration_error": calibration_error,
}
MULTICLASS: dict[str, Callable[[Floats, Labels], float]] = {"accuracy": accuracy, "log_loss": log_loss}


def measure(probabilities: Floats, labels: Labels) -> dict[str, float]:
    """Every figure that fits the number of classes, by name."""
    figures = BINARY if probabilities.shape[1] == 2 else MULTICLASS
    return {name: figure(probabilities, labels) for name, figure in figures.items()}


def mcnemar(first_right: NDArray[np.bool_], second_right: NDArray[np.bool_]) -> tuple[int, int, float]:
    """McNemar's exact test on two classifiers' hits over the same rows.

    Returns:
        Rows only the first got right, rows only the second got right, and the two-sided p-value of so uneven a
        split under the hypothesis that both err equally often (binomial, one half).
    """
    only_first = int((first_right & ~second_right).sum())
    only_second = int((~first_right & second_right).sum())
    total = only_first + only_second
    fewer = min(only_first, only_second)
    tail = sum(math.comb(total, k) for k in range(fewer + 1))
    return only_first, only_second, min(1.0, float(2 * tail / 2**total) if total < 1000 else _normal(fewer, total))


def _normal(fewer: int, total: int) -> float:
    """Two-sided binomial tail by the normal approximation with continuity correction, for large totals."""
    z = max(0.0, abs(fewer - total / 2) - 0.5) / math.sqrt(total / 4)
    return math.erfc(z / math.sqrt(2))
