"""Try a small grid of hyper-parameters and rank them by validation; the test set stays unread."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, TypeAlias

from tqdm import tqdm

from trainer.examples import Dataset
from trainer.recipe import Conditions, Recipe

Choice: TypeAlias = dict[str, Any]  # setting name -> value
Found: TypeAlias = tuple[Choice, dict[str, float]]  # and the validation figures it gave


def choices(recipe: Recipe) -> Iterator[Choice]:
    """Every combination of the recipe's grid, as setting name -> value."""
    for values in itertools.product(*recipe.grid.values()):
        yield dict(zip(recipe.grid, values, strict=True))


def apply(settings: Any, choice: Choice) -> Any:  # noqa: ANN401 - each recipe has its own settings type
    """The settings with the chosen values; `plan.x` sets x inside the plan."""
    inner = {name.removeprefix("plan."): value for name, value in choice.items() if name.startswith("plan.")}
    outer = {name: value for name, value in choice.items() if not name.startswith("plan.")}
    return replace(settings, plan=replace(settings.plan, **inner), **outer)


def sweep(recipe: Recipe, data: Dataset, conditions: Conditions) -> list[Found]:
    """Train every choice and return (choice, validation figures), the lowest log loss first."""
    found = []
    for choice in tqdm(list(choices(recipe)), desc="sweep", disable=conditions.quiet):
        trained = recipe.train(data, apply(recipe.settings, choice), conditions)
        found.append((choice, dict(trained.validation)))
    return sorted(found, key=lambda row: row[1]["log_loss"])


def table(rows: list[Found]) -> str:
    """A Markdown table, the best choice first."""
    names, figures = list(rows[0][0]), list(rows[0][1])
    lines = ["| " + " | ".join(names + figures) + " |", "|" + "---|" * (len(names) + len(figures))]
    for choice, found in rows:
        cells = [str(choice[name]) for name in names] + [f"{found[name]:.4f}" for name in figures]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
