"""Which file of a version to serve: model.onnx, or model.fp16.onnx beside it, half precision made for GPUs.

`parameters { key: "precision" }` of config.pbtxt decides:

    fp32   the model file itself
    fp16   the half-precision file, on whatever device serves; a version without one is refused
    auto   (or nothing said) the half-precision file where it is there, a GPU serves it, card.json says that it is as
           accurate, and the golden vectors agree; otherwise the model file, and the log says why

Never knows a session; the loader tries the candidates in order.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from server.errors import ModelLoadFailed
from server.spec import ModelVersion

CARD = "card.json"
MOST_CARD_BYTES = 4 << 20
MOST_LOST_ACCURACY = 0.001
"""Accuracy on the test set that half precision may cost where nobody has asked for it by name."""

PRECISIONS = ("auto", "fp16", "fp32")


@dataclass(frozen=True, slots=True)
class Variant:
    """One file that can serve. `gpu_only`: not worth it, or not meant, where the CPU would serve it."""

    precision: str
    file: Path
    sha256: str
    """What card.json promises, empty where it promises nothing."""
    gpu_only: bool = False


def candidates(version: ModelVersion, device: str) -> tuple[Variant, ...]:
    """Return the files to try, the best first; `device` is the settings'.

    Raises:
        ModelLoadFailed: precision is none of the three, the file that is asked for is missing, or card.json is broken.
    """
    said = version.config.parameters.get("precision", "auto").lower()
    if said not in PRECISIONS:
        raise ModelLoadFailed(f"parameter precision: expected one of {', '.join(PRECISIONS)}, got {said!r:.64}")
    card = _read_card(version.directory)
    plain = Variant("fp32", version.model_file, _text(card.get("sha256")))
    half = version.model_file.with_suffix(f".fp16{version.model_file.suffix}")
    if said == "fp32" or (said == "auto" and (device == "cpu" or not half.exists())):
        return (plain,)
    if not half.exists():
        raise ModelLoadFailed(f"parameter precision: expected a file {half.name!r} for fp16, there is none")
    entry = _entry(card)
    chosen = Variant("fp16", half, _text(entry.get("sha256")), gpu_only=said == "auto")
    if said == "fp16":
        return (chosen,)
    return (chosen, plain) if _as_accurate(card, entry) else (plain,)


def _as_accurate(card: Mapping[str, object], entry: Mapping[str, object]) -> bool:
    """Whether the card has measured both, and half precision loses next to nothing."""
    metrics = card.get("metrics")
    test = metrics.get("test") if isinstance(metrics, dict) else None
    whole = test.get("accuracy") if isinstance(test, dict) else None
    half = entry.get("accuracy")
    if not isinstance(whole, (int, float)) or not isinstance(half, (int, float)):
        return False
    return half >= whole - MOST_LOST_ACCURACY


def _entry(card: Mapping[str, object]) -> Mapping[str, object]:
    """Return what card.json says of the half-precision variant."""
    variants = card.get("variants")
    rows = variants if isinstance(variants, list) else []
    return next((row for row in rows if isinstance(row, dict) and row.get("kind") == "fp16"), {})


def _text(value: object) -> str:
    return "" if value is None else str(value)


def _read_card(directory: Path) -> Mapping[str, object]:
    path = directory / CARD
    try:
        if path.stat().st_size > MOST_CARD_BYTES:
            raise ModelLoadFailed(f"{CARD}: expected at most {MOST_CARD_BYTES} bytes")
        card = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise ModelLoadFailed(f"{CARD}: expected a JSON object") from error
    return card if isinstance(card, dict) else {}
