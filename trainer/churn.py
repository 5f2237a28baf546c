"""Who will leave the bank? A committee of small networks over ten columns of a customer record.

    sluice-train churn                # 10,000 rows, about a minute on two cores, no GPU needed
    sluice-train churn --dry-run      # the same road in seconds, writes nothing

Many networks of the same form learn side by side in batched matrix products. The training rows are cut into ten folds,
several times over; each network never sees one fold of one such cut, so every training row has a few networks that have
not seen it: their mean answer is the validation data (cross-validated committee; Parmanto et al. 1996, Krogh and
Vedelsby 1995). The graph answers with the mean probability of all.
"""

from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from trainer import graphs, samples, scores
from trainer.errors import DataError
from trainer.examples import Dataset, Examples, Inputs, texts
from trainer.loop import Plan, Score, fit
from trainer.readers import binary_label, number, records
from trainer.recipe import Conditions, Prose, Recipe, Trained
from trainer.sources import CHURN, read

NUMBERS = ("CreditScore", "Age", "Tenure", "Balance", "NumOfProducts", "HasCrCard", "IsActiveMember", "EstimatedSalary")
COUNTRIES = ("France", "Germany", "Spain")
GENDERS = ("Female", "Male")
TARGET = "Exited"
CREDIT, AGE, BALANCE, PRODUCTS = (NUMBERS.index(name) for name in ("CreditScore", "Age", "Balance", "NumOfProducts"))
FAINT = [NUMBERS.index(name) for name in ("CreditScore", "Tenure", "HasCrCard", "EstimatedSalary")]
FOLDS = 10


@dataclass(frozen=True)
class Settings:
    """Hyper-parameters, chosen by the log loss of the ten folds' held-out rows."""

    cuts: int = 4  # how often the rows are cut into ten folds; ten networks each
    hidden: tuple[int, int] = (32, 16)  # neurons of the two hidden layers of each network
    faint: float = 0.1  # scale of the four columns that say little by themselves, against learning their noise
    balance_steepness: float = 4.0  # scale of the balance's hinges: how readily its fine structure is learned
    dropout: float = 0.1  # share of hidden neurons silenced in training
    batch_rows: int = 256  # rows per step
    plan: Plan = field(
        default=Plan(
            epochs=40,
            patience=12,
            learning_rate=4e-3,
            weight_decay=2e-2,
            warm_up=0.1,
            averaging=0.99,
            clip=5.0,
        )
    )


def load(directory: Path, own: bool) -> Dataset:  # noqa: FBT001 - the recipe contract's signature
    """Read the customers and split them as the tutorials do: test rows are the first fifth of a seeded permutation."""
    path, data = read(directory, CHURN.files[0], own=own)
    rows = list(records(path, data, (*NUMBERS, "Geography", "Gender", TARGET)))
    if len(rows) < 10 * FOLDS:
        raise DataError(f"{path}: expected at least {10 * FOLDS} customers, found {len(rows)}")
    inputs: Inputs = {
        name: np.array([[number(path, line, name, row[name])] for line, row in rows], np.float32) for name in NUMBERS
    }
    inputs |= {name: texts([row[name] for _, row in rows]) for name in ("Geography", "Gender")}
    labels = np.array([binary_label(path, line, TARGET, row[TARGET]) for line, row in rows])
    if len(np.unique(labels)) < 2:
        raise DataError(f"{path}: expected customers of both kinds in column {TARGET}, found only {labels[0]}")
    everyone, order = Examples(inputs, labels), np.random.RandomState(0).permutation(len(rows))
    cut = len(rows) // 5
    return Dataset(train=everyone.take(order[cut:]), test=everyone.take(order[:cut]))


class Encoding(nn.Module):
    """Raw columns -> features; the statistics are those of the training rows.

    A number that is NaN (not known) counts as the training mean. Numbers are standardised and clipped to six
    deviations. Age and balance are also piecewise linear functions of themselves (hinges, Friedman 1991). A zero
    balance, each number of products, and the lowest credit scores and highest balances (three rows in a thousand,
    whose customers leave far more often than their neighbours) have columns of their own.
    """

    mean: Tensor
    deviation: Tensor
    scale: Tensor
    ages: Tensor
    balances: Tensor
    low_credit: Tensor
    high_balance: Tensor

    def __init__(self, numbers: NDArray[np.float32], settings: Settings) -> None:
        super().__init__()
        scale = np.ones(len(NUMBERS))
        scale[FAINT] = settings.faint
        balance = numbers[:, BALANCE]
        statistics = {
            "mean": np.nanmean(numbers, axis=0),
            "deviation": np.nanstd(numbers, axis=0) + 1e-6,
            "scale": scale,
            "ages": np.nanquantile(numbers[:, AGE], np.linspace(0.1, 0.9, 9)),
            "balances": np.nanquantile(np.where(balance > 0, balance, np.nan), np.linspace(0.05, 0.95, 19)),
            "low_credit": np.nanquantile(numbers[:, CREDIT], 0.003),
            "high_balance": np.nanquantile(balance, 0.997),
        }
        for name, value in statistics.items():
            self.register_buffer(name, torch.from_numpy(np.atleast_1d(value).astype(np.float32)))
        self.balance_steepness = settings.balance_steepness
        self.features = len(NUMBERS) + len(self.ages) + len(self.balances) + 3 + 4 + len(COUNTRIES) + len(GENDERS)

    @override
    def forward(self, numbers: Tensor, country: Tensor, gender: Tensor) -> Tensor:
        """Raw columns [rows, 8] and one-hots [rows, 3], [rows, 2] -> features [rows, `features`]."""
        known = torch.where(torch.isnan(numbers), self.mean, numbers)
        scaled = ((known - self.mean) / self.deviation).clamp(-6, 6)
        known = scaled * self.deviation + self.mean
        age = functional.relu(known[:, AGE : AGE + 1] - self.ages) / self.deviation[AGE]
        balance = functional.relu(known[:, BALANCE : BALANCE + 1] - self.balances) / self.deviation[BALANCE]
        rare = [
            numbers[:, BALANCE : BALANCE + 1] == 0,
            numbers[:, BALANCE : BALANCE + 1] > self.high_balance,
            numbers[:, CREDIT : CREDIT + 1] < self.low_credit,
            numbers[:, PRODUCTS : PRODUCTS + 1] == torch.arange(1, 5),
        ]
        flags = torch.cat(rare, dim=1).to(numbers.dtype)
        return torch.cat([scaled * self.scale, age, balance * self.balance_steepness, flags, country, gender], dim=1)


class Committee(nn.Module):
    """`FOLDS` networks for each cut over the encoded columns; forward gives each one's logit."""

    def __init__(self, numbers: NDArray[np.float32], settings: Settings) -> None:
        super().__init__()
        self.encode = Encoding(numbers, settings)
        widths = [self.encode.features, *settings.hidden, 1]
        self.weights = nn.ParameterList(
            torch.empty(settings.cuts * FOLDS, i, o).uniform_(-1, 1) / i**0.5 for i, o in pairwise(widths)
        )
        self.biases = nn.ParameterList(torch.zeros(settings.cuts * FOLDS, 1, o) for o in widths[1:])
        self.dropout = settings.dropout

    @override
    def forward(self, numbers: Tensor, country: Tensor, gender: Tensor) -> Tensor:
        """Logits [networks, rows] of leaving."""
        hidden = self.encode(numbers, country, gender).unsqueeze(0)
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            hidden = functional.silu(hidden @ weight + bias)
            hidden = functional.dropout(hidden, self.dropout, self.training)
        logits: Tensor = (hidden @ self.weights[-1] + self.biases[-1])[..., 0]
        return logits


class MeanProbability(nn.Module):
    """The committee's answer: the mean of its members' probabilities, [rows, 1]."""

    def __init__(self, committee: Committee) -> None:
        super().__init__()
        self.committee = committee

    @override
    def forward(self, numbers: Tensor, country: Tensor, gender: Tensor) -> Tensor:
        """Probability of leaving, [rows, 1]."""
        return torch.sigmoid(self.committee(numbers, country, gender)).mean(dim=0).unsqueeze(1)


def tensors(inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
    """What the network takes, from raw wire inputs; an unknown category is all zeros, as in the graph."""
    numbers = torch.from_numpy(np.concatenate([inputs[name] for name in NUMBERS], axis=1))
    country = torch.from_numpy((inputs["Geography"] == np.array(COUNTRIES, dtype=object)).astype(np.float32))
    gender = torch.from_numpy((inputs["Gender"] == np.array(GENDERS, dtype=object)).astype(np.float32))
    return numbers, country, gender


class Task:
    """The committee's side of the training loop."""

    def __init__(self, rows: Examples, settings: Settings, seed: int) -> None:
        torch.manual_seed(seed)
        self.columns = tensors(rows.inputs)
        self.labels = torch.from_numpy(rows.labels)
        self.network = Committee(self.columns[0].numpy(), settings)
        random = np.random.RandomState(seed)
        cuts = np.stack([random.permutation(len(rows)) % FOLDS for _ in range(settings.cuts)])
        hidden = torch.from_numpy(cuts).unsqueeze(1) == torch.arange(FOLDS).unsqueeze(1)
        self.held_out = hidden.flatten(0, 1)  # [networks, rows]: that network never sees that row
        self.batch_rows = settings.batch_rows

    def batches(self, generator: torch.Generator) -> list[Tensor]:
        """Shuffled row numbers, the last short batch included."""
        return list(torch.split(torch.randperm(len(self.labels), generator=generator), self.batch_rows))

    def loss(self, batch: Tensor) -> Tensor:
        """Mean log loss over the networks, each over the rows it may see."""
        logits = self.network(*(column[batch] for column in self.columns))
        target = self.labels[batch].to(logits.dtype).expand_as(logits)
        losses = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
        seen = ~self.held_out[:, batch]
        return (losses * seen).sum() / seen.sum() * len(seen)  # a step of each network as if it were alone

    def held_out_probabilities(self, network: nn.Module) -> NDArray[np.float32]:
        """Each row's mean probability by the networks that never saw it, as [rows, 2]."""
        with torch.no_grad():
            logits = network(*self.columns)
        leaving = (torch.sigmoid(logits) * self.held_out).sum(dim=0) / self.held_out.sum(dim=0)
        return torch.stack([1 - leaving, leaving], dim=1).numpy()

    def validate(self, network: nn.Module) -> Score:
        """Held-out log loss decides."""
        probabilities, labels = self.held_out_probabilities(network), self.labels.numpy()
        loss = scores.log_loss(probabilities, labels)
        return Score(value=-loss, loss=loss, accuracy=scores.accuracy(probabilities, labels))


def train(data: Dataset, settings: Settings, conditions: Conditions) -> Trained:
    """Fit the committee and turn it into one graph."""
    task = Task(data.train, settings, conditions.seed)
    checkpoint = conditions.checkpoint("churn", f"{settings} rows={len(data.train)}")
    history = fit(task, settings.plan, conditions.seed, checkpoint, quiet=conditions.quiet)
    answer = MeanProbability(task.network).eval()

    def predict(inputs: Inputs) -> scores.Floats:
        with torch.no_grad():
            probability: scores.Floats = answer(*tensors(inputs)).numpy()
        return probability

    return Trained(
        graph=to_onnx(answer),
        predict=predict,
        held_out=data.train.take(np.arange(min(512, len(data.train)))),
        validation=scores.measure(task.held_out_probabilities(task.network), data.train.labels),
        rows={"train": len(data.train), "validation": len(data.train), "test": len(data.test)},
        history=history,
        parameters=sum(parameter.numel() for parameter in task.network.parameters()),
        notes={"networks": settings.cuts * FOLDS},
    )


def to_onnx(answer: MeanProbability) -> onnx.ModelProto:
    """Raw columns -> one-hot and one number matrix -> the exported committee."""
    columns = ", ".join(f"float[{graphs.BATCH}, 1] {name}" for name in NUMBERS)
    front = graphs.parse(f"""
        columns ({columns}, string[{graphs.BATCH}, 1] Geography, string[{graphs.BATCH}, 1] Gender)
            => (float[{graphs.BATCH}, 8] numbers, float[{graphs.BATCH}, 3] country, float[{graphs.BATCH}, 2] gender)
            <int64[1] column = {{1}}>
        {{
            numbers = Concat <axis = 1> ({", ".join(NUMBERS)})
            countries = ai.onnx.ml.OneHotEncoder <zeros = 1> (Geography)
            genders = ai.onnx.ml.OneHotEncoder <zeros = 1> (Gender)
            country = Squeeze (countries, column)
            gender = Squeeze (genders, column)
        }}""")
    graphs.attributes(front, "countries", cats_strings=COUNTRIES)
    graphs.attributes(front, "genders", cats_strings=GENDERS)
    example = {"numbers": torch.zeros(3, 8), "country": torch.zeros(3, 3), "gender": torch.zeros(3, 2)}
    core = graphs.export(answer, {f"{name}_in": value for name, value in example.items()}, "probability")
    return graphs.finish(graphs.join(front, core, {name: f"{name}_in" for name in example}), "churn")


RECIPE = Recipe(
    name="churn",
    labels=("stays", "leaves"),
    source=CHURN,
    settings=Settings(),
    rehearsal=replace(Settings(), plan=replace(Settings().plan, epochs=2)),
    grid={"hidden": [(16, 8), (32, 16), (64, 32)], "faint": [0.1, 1.0], "balance_steepness": [0.5, 4.0]},
    load=load,
    train=train,
    golden=lambda: samples.customers(NUMBERS),
    prose=Prose(
        task="The probability that a bank's customer leaves.",
        data=(
            "10,000 customers of an (as is generally held, invented) bank, ten columns; RowNumber, CustomerId and "
            "Surname are not used."
        ),
        split=(
            "`p = numpy.random.RandomState(0).permutation(10000)`; test rows `p[:2000]`, training rows `p[2000:]`. "
            "Validation is out of fold: each network never saw one tenth of the training rows, and the validation "
            "figures are the mean answers of the networks that never saw a row."
        ),
        use="Demonstrating and load-testing the platform; a starting point for a model of one's own customers.",
        limits=(
            "The publisher documents no collection method: draw no conclusion about real people. Geography and Gender "
            "are inputs, which a real bank may not be allowed to use. A country or gender the training data does not "
            "have counts as none of the known ones (all zeros); a number that is NaN counts as the training mean; "
            "numbers beyond six standard deviations count as six."
        ),
    ),
)
