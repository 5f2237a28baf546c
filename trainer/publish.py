"""From a trained model to a version directory: parity, test figures, golden file, card, report; knows no model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainer import card as cards
from trainer import modelconfig, report, runtime, scores, store, variants
from trainer.examples import Dataset, Examples, Inputs, first_rows
from trainer.recipe import Conditions, Recipe, Trained

GOLDEN_RTOL, GOLDEN_ATOL = 1e-3, 1e-4  # another CPU or a GPU sums in another order; a wrong model is far outside
HALF_FILE = "model.fp16.onnx"
PARITY_ROWS = 512  # held-out rows on which the graph is compared with PyTorch


@dataclass(frozen=True)
class Place:
    """Where to read and write: the data directory, the store, and the version number (None: the next).

    `half` writes model.fp16.onnx as well, where it is as good.
    """

    data: Path
    store: Path
    version: int | None = None
    half: bool = False


def publish(recipe: Recipe, data: Dataset, trained: Trained, conditions: Conditions, place: Place) -> Path:
    """Check the graph, look at the test set once, and write a whole version or nothing.

    Returns:
        The version directory.

    Raises:
        ExportError: the graph does not answer as the trained network does.
        StoreError: the store cannot be written.
    """
    model = trained.graph.SerializeToString(deterministic=True)
    output = runtime.run(runtime.open_session(model), data.test.inputs)
    probabilities = scores.class_probabilities(output)
    card = cards.provenance(recipe, trained, conditions, place.data)
    card |= cards.of_graph(trained.graph, model) | figures(recipe, trained, data.test, probabilities)
    modelconfig.prepare(place.store, recipe.name, recipe.labels if output.shape[1] == len(recipe.labels) else ())
    with store.new_version(place.store, recipe.name, place.version) as (directory, version):
        card = {"model": recipe.name, "version": version, **card}
        (directory / "model.onnx").write_bytes(model)
        half = place.half and variants.write_half(directory / HALF_FILE, trained.graph, card, recipe.golden())
        write_golden(directory / "golden.npz", model, recipe.golden(), half=half)
        report.write(directory / "report", recipe, trained, data.test, probabilities)
        cards.write(directory, card)
        (directory / "README.md").write_text(cards.readme(recipe, card), encoding="utf-8")
    return place.store / recipe.name / str(version)


def figures(recipe: Recipe, trained: Trained, test: Examples, probabilities: scores.Floats) -> cards.Card:
    """The measured part of the card: metrics, parity, speed, variants."""
    golden = recipe.golden()
    metrics = scores.measure(probabilities, test.labels)
    return {
        "parameters": trained.parameters,
        "metrics": {"test": metrics, "validation": dict(trained.validation)},
        "confusion_matrix": {"labels": list(recipe.labels), "counts": scores.confusion(probabilities, test.labels)},
        "parity": parity(trained, golden),
        "latency": variants.latency(trained.graph, test),
        "variants": variants.measure(trained.graph, test),
        "notes": dict(trained.notes),
    }


def parity(trained: Trained, golden: Inputs) -> dict[str, float]:
    """The worst of held-out rows and made-up inputs; raises where `runtime.check_parity` does."""
    rows = np.arange(min(PARITY_ROWS, len(trained.held_out)))
    seen = [
        runtime.check_parity(trained.graph, trained.predict, inputs)
        for inputs in (trained.held_out.take(rows).inputs, golden)
    ]
    return {name: max(found[name] for found in seen) for name in seen[0]}


def write_golden(path: Path, model: bytes, inputs: Inputs, *, half: bool = False) -> None:
    """Made-up inputs and the answers the served file gives, for the server to replay; no pickle inside.

    `half` adds the tolerance that a variant in half precision is held to.
    """
    session = runtime.open_session(model)
    arrays: dict[str, Any] = {
        f"input/{name}": array.astype(str) if array.dtype == object else array for name, array in inputs.items()
    }
    arrays[f"output/{session.get_outputs()[0].name}"] = runtime.run(session, inputs)
    arrays |= {"rtol": np.float64(GOLDEN_RTOL), "atol": np.float64(GOLDEN_ATOL)}
    if half:
        arrays |= dict.fromkeys(("fp16/rtol", "fp16/atol"), np.float64(variants.HALF_TOLERANCE))
    np.savez_compressed(path, **arrays)


def rehearse(data: Dataset, trained: Trained, golden: Inputs) -> dict[str, float]:
    """What `--dry-run` does instead of publishing: parity, then figures on a few test rows; writes nothing."""
    parity(trained, golden)
    few = first_rows(data.test, PARITY_ROWS)
    output = runtime.run(runtime.open_session(trained.graph.SerializeToString()), few.inputs)
    return scores.measure(scores.class_probabilities(output), few.labels)


def in_words(metrics: dict[str, float]) -> str:
    """Figures on one line."""
    return ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
