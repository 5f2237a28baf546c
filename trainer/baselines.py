"""What ordinary tools reach on the same churn rows, so that a figure on a card can be judged.

Two untuned models of scikit-learn on the same split and columns: gradient boosting, and a plain multi-layer perceptron
on one-hot categories and standardised numbers. scikit-learn is wanted by this command alone.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer import churn, scores
from trainer.errors import UsageError
from trainer.examples import Dataset, Examples


def measure(data: Dataset, seed: int) -> dict[str, dict[str, float]]:
    """Name of the baseline -> its figures on the test rows.

    Raises:
        UsageError: scikit-learn is not installed.
    """
    return {name: _fitted(model, data) for name, model in _models(seed).items()}


def _models(seed: int) -> dict[str, Any]:
    try:
        from sklearn.ensemble import GradientBoostingClassifier  # noqa: PLC0415 - an optional dependency
        from sklearn.neural_network import MLPClassifier  # noqa: PLC0415 - ditto
        from sklearn.pipeline import make_pipeline  # noqa: PLC0415 - ditto
        from sklearn.preprocessing import StandardScaler  # noqa: PLC0415 - ditto
    except ImportError as error:
        raise UsageError("baselines need scikit-learn: pip install scikit-learn") from error
    perceptron = MLPClassifier((32, 16), early_stopping=True, random_state=seed, max_iter=300)
    return {
        "gradient boosting": GradientBoostingClassifier(random_state=seed),
        "plain perceptron": make_pipeline(StandardScaler(), perceptron),
    }


def _fitted(model: Any, data: Dataset) -> dict[str, float]:  # noqa: ANN401 - scikit-learn ships no types
    model.fit(_table(data.train), data.train.labels)
    return scores.measure(model.predict_proba(_table(data.test)), data.test.labels)


def _table(rows: Examples) -> NDArray[np.float32]:
    """Raw numbers and one-hot categories, [rows, 13]; a number that is not known is 0."""
    table: NDArray[np.float32] = np.concatenate([part.numpy() for part in churn.tensors(rows.inputs)], axis=1)
    return np.nan_to_num(table)
