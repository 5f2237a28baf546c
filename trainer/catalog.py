"""The models there are, by name."""

from trainer import churn, mnist, sentiment
from trainer.recipe import Recipe

RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in (churn.RECIPE, mnist.RECIPE, sentiment.RECIPE)}
