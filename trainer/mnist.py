"""Which digit is this? A compact convolutional network on raw 28x28 pictures.

    sluice-train mnist                # 60,000 pictures, about ten minutes on two cores
    sluice-train mnist --dry-run      # the same road in seconds, writes nothing

Every epoch shows every picture in a new shape: turned, scaled, sheared, shifted and elastically bent (Simard et al.
2003), a whole batch at once with `grid_sample`. The weights served are the moving average over the last steps.
"""

import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from trainer import graphs, scores
from trainer.drawing import drawn_digits
from trainer.errors import DataError
from trainer.examples import Dataset, Examples, Inputs
from trainer.loop import Plan, Score, fit
from trainer.readers import idx
from trainer.recipe import Conditions, Prose, Recipe, Trained
from trainer.sources import MNIST, read

SIDE = 28
MEAN, DEVIATION = 0.130660, 0.308108  # of the training pixels / 255, as published


@dataclass(frozen=True)
class Settings:
    """Hyper-parameters, chosen by the accuracy on 5,000 training pictures held out."""

    channels: tuple[int, int, int] = (40, 64, 128)  # of the three stages
    dropout: float = 0.3  # share of the last features silenced in training
    smoothing: float = 0.1  # label smoothing: the target of the true class is 1 - smoothing
    degrees: float = 12.0  # largest turn
    zoom: float = 0.12  # largest change of width or height
    shear: float = 0.15  # largest slant
    shift: float = 2.0  # largest move, pixels
    bend: float = 0.05  # deviation of the elastic field, in half pictures
    batch_rows: int = 128  # pictures per step
    validation_rows: int = 5000  # training pictures held out
    half_precision: bool = True  # bfloat16 convolutions while training (the served weights are float32)
    plan: Plan = field(
        default=Plan(
            epochs=12,
            patience=12,
            learning_rate=2e-3,
            weight_decay=1e-2,
            warm_up=0.1,
            averaging=0.998,
            clip=5.0,
        )
    )


def load(directory: Path, own: bool) -> Dataset:  # noqa: FBT001 - the recipe contract's signature
    """Read the four IDX files; the split is the published one."""
    parts = []
    for images, labels in (MNIST.files[:2], MNIST.files[2:]):
        path, data = read(directory, images, own=own)
        pictures = idx(path, data, 3)
        if pictures.shape[1:] != (SIDE, SIDE):
            raise DataError(f"{path}: expected pictures of {SIDE}x{SIDE} pixels, found {pictures.shape[1:]}")
        path, data = read(directory, labels, own=own)
        digits = idx(path, data, 1)
        if len(digits) != len(pictures):
            raise DataError(f"{path}: expected {len(pictures)} labels, one a picture, found {len(digits)}")
        if digits.max(initial=0) > 9:
            raise DataError(f"{path}: expected labels 0 to 9, found {digits.max()} at row {int(digits.argmax())}")
        parts.append(Examples({"image": pictures}, digits.astype(np.int64)))
    return Dataset(*parts)


def _stage(inputs: int, outputs: int, kernel: int, padding: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=padding, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class Network(nn.Module):
    """Five convolutions in three stages (24x24, 12x12, 6x6 pixels) and one linear layer."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        first, second, third = settings.channels
        self.features = nn.Sequential(
            _stage(1, first, 5, 0),
            nn.MaxPool2d(2),
            _stage(first, second, 3, 1),
            _stage(second, second, 3, 1),
            nn.MaxPool2d(2),
            _stage(second, third, 3, 1),
            _stage(third, third, 3, 0),
        )
        self.dropout = nn.Dropout(settings.dropout)
        self.out = nn.Linear(third * 16, 10)

    @override
    def forward(self, pixels: Tensor) -> Tensor:
        """Standardised pictures [rows, 1, 28, 28] -> logits [rows, 10]."""
        logits: Tensor = self.out(self.dropout(self.features(pixels).flatten(1)))
        return logits


class Classifier(nn.Module):
    """What is served: raw pixels [rows, 28, 28] uint8 -> probabilities [rows, 10]."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    @override
    def forward(self, image: Tensor) -> Tensor:
        """Normalise, classify, softmax."""
        return torch.softmax(self.network(standardise(image)), dim=1)


def standardise(image: Tensor) -> Tensor:
    """Raw pixels [rows, 28, 28] -> mean 0, deviation 1, [rows, 1, 28, 28]."""
    return ((image.float() / 255 - MEAN) / DEVIATION).unsqueeze(1)


def distort(pictures: Tensor, settings: Settings) -> Tensor:
    """Each picture [rows, 1, 28, 28] turned, scaled, sheared, shifted and bent at random; black comes in at the edges.

    The elastic field is noise on a 7x7 grid, smoothed to 28x28 by bicubic interpolation, which does what Simard's
    Gaussian filter does at a fraction of the cost.
    """
    rows = len(pictures)

    def uniform(limit: float) -> Tensor:
        return (torch.rand(rows, device=pictures.device) * 2 - 1) * limit

    turn, wide, high = uniform(math.radians(settings.degrees)), 1 + uniform(settings.zoom), 1 + uniform(settings.zoom)
    slant, across, down = uniform(settings.shear), uniform(settings.shift / 14), uniform(settings.shift / 14)
    top = torch.stack([turn.cos() * wide, -turn.sin() * high + slant, across], dim=1)
    bottom = torch.stack([turn.sin() * wide, turn.cos() * high, down], dim=1)
    grid = functional.affine_grid(torch.stack([top, bottom], dim=1), list(pictures.shape), align_corners=False)
    field = torch.randn(rows, 2, 7, 7, device=pictures.device) * settings.bend
    bent = functional.interpolate(field, (SIDE, SIDE), mode="bicubic", align_corners=True)
    background = -MEAN / DEVIATION
    shifted = functional.grid_sample(pictures - background, grid + bent.permute(0, 2, 3, 1), align_corners=False)
    return shifted + background


class Task:
    """The digits' side of the training loop."""

    def __init__(self, rows: Examples, held_out: Examples, settings: Settings, conditions: Conditions) -> None:
        torch.manual_seed(conditions.seed)
        self.settings, self.device = settings, conditions.device
        self.images = torch.from_numpy(rows.inputs["image"]).to(self.device)
        self.labels = torch.from_numpy(rows.labels).to(self.device)
        self.held_out = held_out
        self.network = Network(settings).to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def batches(self, generator: torch.Generator) -> list[Tensor]:
        """Shuffled row numbers, whole batches only."""
        order = torch.randperm(len(self.labels), generator=generator)
        return [
            batch for batch in torch.split(order, self.settings.batch_rows) if len(batch) == self.settings.batch_rows
        ]

    def loss(self, batch: Tensor) -> Tensor:
        """Cross-entropy with smoothed labels on distorted pictures."""
        batch = batch.to(self.device)
        pictures = distort(standardise(self.images[batch]), self.settings)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.half_precision):
            logits = self.network(pictures.contiguous(memory_format=torch.channels_last))
        return functional.cross_entropy(logits.float(), self.labels[batch], label_smoothing=self.settings.smoothing)

    def validate(self, network: nn.Module) -> Score:
        """Held-out log loss breaks the ties that accuracy on few rows leaves."""
        probabilities = predict(Classifier(network), self.held_out.inputs, self.device)  # type: ignore[arg-type]
        accuracy = scores.accuracy(probabilities, self.held_out.labels)
        loss = scores.log_loss(probabilities, self.held_out.labels)
        return Score(value=accuracy - 1e-3 * loss, loss=loss, accuracy=accuracy)


def predict(classifier: Classifier, inputs: Inputs, device: torch.device) -> scores.Floats:
    """Probabilities [rows, 10] by PyTorch, 500 pictures at a time."""
    images = torch.split(torch.from_numpy(inputs["image"]), 500)
    with torch.no_grad():
        probabilities: scores.Floats = torch.cat([classifier(part.to(device)).cpu() for part in images]).numpy()
    return probabilities


def train(data: Dataset, settings: Settings, conditions: Conditions) -> Trained:
    """Fit on all but the held-out pictures and turn the averaged network into one graph."""
    order = np.random.RandomState(0).permutation(len(data.train))
    cut = min(settings.validation_rows, len(order) // 5)
    rows, held_out = data.train.take(order[cut:]), data.train.take(order[:cut])
    task = Task(rows, held_out, settings, conditions)
    checkpoint = conditions.checkpoint("mnist", f"{settings} rows={len(rows)}")
    history = fit(task, settings.plan, conditions.seed, checkpoint, quiet=conditions.quiet)
    cpu = torch.device("cpu")
    classifier = Classifier(task.network.to(cpu, memory_format=torch.contiguous_format).float()).eval()
    example = {"image": torch.zeros(3, SIDE, SIDE, dtype=torch.uint8)}
    return Trained(
        graph=graphs.finish(graphs.export(classifier, example, "probabilities"), "mnist"),
        predict=lambda inputs: predict(classifier, inputs, cpu),
        held_out=held_out,
        validation=scores.measure(predict(classifier, held_out.inputs, cpu), held_out.labels),
        rows={"train": len(rows), "validation": len(held_out), "test": len(data.test)},
        history=history,
        parameters=sum(parameter.numel() for parameter in task.network.parameters()),
        notes={},
    )


RECIPE = Recipe(
    name="mnist",
    labels=tuple("0123456789"),
    source=MNIST,
    settings=Settings(),
    rehearsal=replace(Settings(), validation_rows=500, plan=replace(Settings().plan, epochs=1)),
    grid={"smoothing": [0.0, 0.1], "bend": [0.0, 0.05], "dropout": [0.1, 0.3]},
    load=load,
    train=train,
    golden=lambda: {"image": drawn_digits()},
    prose=Prose(
        task="The digit 0 to 9 on a 28x28 picture, white on black.",
        data="MNIST: 70,000 handwritten digits of census staff and students, centred and scaled by its authors.",
        split="The published one, 60,000 to train and 10,000 to test; validation is 5,000 of the 60,000, shuffled.",
        use="Demonstrating and load-testing the platform; pictures prepared as the data set's are.",
        limits=(
            "Expects what MNIST shows: one digit, white on black, size-normalised to 20x20 and centred by its mass. "
            "A picture of anything else also gets ten probabilities that sum to one."
        ),
    ),
)
