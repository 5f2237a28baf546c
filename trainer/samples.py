"""Made-up customers and reviews for golden files, so that no row of a data set is committed (digits: `drawing`)."""

import math
from collections.abc import Sequence

import numpy as np

from trainer.examples import Inputs, texts


def customers(names: Sequence[str]) -> Inputs:
    """Twelve made-up customers: the tutorial's, extremes, unknown countries, a number that is not known.

    Args:
        names: the number columns, in the order of the tuples below.
    """
    people: list[tuple[tuple[float, ...], str, str]] = [
        ((600, 40, 3, 60000, 2, 1, 1, 50000), "France", "Male"),
        ((500, 40, 3, 50000, 2, 1, 1, 40000), "Spain", "Female"),
        ((350, 18, 0, 0, 1, 0, 0, 11.58), "Germany", "Male"),
        ((850, 92, 10, 250898.09, 4, 1, 1, 199992.48), "Germany", "Female"),
        ((720, 55, 5, 120000, 1, 0, 0, 90000), "Germany", "Female"),
        ((720, 55, 5, 120000, 1, 0, 1, 90000), "Germany", "Female"),
        ((650, 33, 8, 0, 2, 1, 1, 75000), "Spain", "Male"),
        ((580, 47, 2, 98000.5, 3, 1, 0, 150000), "France", "Male"),
        ((605, 29, 1, 134000, 1, 1, 1, 20000), "Atlantis", "Female"),
        ((410, 61, 7, 0, 1, 1, 0, 30000), "", "Other"),
        ((640, math.nan, 4, 80000, 2, 0, 1, 65000), "France", "Male"),
        ((1e9, 200, -5, 1e12, 0, 7, 7, -1e12), "Spain", "Female"),
    ]
    table = np.array([numbers for numbers, _, _ in people], np.float32)
    return {name: table[:, [index]] for index, name in enumerate(names)} | {
        "Geography": texts([country for _, country, _ in people]),
        "Gender": texts([gender for _, _, gender in people]),
    }


def reviews() -> Inputs:
    """Own sentences of very different lengths, the empty text, a shout, other scripts, and a long ramble."""
    ramble = "The plot goes on and on, the jokes fall flat, and nobody on screen seems to care. "
    praise = "Every scene is a small wonder; I laughed, I cried, I would watch it again tomorrow! "
    return {
        "text": texts(
            [
                "a wonderful film",
                "",
                "Terrible.",
                "WORST MOVIE EVER!!! I want my two hours back...",
                "Not bad at all: a quiet, funny and touching story. 9/10<br /><br />See it.",
                "It was meant to be a thriller, but the only suspense was whether I would stay awake.",
                "café, naïve, Фильм, 映画, \U0001f3ac",
                "The actors try hard, and the music is lovely, yet the script gives them nothing to work with.",
                praise * 6,
                ramble * 40,
            ]
        )
    }
