"""`config.pbtxt` as the trainer writes it: the few lines that the ONNX file cannot say; knows no other field.

Triton's text format. A training run never changes which version serves: when a second version appears, the
configuration is first pinned to the one that serves now, and only `promote` moves the pin.
"""

import re
from pathlib import Path

from trainer import store as model_store
from trainer.errors import StoreError

_PIN = re.compile(r"version_policy:?\s*\{\s*specific:?\s*\{\s*versions:?\s*\[\s*(\d+)\s*\]\s*\}\s*\}\n?")


def initial(name: str, labels: tuple[str, ...]) -> str:
    """The configuration of a new model; label names go with an output of one column a class."""
    text = f'name: "{name}"\nbackend: "onnxruntime"\ndynamic_batching {{ }}\n'
    if len(labels) > 1:
        text += (
            f'output [\n  {{ name: "probabilities" data_type: TYPE_FP32 dims: [ {len(labels)} ] '
            'label_filename: "labels.txt" }\n]\n'
        )
    return text


def serving_version(store: Path, model: str) -> int | None:
    """The version that serves: the pinned one, else the latest; None when the model has none."""
    pinned = _PIN.search(_text(store, model))
    if pinned:
        return int(pinned.group(1))
    return max(model_store.versions(store, model), default=None)


def pin(store: Path, model: str, version: int) -> None:
    """Serve exactly `version` from now on."""
    text = _PIN.sub("", _text(store, model))
    policy = f"version_policy: {{ specific: {{ versions: [ {version} ] }} }}\n"
    model_store.replace_text(store / model / "config.pbtxt", text + policy)


def note_promotion(store: Path, model: str, line: str) -> None:
    """Add a line to `promotions.log` beside the configuration: the only record of why a version serves."""
    path = store / model / "promotions.log"
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    model_store.replace_text(path, f"{before}{line}\n")


def prepare(store: Path, model: str, labels: tuple[str, ...]) -> None:
    """Before a new version appears: write a missing configuration, pin what serves now."""
    folder = store / model
    if not (folder / "config.pbtxt").exists():
        model_store.replace_text(folder / "config.pbtxt", initial(model, labels))
        if labels:
            model_store.replace_text(folder / "labels.txt", "".join(f"{label}\n" for label in labels))
    serving = serving_version(store, model)
    if serving is not None and not _PIN.search(_text(store, model)):
        pin(store, model, serving)


def _text(store: Path, model: str) -> str:
    path = store / model / "config.pbtxt"
    if not path.exists():
        return ""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"{path} cannot be read: {error}") from error
