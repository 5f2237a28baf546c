"""Pictures of a version: learning curves, confusion matrix, ROC and calibration curves (two classes).

Pages that show rows of a data set (the most wrongly scored ones) go to `report/private/`, which git ignores.
"""

import html
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from trainer import scores
from trainer.examples import Examples
from trainer.loop import Epoch
from trainer.recipe import Recipe, Trained

WORST = 40  # rows on the private page
BLUE, ORANGE, GREY = "#2a6fb0", "#d9822b", "#8a8a8a"


def write(folder: Path, recipe: Recipe, trained: Trained, test: Examples, probabilities: scores.Floats) -> None:
    """Write every picture that fits the model, and the private page."""
    (folder / "private").mkdir(parents=True)
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        _learning(folder / "learning.png", list(trained.history), recipe.name)
        _confusion(folder / "confusion.png", probabilities, test, recipe)
        if probabilities.shape[1] == 2:
            _roc(folder / "roc.png", probabilities, test, recipe)
            _calibration(folder / "calibration.png", probabilities, test, recipe)
    _worst(folder / "private" / "worst.html", probabilities, test, recipe)


def _canvas(columns: int = 1) -> tuple[Figure, Any]:
    figure = Figure(figsize=(4.2 * columns, 3.4), layout="constrained")
    return figure, figure.subplots(1, columns)


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=110, metadata={"Software": None})


def _learning(path: Path, history: list[Epoch], name: str) -> None:
    figure, (left, right) = _canvas(2)
    epochs = [row.number + 1 for row in history]
    left.plot(epochs, [row.training_loss for row in history], color=GREY, label="training")
    left.plot(epochs, [row.validation_loss for row in history], color=BLUE, label="validation")
    left.set(title=f"{name}: loss", xlabel="epoch", ylabel="loss")
    left.legend(frameon=False)
    right.plot(epochs, [row.validation_accuracy for row in history], color=BLUE)
    right.set(title=f"{name}: validation accuracy", xlabel="epoch", ylabel="accuracy")
    _save(figure, path)


def _confusion(path: Path, probabilities: scores.Floats, test: Examples, recipe: Recipe) -> None:
    figure, axes = _canvas()
    counts = np.array(scores.confusion(probabilities, test.labels))
    axes.imshow(np.sqrt(counts), cmap="Blues")
    for (row, column), count in np.ndenumerate(counts):
        dark = count > counts.max() / 3
        axes.text(column, row, str(count), ha="center", va="center", color="white" if dark else "black", size=7)
    ticks = range(len(recipe.labels))
    axes.set(title=f"{recipe.name}: test rows", xlabel="answered", ylabel="true")
    axes.set_xticks(ticks, recipe.labels)
    axes.set_yticks(ticks, recipe.labels)
    _save(figure, path)


def _roc(path: Path, probabilities: scores.Floats, test: Examples, recipe: Recipe) -> None:
    figure, axes = _canvas()
    ranked = test.labels[np.argsort(-probabilities[:, 1], kind="stable")]
    hits = np.concatenate([[0], np.cumsum(ranked == 1)]) / max(1, (ranked == 1).sum())
    alarms = np.concatenate([[0], np.cumsum(ranked == 0)]) / max(1, (ranked == 0).sum())
    _diagonal(axes)
    axes.plot(alarms, hits, color=BLUE)
    area = scores.roc_auc(probabilities, test.labels)
    axes.set(title=f"{recipe.name}: ROC, area {area:.4f}", xlabel="false positive rate", ylabel="true positive rate")
    _save(figure, path)


def _calibration(path: Path, probabilities: scores.Floats, test: Examples, recipe: Recipe) -> None:
    figure, axes = _canvas()
    predicted, outcome, _ = zip(*scores.calibration(probabilities, test.labels), strict=True)
    _diagonal(axes)
    axes.plot(predicted, outcome, "o-", color=ORANGE)
    error = scores.calibration_error(probabilities, test.labels)
    title = f"{recipe.name}: calibration, error {error:.4f}"
    axes.set(title=title, xlabel=f"predicted probability of {recipe.labels[1]!r}", ylabel="share in the test rows")
    _save(figure, path)


def _diagonal(axes: Axes) -> None:
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=":")


def _worst(path: Path, probabilities: scores.Floats, test: Examples, recipe: Recipe) -> None:
    """The rows whose true class got the least probability, worst first."""
    given = probabilities[np.arange(len(test)), test.labels]
    body = []
    for row in np.argsort(given, kind="stable")[:WORST]:
        values = "".join(f"<dt>{html.escape(n)}<dd>{_show(array[row])}" for n, array in test.inputs.items())
        answer = recipe.labels[int(probabilities[row].argmax())]
        true = recipe.labels[int(test.labels[row])]
        body.append(f"<h2>row {row}: {true}, answered {answer}, probability {given[row]:.4f}</h2><dl>{values}</dl>")
    path.write_text(f"<!doctype html><meta charset=utf-8><title>{recipe.name}</title>{''.join(body)}", encoding="utf-8")


def _show(value: np.ndarray[Any, Any]) -> str:
    """A cell as HTML: text as text, a picture as a block of shades."""
    if value.ndim < 2:
        return html.escape(", ".join(str(item) for item in value))
    shades = " .:-=+*#%@"
    lines = ("".join(shades[int(pixel) * 9 // 255] for pixel in line) for line in value)
    return f"<pre>{html.escape(chr(10).join(lines))}</pre>"
