"""What a model file offers to the rest of the trainer, and what it is given; knows no model.

A recipe is data and four functions, told top to bottom in `churn.py`, `mnist.py` and `sentiment.py`. Publishing,
evaluation, comparison and sweeps are written once, against this.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch

from trainer.examples import Dataset, Examples, Inputs
from trainer.loop import Checkpoint, Epoch
from trainer.scores import Floats
from trainer.sources import DataSource


@dataclass(frozen=True)
class Conditions:
    """How this run trains, as against what it trains.

    Attributes:
        seed: of weights, order and augmentation.
        device: where PyTorch computes.
        checkpoints: folder for interrupted runs, None to keep none.
        quiet: no progress bars.
    """

    seed: int
    device: torch.device
    checkpoints: Path | None = None
    quiet: bool = False

    def checkpoint(self, name: str, identity: str) -> Checkpoint | None:
        """The checkpoint of the run called `name`, valid only for the same `identity`, seed and device."""
        if self.checkpoints is None:
            return None
        identity = f"{identity} seed={self.seed} device={self.device.type} torch={torch.__version__}"
        return Checkpoint(self._path(name), identity)

    def forget(self, name: str) -> None:
        """Remove the kept run called `name`, if there is one."""
        self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return (self.checkpoints or Path()) / f"{name}-seed{self.seed}.pt"


@dataclass(frozen=True)
class Trained:
    """What training hands to publishing.

    Attributes:
        graph: the whole ONNX model, raw values in, probabilities out.
        predict: the same function computed by PyTorch, for the parity check.
        held_out: validation rows, never trained on.
        validation: figures on rows never trained on.
        rows: how many rows were used for what, by name.
        history: the learning curve.
        parameters: learned numbers in the graph.
        notes: further figures for the card.
    """

    graph: onnx.ModelProto
    predict: Callable[[Inputs], Floats]
    held_out: Examples
    validation: Mapping[str, float]
    rows: Mapping[str, int]
    history: Sequence[Epoch]
    parameters: int
    notes: Mapping[str, Any]


@dataclass(frozen=True)
class Prose:
    """What the model card says in words."""

    task: str
    data: str
    split: str
    use: str
    limits: str


@dataclass(frozen=True)
class Recipe:
    """One model of the platform.

    Attributes:
        name: its folder in the model store.
        labels: the classes, in the order of the output columns.
        source: the data set.
        settings: the hyper-parameters, a frozen dataclass.
        rehearsal: the same, cut down so that `--dry-run` ends in seconds.
        grid: alternatives a sweep tries, setting name -> values.
        load: data directory, own data? -> the data set.
        train: data set, hyper-parameters, conditions -> a trained model.
        golden: made-up inputs, replayed by the server at load.
        prose: the words of the card.
    """

    name: str
    labels: tuple[str, ...]
    source: DataSource
    settings: Any
    rehearsal: Any
    grid: Mapping[str, Sequence[Any]]
    load: Callable[[Path, bool], Dataset]
    train: Callable[[Dataset, Any, Conditions], Trained]
    golden: Callable[[], Inputs]
    prose: Prose
