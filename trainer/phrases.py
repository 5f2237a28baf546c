"""The phrase reader: one learned vote for every word, pair and triple of words that training has seen often enough.

Logistic regression on presence of phrases, each column scaled by its naive Bayes log-count ratio (Wang and Manning,
"Baselines and bigrams", 2012). The problem is convex, so it is solved by L-BFGS on all rows at once; no seed plays a part.
A phrase is one integer, `first + B * second + B^2 * third` in base B = `KEY_BASE`, 0 standing for no word, so the served
graph computes it with integer arithmetic and looks it up exactly, without hashing collisions.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

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


def _matrix(texts: NDArray[np.int64], keys: NDArray[np.int64], known: NDArray[np.int64], rows: int) -> torch.Tensor:
    """Presence of known phrases, sparse [rows, phrases]."""
    column = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    hit = known[column] == keys
    texts, column = texts[hit], column[hit]
    starts = np.concatenate([[0], np.cumsum(np.bincount(texts, minlength=rows))])
    return torch.sparse_csr_tensor(
        torch.from_numpy(starts), torch.from_numpy(column), torch.ones(len(column)), (rows, len(known))
    )


def learn(tokens: Tokens, rarest: int, prior: float) -> Votes:
    """Fit the votes.

    Args:
        tokens: the training texts.
        rarest: a phrase must be in at least this many texts.
        prior: strength of the quadratic pull of the scaled weights to zero.
    """
    texts, keys = keys_of(tokens)
    known, counts = np.unique(keys, return_counts=True)
    known = known[counts >= rarest]
    present = _matrix(texts, keys, known, len(tokens))
    labels = torch.from_numpy(tokens.labels).float()
    transposed = present.t().to_sparse_csr()
    positive, negative = transposed @ labels + 1, transposed @ (1 - labels) + 1
    ratio = torch.log(positive / positive.sum()) - torch.log(negative / negative.sum())
    scaled, bias = _solve(present, transposed, ratio, labels, prior)
    return Votes(known, (scaled * ratio).numpy().astype(np.float32), bias)


def _solve(
    present: torch.Tensor, transposed: torch.Tensor, ratio: torch.Tensor, labels: torch.Tensor, prior: float
) -> tuple[torch.Tensor, float]:
    """Minimise the summed log loss + prior/2 |weights|^2 over the weights of the scaled columns and a bias."""
    weights, bias = torch.zeros(len(ratio)), torch.zeros(1)
    solver = torch.optim.LBFGS([weights, bias], max_iter=ITERATIONS, history_size=10, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        logits = present @ (ratio * weights) + bias
        error = torch.sigmoid(logits) - labels
        weights.grad = ratio * (transposed @ error) + prior * weights
        bias.grad = error.sum().reshape(1)
        likelihood = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="sum")
        return likelihood + prior / 2 * weights.square().sum()

    solver.step(loss)  # type: ignore[no-untyped-call]
    return weights, float(bias)


def logits(votes: Votes, tokens: Tokens) -> NDArray[np.float32]:
    """The sum of the votes present in each text, [rows]."""
    present = _matrix(*keys_of(tokens), votes.keys, len(tokens))
    summed: NDArray[np.float32] = (present @ torch.from_numpy(votes.weights)).numpy() + np.float32(votes.bias)
    return summed
