"""Proves a freshly opened version fit to serve: warm, right on its golden vectors, and measured.

Never knows whether its instances are threads or processes.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from server.cost import CostCurve
from server.errors import ModelLoadFailed
from server.log import event
from server.sessions.base import CostPoint, Instance, ModelVersion, Part, RunFailed
from server.sessions.golden import Golden, check_answers, read_golden
from server.sessions.measure import cost_curve, dependent_output, run_now, typical
from server.sessions.samples import made_up, warmup_part
from server.spec import ModelSpec

MOST_ROWS_CHECKED = 8
"""Rows on which it is checked that rows do not depend on each other."""


class Fresh(Instance, Protocol):
    """An instance that does not serve yet."""

    def adopt(self, spec: ModelSpec) -> None:
        """Take another spec of the same tensors from the next run on."""


@dataclass(slots=True)
class Proof:
    """What is known of a version so far; `labels` collects what operators like to see."""

    version: ModelVersion
    spec: ModelSpec
    provider: str
    deadline: float
    half: bool = False
    """Whether any of it is computed in half precision."""
    labels: dict[str, str] = field(default_factory=dict)
    costs: tuple[CostPoint, ...] = ()

    def remaining(self) -> float:
        """Return the seconds left for loading.

        Raises:
            ModelLoadFailed: there are none.
        """
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise ModelLoadFailed("loading took longer than its time limit")
        return left


def prove(proof: Proof, instances: Sequence[Fresh]) -> None:
    """Warm every instance up, replay the golden vectors on each, then check rows and measure on the first.

    Raises:
        ModelLoadFailed: an answer is wrong, or time is up.
        BatchError: a warm-up or golden run broke.
    """
    golden = ready(proof, instances)
    rows = list(golden.parts) if golden else _acceptable(proof, instances[0])
    if rows is not None:
        _check_rows(proof, instances, rows)
        _measure(proof, instances[0], rows)


def ready(proof: Proof, instances: Sequence[Fresh]) -> Golden | None:
    """Warm every instance up and replay the golden vectors on each; return them.

    Raises:
        ModelLoadFailed: an answer is wrong, or time is up.
        BatchError: a warm-up or golden run broke.
    """
    golden = read_golden(proof.version.directory, proof.spec, half=proof.half)
    for instance in instances:
        _warm_up(proof, instance)
        if golden is not None:
            _replay(proof, golden, instance)
    return golden


def measured_beside(proof: Proof, instance: Fresh) -> Proof:
    """Return the proof of the same version with the costs of another kind of instance, which is made ready.

    Raises:
        ModelLoadFailed, BatchError: as `ready`.
    """
    other = replace(proof, labels=dict(proof.labels))
    golden = ready(other, [instance])
    rows = list(golden.parts) if golden else _acceptable(other, instance)
    if rows is not None:
        _measure(other, instance, rows)
    return other


def _warm_up(proof: Proof, instance: Fresh) -> None:
    """Run what config.pbtxt asks for in `model_warmup`."""
    folder = proof.version.directory.parent / "warmup"
    for warmup in proof.version.config.warmups:
        part = warmup_part(warmup, proof.spec, folder)
        for _ in range(max(1, warmup.count)):
            run_now(instance, [part], proof.remaining())


def _replay(proof: Proof, golden: Golden, instance: Fresh) -> None:
    step = proof.spec.max_batch_size or 1
    answers = []
    for start in range(0, len(golden.parts), step):
        answers += run_now(instance, golden.parts[start : start + step], proof.remaining()).parts
    check_answers(golden, answers, proof.provider)
    proof.labels["golden_rows"] = str(len(golden.parts))


def _acceptable(proof: Proof, instance: Fresh) -> list[Part] | None:
    """Return made-up requests that the model does not refuse, None where it refuses all."""
    refusal, started = "", time.monotonic()
    for zeros in (False, True):
        rows = made_up(proof.spec, MOST_ROWS_CHECKED, zeros=zeros)
        started = time.monotonic()
        try:
            run_now(instance, rows[:1], proof.remaining())
        except RunFailed as error:
            refusal = str(error)
            continue
        return rows
    proof.labels["warm_up"] = "the model refuses made-up inputs; add golden.npz or model_warmup"
    proof.costs = (CostPoint(1, time.monotonic() - started),)  # how long a refusal takes is all there is to go by
    event("made_up_inputs_refused", model=proof.spec.name, why=refusal)
    return None


def _check_rows(proof: Proof, instances: Sequence[Fresh], rows: Sequence[Part]) -> None:
    """Give batching up for a model in which a row's answer depends on its batch-mates."""
    if not proof.spec.batches:
        return
    checked = rows[: min(MOST_ROWS_CHECKED, proof.spec.max_batch_size)]
    try:
        culprit = dependent_output(instances[0], checked, proof.remaining(), half=proof.half)
    except RunFailed as error:
        culprit = f"whole batch ({error})"
    if culprit is None:
        return
    proof.labels["batching"] = f"disabled: output {culprit} depends on the other rows of a batch"
    event("batching_disabled", logging.WARNING, model=proof.spec.name, why=proof.labels["batching"])
    proof.spec = replace(proof.spec, max_batch_size=0)
    for instance in instances:
        instance.adopt(proof.spec)


def _measure(proof: Proof, instance: Fresh, rows: Sequence[Part]) -> None:
    sizes = [point.rows for point in proof.costs] or _sizes(proof.spec.max_batch_size)
    proof.costs = cost_curve(instance, typical(rows), sizes, proof.remaining())
    if proof.spec.batches and proof.version.config.max_batch_size is None:
        knee = CostCurve((point.rows, point.seconds) for point in proof.costs).knee()
        proof.spec = replace(proof.spec, max_batch_size=knee)


def _sizes(largest: int) -> list[int]:
    """Return 1, 2, 4 ... and the largest batch itself."""
    sizes = [1]
    while sizes[-1] * 2 < largest:
        sizes.append(sizes[-1] * 2)
    return sizes if largest <= 1 else [*sizes, largest]
