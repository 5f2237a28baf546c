"""Is a version what its card says? Recompute the card's figures from the ONNX file on the real test set."""

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

from trainer import card as cards
from trainer import runtime, scores
from trainer.errors import CardMismatch, StoreError
from trainer.examples import Examples

TOLERANCES = {  # another CPU sums in another order, which moves a probability by a millionth and may flip a rare row
    "accuracy": 2e-4,
    "roc_auc": 1e-5,
    "f1": 1e-3,
    "log_loss": 1e-4,
    "calibration_error": 1e-3,
}


@dataclass(frozen=True)
class Figure:
    """One figure of a card beside what the file gives."""

    name: str
    card: float
    found: float

    @property
    def agrees(self) -> bool:
        """Within what another machine's rounding explains."""
        return math.isclose(self.card, self.found, rel_tol=0, abs_tol=TOLERANCES[self.name])


def model_bytes(directory: Path) -> bytes:
    """The model file of a version, checked against the card's sha256.

    Raises:
        StoreError: it cannot be read.
        CardMismatch: it is another file than the card describes.
    """
    path = directory / "model.onnx"
    try:
        model = path.read_bytes()
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from error
    digest, expected = hashlib.sha256(model).hexdigest(), cards.read(directory)["sha256"]
    if digest != expected:
        raise CardMismatch(f"{path}: the card says sha256 {expected}, the file has {digest}")
    return model


def answers(directory: Path, rows: Examples) -> scores.Floats:
    """Class probabilities of a version on raw rows, [rows, classes]."""
    return scores.class_probabilities(runtime.run(runtime.open_session(model_bytes(directory)), rows.inputs))


def figures(directory: Path, test: Examples) -> list[Figure]:
    """Every test figure of the card, with the recomputed one."""
    found = scores.measure(answers(directory, test), test.labels)
    stated = cards.read(directory)["metrics"]["test"]
    return [Figure(name, stated.get(name, math.nan), value) for name, value in found.items()]


def verify(directory: Path, test: Examples) -> list[Figure]:
    """Recompute and compare.

    Raises:
        CardMismatch: a figure differs, or the model file is another one.
    """
    compared = figures(directory, test)
    for figure in compared:
        if not figure.agrees:
            raise CardMismatch(
                f"{directory}: the card says {figure.name} {figure.card:.6f}, "
                f"the model file gives {figure.found:.6f} on {len(test)} test rows"
            )
    return compared
