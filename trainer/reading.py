"""Text -> token numbers, in training exactly as served: ONNX Runtime runs this piece of graph in both.

A token is a run of letters (with an inner apostrophe), a run of digits, a run of exclamation or question marks, dots,
one other punctuation mark, a line break tag, or a run of anything beyond ASCII. Capitals are made small (ASCII only:
the "C" locale is the one that every slim image has).
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from trainer import graphs, runtime
from trainer.examples import Array, Examples

PAD, UNKNOWN, START = 0, 1, 2  # numbers of no token, of a word not in the vocabulary, and of the start of a text
FIRST_WORD = 3
LARGEST_VOCABULARY = 65000  # phrases.KEY_BASE must be able to tell all token numbers apart
PATTERN = r"<br */?>|[a-z]+(?:'[a-z]+)?|[0-9]+|[!?]+|\.\.+|[.,;:()\"/*&%$-]|[^\x00-\x7f]+"

TOKENS_TEXT = """
    flat_text = Reshape (text, flat)
    small_text = StringNormalizer <case_change_action = "LOWER", locale = "C"> (flat_text)
    words = com.microsoft.Tokenizer <mark = 0, pad_value = "", mincharnum = 1> (small_text)
"""
"""Needs the input `text` [batch, 1] and the constant `flat`; gives `words` [batch, longest], padded with ""."""


@dataclass(frozen=True)
class Tokens:
    """Token numbers of many texts, end to end.

    Attributes:
        ids: all texts' numbers, int32, each text beginning with `START`.
        lengths: how many belong to each text.
        labels: class of each text.
    """

    ids: NDArray[np.int32]
    lengths: NDArray[np.int64]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.lengths)

    def matrix(self, rows: NDArray[np.int64]) -> torch.Tensor:
        """The given texts as int64 [rows, longest], padded at the end."""
        ends = np.cumsum(self.lengths)
        padded = np.full((len(rows), int(self.lengths[rows].max())), PAD, np.int64)
        for line, row in zip(padded, rows, strict=True):
            line[: self.lengths[row]] = self.ids[ends[row] - self.lengths[row] : ends[row]]
        return torch.from_numpy(padded)


def words_of(column: Array) -> Iterator[list[str]]:
    """The tokens of each text of a column [rows, 1], as ONNX Runtime cuts them."""
    model = graphs.parse(f"""
        tokens (string[{graphs.BATCH}, 1] text) => (string[{graphs.BATCH}, longest] words)
            <int64[1] flat = {{-1}}> {{ {TOKENS_TEXT} }}""")
    graphs.attributes(model, "words", tokenexp=PATTERN)
    session = runtime.open_session(model.SerializeToString())
    for row in range(len(column)):
        yield session.run(None, {"text": column[row : row + 1]})[0][0].tolist()


def learn_vocabulary(column: Array, rarest: int) -> list[str]:
    """The words that occur at least `rarest` times, most frequent first; word i has the number FIRST_WORD + i."""
    counts: Counter[str] = Counter()
    for words in words_of(column):
        counts.update(words)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [word for word, count in ordered if count >= rarest][:LARGEST_VOCABULARY]


def tokenise(examples: Examples, vocabulary: list[str], limit: int) -> Tokens:
    """Numbers of the first `limit` tokens of each text, after a START."""
    numbers = {word: FIRST_WORD + index for index, word in enumerate(vocabulary)}
    parts = [
        [START, *(numbers.get(word, UNKNOWN) for word in words[:limit])] for words in words_of(examples.inputs["text"])
    ]
    lengths = np.array([len(part) for part in parts], np.int64)
    flat = np.fromiter((number for part in parts for number in part), np.int32, count=int(lengths.sum()))
    return Tokens(flat, lengths, examples.labels)


def two_columns(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits of class 1 [rows] -> probabilities [rows, 2]."""
    positive = torch.sigmoid(torch.from_numpy(logits))
    return torch.stack([1 - positive, positive], dim=1).numpy()
