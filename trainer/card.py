"""`card.json`, the machine-readable account of a version, and README.md, the same in words."""

import hashlib
import json
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias

import onnx
import onnxruntime
import torch

from trainer import sources
from trainer.errors import StoreError
from trainer.recipe import Conditions, Recipe, Trained

Card: TypeAlias = dict[str, Any]


def provenance(recipe: Recipe, trained: Trained, conditions: Conditions, data_directory: Path) -> Card:
    """Where the version comes from: data with checksums, split, hyper-parameters, seed, code and libraries."""
    return {
        "model": recipe.name,
        "task": recipe.prose.task,
        "data_set": {
            "name": recipe.source.name,
            "origin": recipe.source.origin,
            "files": list(sources.fingerprints(data_directory, recipe.source)),
        },
        "split": {"rows": dict(trained.rows), "how": recipe.prose.split},
        "hyper_parameters": asdict(recipe.settings),
        "seed": conditions.seed,
        "epochs": len(trained.history),
        "code_version": code_version(),
        "made_with": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "onnxruntime": onnxruntime.__version__,
            "device": conditions.device.type,
        },
    }


def of_graph(graph: onnx.ModelProto, model: bytes) -> Card:
    """What the file itself says: opset, size, checksum."""
    return {
        "onnx": {entry.domain or "ai.onnx": entry.version for entry in graph.opset_import},
        "ir_version": graph.ir_version,
        "bytes": len(model),
        "sha256": hashlib.sha256(model).hexdigest(),
    }


def code_version() -> str:
    """The commit the code was at, `+changes` when files differed from it; `unknown` outside a checkout."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(  # noqa: S603 - fixed arguments
            ["git", *arguments],  # noqa: S607 - the user's own git
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+changes" if git("status", "--porcelain", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def read(directory: Path) -> Card:
    """The card of a version directory.

    Raises:
        StoreError: it is missing or not JSON.
    """
    path = directory / "card.json"
    try:
        card: Card = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read: {error}") from error
    return card


def write(directory: Path, card: Card) -> None:
    """Write `card.json`, keys in the order given."""
    (directory / "card.json").write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def readme(recipe: Recipe, card: Card) -> str:
    """The model card for people: task, figures, data, use, limits."""
    prose = recipe.prose
    return f"""# {recipe.name}, version {card["version"]}

{prose.task}

## Figures

{_table("", ("test", card["metrics"]["test"]), ("validation", card["metrics"]["validation"]))}
Test figures come from the ONNX file on {card["split"]["rows"]["test"]:,} test rows;
`sluice-train evaluate {recipe.name} --version {card["version"]}` recomputes them.
{card["parameters"]:,} learned numbers, {card["bytes"]:,} bytes,
{card["latency"]["single_row_microseconds"]:.0f} microseconds a row
({card["latency"]["how"]}).

{_variants(card)}
## Data

{prose.data}

{prose.split}

## Use and limits

{prose.use}

{prose.limits}

Seed {card["seed"]}, code {card["code_version"]}; everything else is in `card.json`.
"""


def _table(corner: str, *columns: tuple[str, Mapping[str, float]]) -> str:
    """A Markdown table of figures, one row a name."""
    head = f"| {corner} | " + " | ".join(name for name, _ in columns) + " |\n|---|" + "---:|" * len(columns) + "\n"
    names = columns[0][1]
    return head + "".join(f"| {n} | " + " | ".join(f"{column[n]:.4f}" for _, column in columns) + " |\n" for n in names)


def _variants(card: Card) -> str:
    """The smaller variants that were tried, with what they cost and bring."""
    rows = "".join(_variant(variant) for variant in card["variants"])
    return "| variant | bytes | test accuracy | microseconds a row | pays |\n|---|---:|---:|---:|---|\n" + rows


def _variant(variant: Mapping[str, Any]) -> str:
    if "failed" in variant:
        return f"| {variant['kind']} | - | - | - | cannot be made: {variant['failed']} |\n"
    return (
        f"| {variant['kind']} | {variant['bytes']:,} | {variant['accuracy']:.4f} | "
        f"{variant['single_row_microseconds']:.0f} | {'yes' if variant['pays'] else 'no'} |\n"
    )
