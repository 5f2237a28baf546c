from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from trainer.loop import Checkpoint, Plan, Run, Score, fit

PLAN = Plan(epochs=6, patience=6, learning_rate=0.05, weight_decay=0.0, warm_up=0.2, averaging=0.5, clip=1.0)


class Line:
    """Learn y = 2x with a dropout that makes the global generator matter."""

    def __init__(self, scores: list[float] | None = None, interrupt_at: int | None = None) -> None:
        torch.manual_seed(3)
        self.network = nn.Sequential(nn.Dropout(0.2), nn.Linear(1, 1), nn.BatchNorm1d(1))
        self.x = torch.linspace(-1, 1, 32).unsqueeze(1)
        self.scores, self.interrupt_at, self.validated = scores, interrupt_at, 0

    def batches(self, generator: torch.Generator) -> list[Tensor]:
        return list(torch.randperm(32, generator=generator).split(8))

    def loss(self, batch: Tensor) -> Tensor:
        if self.validated == self.interrupt_at:
            raise KeyboardInterrupt
        return (self.network(self.x[batch]) - 2 * self.x[batch]).square().mean()

    def validate(self, network: nn.Module) -> Score:
        self.validated += 1
        with torch.no_grad():
            error = float((network(self.x) - 2 * self.x).square().mean())
        value = -error if self.scores is None else self.scores[self.validated - 1]
        return Score(value=value, loss=error, accuracy=0.0)


def _fitted(plan: Plan = PLAN, seed: int = 0, scores: list[float] | None = None) -> Line:
    """A new task, trained."""
    task = Line(scores)
    fit(task, plan, seed, quiet=True)
    return task


def _weights(task: Line) -> list[float]:
    return torch.cat([value.flatten().float() for value in task.network.state_dict().values()]).tolist()


def _checkpoint(tmp_path: Path, identity: str = "line") -> Checkpoint:
    return Checkpoint(tmp_path / "kept" / "line.pt", identity)


def test_training_learns():
    history = fit(Line(), replace(PLAN, epochs=20, learning_rate=0.2), seed=0, quiet=True)

    assert history[-1].validation_loss < history[0].validation_loss / 2


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    first = _weights(_fitted(seed=0))

    assert first == _weights(_fitted(seed=0))
    assert first != _weights(_fitted(seed=1))


@pytest.mark.parametrize("interrupted_in_epoch", [1, 4])
def test_an_interrupted_run_ends_as_an_uninterrupted_one(tmp_path, interrupted_in_epoch):
    whole = Line()
    expected = fit(whole, PLAN, seed=0, quiet=True)
    with pytest.raises(KeyboardInterrupt):
        fit(Line(interrupt_at=interrupted_in_epoch), PLAN, 0, _checkpoint(tmp_path), quiet=True)
    torch.manual_seed(99)  # a new process has another global generator

    resumed = Line()
    history = fit(resumed, PLAN, 0, _checkpoint(tmp_path), quiet=True)

    assert expected == history
    assert _weights(whole) == _weights(resumed)
    assert PLAN.epochs - interrupted_in_epoch == resumed.validated


def test_a_checkpoint_of_another_run_is_left_alone(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fit(Line(interrupt_at=2), PLAN, 0, _checkpoint(tmp_path), quiet=True)

    task = Line()
    fit(task, PLAN, 0, _checkpoint(tmp_path, "another line"), quiet=True)

    assert PLAN.epochs == task.validated


def test_a_checkpoint_is_whole_or_absent(tmp_path, monkeypatch):
    checkpoint = _checkpoint(tmp_path)
    checkpoint.save({"epoch": 1})
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))

    with pytest.raises(OSError, match="disk full"):
        checkpoint.save({"epoch": 2})

    assert checkpoint.load() == {"epoch": 1}


def test_training_stops_early_and_keeps_the_best_epoch():
    run = Run(Line(scores=[0.1, 0.9]), PLAN, seed=0)
    for number in range(2):
        run.epoch(number, quiet=True)
    after_two = torch.cat([value.flatten().float() for value in run.progress.best.values()]).tolist()

    task = Line(scores=[0.1, 0.9, 0.2, 0.3, 0.4, 0.5])
    history = fit(task, replace(PLAN, patience=2), seed=0, quiet=True)

    assert [row.value for row in history] == [0.1, 0.9, 0.2, 0.3, 0.4]
    assert after_two == _weights(task)


def test_the_learning_rate_rises_to_its_peak_and_falls_to_zero():
    task = Line()
    run = Run(task, PLAN, seed=0)
    rates = [run._rate(step) for step in range(run.steps + 1)]

    assert rates[0] == 0
    assert max(rates) == pytest.approx(1, abs=0.05)
    assert rates[-1] == pytest.approx(0)
    assert rates.index(max(rates)) == pytest.approx(PLAN.warm_up * run.steps, abs=1)


def test_without_averaging_the_trained_weights_themselves_are_kept():
    run = Run(Line(), replace(PLAN, averaging=0.0, epochs=1), seed=0)
    run.epoch(0, quiet=True)

    assert _weights(run.task) == torch.cat([value.flatten().float() for value in run.progress.best.values()]).tolist()
