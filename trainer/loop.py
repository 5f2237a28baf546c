"""The training loop: knows no model, no data set and no file format but its own checkpoint.

One call, `fit`: epochs of minibatches, a warm-up then a cosine schedule, clipped gradients, an exponential moving
average of the weights, early stopping on the validation score, a checkpoint after every epoch. A run that was
interrupted and started again with the same checkpoint path ends with the same weights as one that was not: the
checkpoint holds the weights, the optimiser, the generators' states and the history.
"""

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm


@dataclass(frozen=True)
class Plan:
    """How long and how fast to learn."""

    epochs: int  # passes over the training rows, at most
    patience: int  # epochs without a better validation score before stopping early
    learning_rate: float  # peak step size of AdamW
    weight_decay: float  # AdamW's decoupled shrinkage per step, times the learning rate
    warm_up: float  # share of all steps in which the learning rate rises from zero
    averaging: float  # decay of the moving average of the weights; 0 turns it off
    clip: float  # largest gradient norm


@dataclass(frozen=True)
class Score:
    """What validation says after an epoch; `value` (higher is better) decides which epoch is kept."""

    value: float
    loss: float
    accuracy: float


@dataclass(frozen=True)
class Epoch:
    """One row of the learning curve."""

    number: int
    training_loss: float
    validation_loss: float
    validation_accuracy: float
    value: float


class Task(Protocol):
    """What a model brings to the loop."""

    @property
    def network(self) -> nn.Module:
        """What learns; the loop trains it in place."""

    def batches(self, generator: torch.Generator) -> Sequence[Any]:
        """The epoch's minibatches as row numbers, drawn with `generator`; as many in every epoch."""

    def loss(self, batch: Any) -> Tensor:  # noqa: ANN401 - a batch is the task's own business
        """Mean training loss of one minibatch, a scalar that carries gradients."""

    def validate(self, network: nn.Module) -> Score:
        """The score of `network` on the validation rows."""


@dataclass
class Progress:
    """Everything that changes while training and that a checkpoint must hold beside the weights."""

    history: list[Epoch] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)
    best_epoch: int = -1

    def stale(self, patience: int) -> bool:
        """Whether the best epoch is more than `patience` epochs ago."""
        return len(self.history) - 1 - self.best_epoch > patience


class Run:
    """One training run: the optimiser, the schedule, the averaged weights and the generators, together."""

    def __init__(self, task: Task, plan: Plan, seed: int) -> None:
        self.task, self.plan = task, plan
        self.generator = torch.Generator().manual_seed(seed)
        self.steps = plan.epochs * len(task.batches(torch.Generator().manual_seed(seed)))
        self.optimiser = torch.optim.AdamW(
            task.network.parameters(), lr=plan.learning_rate, weight_decay=plan.weight_decay
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimiser, self._rate)
        average = get_ema_multi_avg_fn(plan.averaging)  # type: ignore[no-untyped-call]
        self.averaged = AveragedModel(task.network, multi_avg_fn=average, use_buffers=True)
        self.progress = Progress()

    def _rate(self, step: int) -> float:
        """Share of the peak learning rate at `step`: a line up, then half a cosine down to zero."""
        done, warm_up = step / self.steps, self.plan.warm_up
        return done / warm_up if done < warm_up else 0.5 * (1 + math.cos(math.pi * (done - warm_up) / (1 - warm_up)))

    def epoch(self, number: int, *, quiet: bool) -> Epoch:
        """Train one epoch and validate; keeps the weights when they are the best so far."""
        network = self.task.network.train()
        batches = self.task.batches(self.generator)
        total = 0.0
        with tqdm(batches, desc=f"epoch {number + 1}/{self.plan.epochs}", leave=False, disable=quiet) as bar:
            for batch in bar:
                total += self._step(network, batch)
        kept = self.averaged.module if self.plan.averaging else network
        score = self.task.validate(kept.eval())
        row = Epoch(number, total / len(batches), score.loss, score.accuracy, score.value)
        progress = self.progress
        if progress.best_epoch < 0 or row.value > progress.history[progress.best_epoch].value:
            progress.best = {name: value.detach().clone() for name, value in kept.state_dict().items()}
            progress.best_epoch = number
        progress.history.append(row)
        return row

    def _step(self, network: nn.Module, batch: object) -> float:
        loss = self.task.loss(batch)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), self.plan.clip)
        self.optimiser.step()
        self.schedule.step()
        if self.plan.averaging:
            self.averaged.update_parameters(network)
        return float(loss.item())

    def state(self) -> dict[str, Any]:
        """Everything a later process needs to go on as if never interrupted."""
        return {
            "network": self.task.network.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "generator": self.generator.get_state(),
            "global_generator": torch.get_rng_state(),
            "history": [asdict(row) for row in self.progress.history],
            "best": self.progress.best,
            "best_epoch": self.progress.best_epoch,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up the state of an interrupted run of the same task and plan."""
        self.task.network.load_state_dict(state["network"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        self.generator.set_state(state["generator"])
        torch.set_rng_state(state["global_generator"])
        self.progress = Progress([Epoch(**row) for row in state["history"]], state["best"], state["best_epoch"])


@dataclass(frozen=True)
class Checkpoint:
    """Where an interrupted run is kept, and whose run it is.

    Attributes:
        path: the file; written beside and renamed, so it is always whole.
        identity: what must agree for a run to be taken up again (hyper-parameters, seed, rows).
    """

    path: Path
    identity: str

    def load(self) -> dict[str, Any] | None:
        """The kept state of the same run, or None when there is none."""
        if not self.path.exists():
            return None
        kept = torch.load(self.path, weights_only=True)
        return kept["state"] if kept["identity"] == self.identity else None

    def save(self, state: dict[str, Any]) -> None:
        """Replace the kept state in one step."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_name(f".{self.path.name}.partial")
        torch.save({"identity": self.identity, "state": state}, partial)
        os.replace(partial, self.path)  # noqa: PTH105 - os.replace is the documented atomic rename


def fit(task: Task, plan: Plan, seed: int, checkpoint: Checkpoint | None = None, *, quiet: bool = False) -> list[Epoch]:
    """Train `task.network` in place; it ends with the weights of the best validated epoch.

    Args:
        task: the network, its batches, its loss and its validation.
        plan: how long and how fast.
        seed: of the order of batches; the caller seeds torch itself before building the network.
        checkpoint: where to keep the run between epochs, None to keep nothing.
        quiet: no progress bars.

    Returns:
        The learning curve, one row an epoch.

    Raises:
        KeyboardInterrupt: as it comes; what was learned until the last whole epoch is in the checkpoint.
    """
    run = Run(task, plan, seed)
    if checkpoint and (state := checkpoint.load()):
        run.restore(state)
        tqdm.write(f"resuming after epoch {len(run.progress.history)} from {checkpoint.path}")
    for number in _remaining(run):
        row = run.epoch(number, quiet=quiet)
        if checkpoint:
            checkpoint.save(run.state())
        if not quiet:
            tqdm.write(
                f"epoch {number + 1:3d}  training loss {row.training_loss:.4f}  "
                f"validation loss {row.validation_loss:.4f}  accuracy {row.validation_accuracy:.4f}"
            )
    task.network.load_state_dict(run.progress.best)
    task.network.eval()
    return run.progress.history


def _remaining(run: Run) -> Iterable[int]:
    """Epoch numbers still to run; asks before each whether it is time to stop early."""
    while len(run.progress.history) < run.plan.epochs and not run.progress.stale(run.plan.patience):
        yield len(run.progress.history)
