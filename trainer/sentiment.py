"""Does this review praise the film? An LSTM that reads the text, beside a weighing of its words and phrases.

    sluice-train sentiment            # 25,000 reviews, about five minutes on two cores
    sluice-train sentiment --dry-run  # the same road in seconds, writes nothing

Two readers of the same tokens, trained apart and then weighed against each other on held-out reviews:

- the recurrent reader (many to one): word vectors, a convolution over three words, a maximum over every eight
  positions, a bidirectional LSTM over those, its largest states, one number (after Johnson and Zhang 2016);
- the phrase reader: every distinct word, pair and triple of words votes with one learned weight: logistic
  regression on naive Bayes log-count ratios (NB-SVM, Wang and Manning 2012; trigrams as in Mesnil et al. 2014).

Text becomes tokens in ONNX Runtime while training too (`trainer.reading`), so the served graph reads
exactly what was learned.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from trainer import phrases, reading, samples, scores
from trainer.blend import Blend
from trainer.examples import Dataset, Examples, Inputs, texts
from trainer.loop import Plan, Score, fit
from trainer.readers import binary_label, records
from trainer.reading import PAD, UNKNOWN, Tokens
from trainer.recipe import Conditions, Prose, Recipe, Trained
from trainer.sentiment_graph import round_vectors, to_onnx
from trainer.sources import IMDB, read


@dataclass(frozen=True)
class Settings:
    """Hyper-parameters, chosen by the accuracy on 2,500 training reviews held out."""

    rarest_word: int = 2  # a word must occur this often in training to have a number of its own
    tokens: int = 1024  # tokens read; the rest of a longer text is not looked at
    words: int = 30000  # most frequent words that have a vector
    vector: int = 64  # numbers in a word vector
    channels: int = 128  # features of three neighbouring words
    pool: int = 8  # positions that share one LSTM step
    state: int = 64  # LSTM state in each direction
    word_dropout: float = 0.1  # share of words replaced by the unknown word in training
    vector_dropout: float = 0.3  # share of word vector entries silenced in training
    dropout: float = 0.5  # share of features before and after the LSTM silenced in training
    batch_rows: int = 64  # reviews per step
    validation_rows: int = 2500  # training reviews held out
    rows: int = 25000  # training reviews used, at most
    rarest_phrase: int = 4  # a phrase must occur in this many training reviews to vote
    phrase_prior: float = 3.0  # strength of the pull of phrase weights to zero
    phrases: int = 150000  # phrases that vote, the weightiest
    plan: Plan = field(
        default=Plan(
            epochs=4,
            patience=2,
            learning_rate=3e-3,
            weight_decay=1e-2,
            warm_up=0.2,
            averaging=0.99,
            clip=1.0,
        )
    )


def load(directory: Path, own: bool) -> Dataset:  # noqa: FBT001 - the recipe contract's signature
    """Read the reviews; the split is the published one. The star rating decides the label and is never read."""
    parts = []
    for file in IMDB.files:
        path, data = read(directory, file, own=own)
        rows = list(records(path, data, ("label", "text")))
        labels = [binary_label(path, line, "label", row["label"]) for line, row in rows]
        parts.append(Examples({"text": texts([row["text"] for _, row in rows])}, np.array(labels)))
    return Dataset(*parts)


class Network(nn.Module):
    """The recurrent reader: token numbers [rows, positions] -> logits [rows]."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        self.vectors = nn.Embedding(settings.words, settings.vector, padding_idx=PAD)
        nn.init.normal_(self.vectors.weight, std=0.1)
        self.convolution = nn.Conv1d(settings.vector, settings.channels, 3, padding=1)
        self.lstm = nn.LSTM(settings.channels, settings.state, batch_first=True, bidirectional=True)
        self.out = nn.Linear(2 * settings.state, 1)
        self.dropout, self.vector_dropout = nn.Dropout(settings.dropout), nn.Dropout(settings.vector_dropout)

    @override
    def forward(self, ids: Tensor) -> Tensor:
        """Padding (at the end of rows) has no influence: masked before the maximum, skipped by the LSTM."""
        present = ids != PAD
        known = torch.where(ids < self.settings.words, ids, UNKNOWN)
        if self.training:
            known = torch.where((torch.rand(ids.shape) < self.settings.word_dropout) & present, UNKNOWN, known)
        mask = present.unsqueeze(1)
        features = self.vector_dropout(self.vectors(known)).transpose(1, 2) * mask
        features = functional.relu(self.convolution(features)) * mask
        pool = self.settings.pool
        steps = functional.max_pool1d(functional.pad(features, (0, -ids.shape[1] % pool)), pool).transpose(1, 2)
        lengths = (present.sum(dim=1) + pool - 1) // pool
        packed = nn.utils.rnn.pack_padded_sequence(
            self.dropout(steps), lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        states, _ = nn.utils.rnn.pad_packed_sequence(self.lstm(packed)[0], batch_first=True, padding_value=-2.0)
        logits: Tensor = self.out(self.dropout(states.amax(dim=1)))[:, 0]
        return logits


class Task:
    """The recurrent reader's side of the training loop."""

    def __init__(self, rows: Tokens, held_out: Tokens, settings: Settings, conditions: Conditions) -> None:
        torch.manual_seed(conditions.seed)
        self.rows, self.held_out, self.settings, self.device = rows, held_out, settings, conditions.device
        self.network = Network(settings).to(self.device)

    def batches(self, generator: torch.Generator) -> list[Tensor]:
        """Shuffled row numbers; fifty batches at a time are sorted by length, so that little is padding."""
        size = self.settings.batch_rows
        batches: list[Tensor] = []
        lengths = torch.from_numpy(self.rows.lengths)
        for pool in torch.split(torch.randperm(len(lengths), generator=generator), 50 * size):
            batches += torch.split(pool[lengths[pool].argsort(stable=True)], size)
        return [batches[int(index)] for index in torch.randperm(len(batches), generator=generator)]

    def loss(self, batch: Tensor) -> Tensor:
        """Log loss of a batch of reviews."""
        logits = self.network(self.rows.matrix(batch.numpy()).to(self.device))
        target = torch.from_numpy(self.rows.labels[batch.numpy()]).to(self.device, logits.dtype)
        return functional.binary_cross_entropy_with_logits(logits, target)

    def validate(self, network: nn.Module) -> Score:
        """Held-out log loss decides: the answers of the two readers are added up as logits."""
        probabilities = reading.two_columns(logits_of(network, self.held_out, self.device))
        loss = scores.log_loss(probabilities, self.held_out.labels)
        return Score(value=-loss, loss=loss, accuracy=scores.accuracy(probabilities, self.held_out.labels))


def logits_of(network: nn.Module, rows: Tokens, device: torch.device) -> NDArray[np.float32]:
    """The recurrent reader's logits, in the order of the rows."""
    answer = np.zeros(len(rows), np.float32)
    order = np.argsort(rows.lengths, kind="stable")
    with torch.no_grad():
        for start in range(0, len(order), 64):
            chosen = order[start : start + 64]
            answer[chosen] = network(rows.matrix(chosen).to(device)).cpu().numpy()
    return answer


def train(data: Dataset, settings: Settings, conditions: Conditions) -> Trained:
    """Tokens, the phrase reader, the recurrent reader, their blend on held-out reviews, one graph."""
    order = np.random.RandomState(0).permutation(len(data.train))[: settings.rows]
    cut = min(settings.validation_rows, len(order) // 5)
    rows, held_out = data.train.take(order[cut:]), data.train.take(order[:cut])
    vocabulary = reading.learn_vocabulary(rows.inputs["text"], settings.rarest_word)
    seen, unseen = (reading.tokenise(part, vocabulary, settings.tokens) for part in (rows, held_out))
    votes = phrases.learn(seen, settings.rarest_phrase, settings.phrase_prior, settings.phrases)
    task = Task(seen, unseen, settings, conditions)
    checkpoint = conditions.checkpoint("sentiment", f"{settings} rows={len(rows)}")
    history = fit(task, settings.plan, conditions.seed, checkpoint, quiet=conditions.quiet)
    network = task.network.cpu()
    round_vectors(network)  # as they are stored, before anything is measured
    cpu = torch.device("cpu")
    readers = np.stack([logits_of(network, unseen, cpu), phrases.logits(votes, unseen)], axis=1)
    blend = Blend.learn(readers, unseen.labels)

    def predict(inputs: Inputs) -> scores.Floats:
        tokens = reading.tokenise(
            Examples(inputs, np.zeros(len(inputs["text"]), np.int64)), vocabulary, settings.tokens
        )
        return reading.two_columns(blend.logits(logits_of(network, tokens, cpu), phrases.logits(votes, tokens)))

    return Trained(
        graph=to_onnx(network, votes, blend, vocabulary),
        predict=predict,
        held_out=held_out,
        validation=scores.measure(predict(held_out.inputs), held_out.labels),
        rows={"train": len(rows), "validation": len(held_out), "test": len(data.test)},
        history=history,
        parameters=sum(parameter.numel() for parameter in network.parameters()) + len(votes.weights) + 4,
        notes={
            "vocabulary": len(vocabulary),
            "phrases": len(votes.weights),
            "validation_accuracy_of_the_lstm_alone": _alone(readers[:, 0], unseen.labels),
            "validation_accuracy_of_the_phrases_alone": _alone(readers[:, 1], unseen.labels),
        },
    )


def _alone(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    return scores.accuracy(reading.two_columns(logits), labels)


RECIPE = Recipe(
    name="sentiment",
    labels=("negative", "positive"),
    source=IMDB,
    settings=Settings(),
    rehearsal=replace(
        Settings(), words=2000, channels=32, rarest_phrase=50, rows=2000, plan=replace(Settings().plan, epochs=1)
    ),
    grid={"state": [32, 64], "vector": [32, 64], "phrase_prior": [3.0, 10.0]},
    load=load,
    train=train,
    golden=samples.reviews,
    prose=Prose(
        task="Whether a film review is negative or positive.",
        data="50,000 film reviews from IMDb with at most 30 a film (Maas et al. 2011), texts as they were written.",
        split=(
            "The original one, 25,000 to train and 25,000 to test, no film in both; validation is 2,500 of the "
            "training reviews, taken after a shuffle (`numpy.random.RandomState(0).permutation(25000)[:2500]`). "
            "123 test texts also occur in train; they are left in, as published results leave them in."
        ),
        use="Demonstrating and load-testing the platform; English film reviews of a sentence or more.",
        limits=(
            "English only; another language or an empty text gets an answer that means nothing. Only the first 1,024 "
            "tokens are read. Capitals are not told from small letters. Irony, and praise of one thing inside a review "
            "that pans another, are where it errs most."
        ),
    ),
)
