"""The generated tables of README.md: `python -m tests.readme` writes them, a test compares them."""

import json
from pathlib import Path

from server.settings import table

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"


def settings() -> str:
    """Return one row per setting."""
    rows = [
        f"| `{flag}` | `{variable}` | {f'`{default}`' if default else ''} | {text} |"
        for flag, variable, default, text in table()
    ]
    return "\n".join(["| flag | variable | default | meaning |", "|---|---|---|---|", *rows])


def models() -> str:
    """Return one row per committed model version, from its card."""
    rows = ["| model | version | input | answer | test set |", "|---|---|---|---|---|"]
    for card_path in sorted((ROOT / "model_store").glob("*/*/card.json")):
        card = json.loads(card_path.read_text())
        rows.append(_row(card_path, card))
    return "\n".join(rows)


def _row(path: Path, card: dict) -> str:
    shapes = {
        "churn": ("ten columns of a customer", "probability of leaving"),
        "mnist": ("28x28 grey pixels", "probability of each digit"),
        "sentiment": ("a review as text", "probability of negative, positive"),
    }
    model, version = path.parent.parent.name, path.parent.name
    figures = ", ".join(
        f"{name.replace('_', ' ')} {value:.4f}"
        for name, value in card["metrics"]["test"].items()
        if isinstance(value, float)
    )
    return f"| `{model}` | {version} | {shapes[model][0]} | {shapes[model][1]} | {figures} |"


def render(text: str) -> str:
    """Return `text` with both tables brought up to date."""
    for name, content in (("settings", settings()), ("models", models())):
        start = text.index("-->", text.index(f"<!-- {name}:")) + len("-->")
        end = text.index(f"<!-- /{name} -->")
        text = f"{text[:start]}\n\n{content}\n\n{text[end:]}"
    return text


if __name__ == "__main__":
    README.write_text(render(README.read_text()))
