"""The phrase reader: one learned vote for every word, pair and triple of words that training has seen often enough.

Logistic regression on presence of phrases, each column scaled by its naive Bayes log-count ratio (Wang and Manning,
"Baselines and bigrams", 2012). The problem is convex, so it is solved by L-BFGS on all rows at once; no seed plays a
part. A phrase is one integer, `first + B * second + B^2 * third` in base B = `KEY_BASE`, 0 standing for no word, so the
served graph computes it with integer arithmetic and looks it up exactly, without hashing collisions.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import binary_cross_entropy_with_logits, embedding_bag

from trainer.reading import Tokens

KEY_BASE = 65536
ITERATIONS = 40  # of L-BFGS; the gradient is below a thousandth of its start well before


@dataclass(frozen=True)
class Votes:
    """What was learned.

    Attributes:
        keys: the phrases, ascending, int64.
        weights: the vote of each, float32.
        bias: added once.
    """

    keys: NDArray[np.int64]
    weights: NDArray[np.float32]
    bias: float


def keys_of(tokens: Tokens) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Every distinct (text, phrase) as two arrays: text numbers and phrase keys, sorted by text, then key."""
    ids = tokens.ids.astype(np.int64)
    text = np.repeat(np.arange(len(tokens)), tokens.lengths)
    pair = text[:-1] == text[1:]
    triple = text[:-2] == text[2:]
    keys = np.concatenate(
        [
            ids,
            (ids[:-1] + KEY_BASE * ids[1:])[pair],
            (ids[:-2] + KEY_BASE * ids[1:-1] + KEY_BASE**2 * ids[2:])[triple],
        ]
    )
    texts = np.concatenate([text, text[:-1][pair], text[:-2][triple]])
    order = np.lexsort((keys, texts))
    keys, texts = keys[order], texts[order]
    first = np.concatenate([[True], (keys[1:] != keys[:-1]) | (texts[1:] != texts[:-1])])
    return texts[first], keys[first]


class Presence:
    """A sparse 0/1 matrix [texts, phrases] that sums numbers along either side.

    Two lists of bags, one by text and one by phrase, since `embedding_bag` adds up bags fast and on all cores.
    """

    def __init__(self, tokens: Tokens, known: NDArray[np.int64]) -> None:
        texts, keys = keys_of(tokens)
        column = np.minimum(np.searchsorted(known, keys), len(known) - 1)
        hit = known[column] == keys
        texts, column = texts[hit], column[hit]
        by_column = np.argsort(column, kind="stable")
        self.columns, self.text_starts = torch.from_numpy(column), _starts(texts, len(tokens))
        self.texts, self.column_starts = torch.from_numpy(texts[by_column]), _starts(column, len(known))

    def over_phrases(self, of_phrase: torch.Tensor) -> torch.Tensor:
        """For each text, the sum over its phrases, [texts]."""
        return embedding_bag(self.columns, of_phrase[:, None], self.text_starts, mode="sum")[:, 0]

    def over_texts(self, of_text: torch.Tensor) -> torch.Tensor:
        """For each phrase, the sum over the texts that have it, [phrases]."""
        return embedding_bag(self.texts, of_text[:, None], self.column_starts, mode="sum")[:, 0]


def _starts(members: NDArray[np.int64], bags: int) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([[0], np.cumsum(np.bincount(members, minlength=bags))[:-1]]))


def learn(tokens: Tokens, rarest: int, prior: float, most: int) -> Votes:
    """Fit the votes.

    Args:
        tokens: the training texts.
        rarest: a phrase must be in at least this many texts.
        prior: strength of the quadratic pull of the scaled weights to zero.
        most: how many votes to keep, the weightiest; the rest are dropped after the fit.
    """
    known, counts = np.unique(keys_of(tokens)[1], return_counts=True)
    known = known[counts >= rarest]
    present = Presence(tokens, known)
    labels = torch.from_numpy(tokens.labels).float()
    positive, negative = present.over_texts(labels) + 1, present.over_texts(1 - labels) + 1
    ratio = torch.log(positive / positive.sum()) - torch.log(negative / negative.sum())
    scaled, bias = _solve(present, ratio, labels, prior)
    weights = (scaled * ratio).numpy().astype(np.float32)
    kept = np.sort(np.argsort(-np.abs(weights), kind="stable")[:most])
    return Votes(known[kept], weights[kept], bias)


def _solve(present: Presence, ratio: torch.Tensor, labels: torch.Tensor, prior: float) -> tuple[torch.Tensor, float]:
    """Minimise the summed log loss + prior/2 |weights|^2 over the weights of the scaled columns and a bias."""
    weights, bias = torch.zeros(len(ratio)), torch.zeros(1)
    solver = torch.optim.LBFGS([weights, bias], max_iter=ITERATIONS, history_size=10, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        logits = present.over_phrases(ratio * weights) + bias
        error = torch.sigmoid(logits) - labels
        weights.grad = ratio * present.over_texts(error) + prior * weights
        bias.grad = error.sum().reshape(1)
        likelihood = binary_cross_entropy_with_logits(logits, labels, reduction="sum")
        return likelihood + prior / 2 * weights.square().sum()

    solver.step(loss)  # type: ignore[no-untyped-call]
    return weights, float(bias)


def logits(votes: Votes, tokens: Tokens) -> NDArray[np.float32]:
    """The sum of the votes present in each text, [rows]."""
    summed: NDArray[np.float32] = Presence(tokens, votes.keys).over_phrases(torch.from_numpy(votes.weights)).numpy()
    return summed + np.float32(votes.bias)
