"""Brings a version directory into service, or says why not, beside whatever is already serving.

    0  choose the file: full or half precision                 (variants.py)
    1  look at its files: regular, its own, unchanged          (files.py)
    2  plan its sessions: where, and on how many cores         (planning.py)
    3  open it in a child first, under limits, whatever the isolation asked for: a hostile file hurts nobody
    4  check that what was opened is what card.json vouches for
    5  settle its spec from config.pbtxt and the graph         (modelconfig.py)
    6  open the remaining instances
    7  warm up, replay the golden vectors on the provider that will serve, see that rows leave each other alone
    8  measure the cost curve and choose the largest batch from it
    9  open more sessions of one thread where the config leaves that open and they pay (copies.py)

Never knows what version serves now or when the new one takes over: that is the repository's.
"""

import re
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace

from server import modelconfig
from server.errors import ModelLoadFailed
from server.log import event
from server.sessions import limits
from server.sessions.base import BatchError, LoadedModel, ModelVersion, SessionOptions
from server.sessions.copies import busy_copies, worthwhile
from server.sessions.files import check_files
from server.sessions.install import check_installation
from server.sessions.planning import asked_threads, planned
from server.sessions.plans import ChildPlan, Report
from server.sessions.process import ProcessInstance
from server.sessions.prove import Fresh, Proof, measured_beside, prove, ready
from server.sessions.spawn import ChildFailed, SessionChild
from server.sessions.variants import Variant, candidates
from server.sessions.watchdog import Watchdog
from server.spec import ModelSpec, TensorSpec

Resolve = Callable[[ModelVersion, Sequence[TensorSpec], Sequence[TensorSpec], int], ModelSpec]
"""`modelconfig.resolve`: version, the graph's inputs and outputs, the largest batch to try -> what is served."""

CPU, TENSORRT = "CPUExecutionProvider", "TensorrtExecutionProvider"


class ModelLoader:
    """See `server.sessions.base.Loader`. Loads one version per call; calls may run side by side."""

    def __init__(
        self, options: SessionOptions, resolve: Resolve = modelconfig.resolve, *, cores: Sequence[int] = ()
    ) -> None:
        """Check that one ONNX Runtime is installed.

        `cores` pins the session processes to these; the kernel places them where none are given.

        Raises:
            FailedPrecondition: none is installed, or two that overwrite each other.
        """
        self._options = options
        self._cores = tuple(cores)
        self.runtime = check_installation()
        self._resolve = resolve
        self._watchdog = Watchdog()

    def load(self, version: ModelVersion) -> LoadedModel:
        """Load, warm up, measure and check one version.

        Raises:
            ModelLoadFailed: with one sentence saying why; nothing is left behind.
        """
        started = time.monotonic()
        *better, last = candidates(version, self._options.device)
        for variant in better:
            try:
                return self._try(version, variant, started)
            except ModelLoadFailed as error:
                name, number = version.config.name, version.version
                event("variant_not_served", model=name, version=number, precision=variant.precision, why=str(error))
        return self._try(version, last, started)

    def _try(self, version: ModelVersion, variant: Variant, started: float) -> LoadedModel:
        with ExitStack() as undo:
            try:
                loaded = self._load(version, variant, started, undo)
            except (ChildFailed, BatchError, OSError) as error:
                raise ModelLoadFailed(_presentable(str(error))) from error
            undo.pop_all()
        return loaded

    def _load(self, version: ModelVersion, variant: Variant, started: float, undo: ExitStack) -> LoadedModel:
        model = check_files(variant.file)
        _check_libraries(version)
        plans = planned(version, model, self._options, self._cores)
        child, report = _open(plans[0], undo)
        _check_variant(variant, report)
        model.check_unchanged()
        spec = self._resolve(version, report.inputs, report.outputs, self._options.max_batch_size)
        spec = _with_precision(spec, variant.precision)
        if self._options.isolation == "none":
            instances = self._inline(spec, plans, report, undo)
            child.close()
        else:
            instances = self._processes(spec, plans, (child, report), undo)
        labels = _labels(variant, report)
        half = variant.precision == "fp16" or _in_half(version, report)
        proof = Proof(version, spec, report.provider, started + self._options.load_timeout, half, labels)
        prove(proof, instances)
        if self._may_multiply(proof):
            proof, instances, plans = self._multiplied(proof, instances, plans, report.sha256, undo)
        proof.labels |= {"instances": str(len(plans)), "threads": str(plans[0].session.threads)}
        memory = report.memory_bytes * len(instances)
        digest = model.digest() if version.config.response_cache else ""
        seconds = time.monotonic() - started
        return LoadedModel(
            proof.spec, report.provider, tuple(instances), proof.costs, seconds, memory, proof.labels, digest
        )

    def _processes(
        self, spec: ModelSpec, plans: Sequence[ChildPlan], first: tuple[SessionChild, Report], undo: ExitStack
    ) -> list[Fresh]:
        child, report = first
        instances: list[Fresh] = [self._process(spec, 0, plans[0], child, undo)]
        for number, plan in enumerate(plans[1:], 1):
            instances.append(self._another(spec, number, plan, report.sha256, undo))
        return instances

    def _another(self, spec: ModelSpec, number: int, plan: ChildPlan, digest: str, undo: ExitStack) -> ProcessInstance:
        """Open one more session of the file that had this digest."""
        child, report = _open(plan, undo)
        _check_same(report.sha256, digest)
        return self._process(spec, number, plan, child, undo)

    def _process(
        self, spec: ModelSpec, number: int, plan: ChildPlan, child: SessionChild, undo: ExitStack
    ) -> ProcessInstance:
        instance = ProcessInstance(f"{spec.name}/{spec.version}#{number}", spec, plan, child, self._watchdog)
        undo.callback(instance.close, 0.0)
        return instance

    def _may_multiply(self, proof: Proof) -> bool:
        """Whether neither config nor settings say how many sessions there are, and cores are what they would share."""
        config, options = proof.version.config, self._options
        said = config.instance_groups or asked_threads(proof.version, options)
        free = not said and options.isolation == "process" and not self._cores
        return free and proof.provider == CPU and proof.spec.batches and len(proof.costs) > 1

    def _multiplied(
        self, proof: Proof, instances: list[Fresh], plans: list[ChildPlan], digest: str, undo: ExitStack
    ) -> tuple[Proof, list[Fresh], list[ChildPlan]]:
        """Return what serves: the one session there is, or several of one thread in its place."""
        (serving,), (plan,) = instances, plans
        single = replace(plan, session=replace(plan.session, threads=1))
        alone, first = proof, serving
        if plan.session.threads > 1:
            first = self._another(proof.spec, 0, single, digest, undo)
            alone = measured_beside(proof, first)
        copies = busy_copies(alone.costs, limits.cores())
        pays = copies > 1 and (first is serving or worthwhile(alone.costs, proof.costs, copies))
        if first is not serving:
            (serving if pays else first).close(0.0)
        if not pays:
            return proof, instances, plans
        more = [self._another(alone.spec, number, single, digest, undo) for number in range(1, copies)]
        ready(alone, more)
        return alone, [first, *more], [single] * copies

    def _inline(self, spec: ModelSpec, plans: Sequence[ChildPlan], tried: Report, undo: ExitStack) -> list[Fresh]:
        """Open in this process what a child has survived already."""
        from server.sessions.inline import InlineInstance, open_here  # noqa: PLC0415  (brings onnxruntime in)

        instances: list[Fresh] = []
        for number, plan in enumerate(plans):
            session, digest = open_here(plan)
            _check_same(digest, tried.sha256)
            instance = InlineInstance(f"{spec.name}/{spec.version}#{number}", spec, session, self._watchdog)
            undo.callback(instance.close, 0.0)
            instances.append(instance)
        return instances


def _open(plan: ChildPlan, undo: ExitStack) -> tuple[SessionChild, Report]:
    child = SessionChild(plan)
    undo.callback(child.discard)
    return child, child.load()


def _in_half(version: ModelVersion, report: Report) -> bool:
    """Whether TensorRT computes in half precision what the file has in full."""
    said = (version.config.optimization.tensorrt or {}).get("precision_mode")
    return report.provider == TENSORRT and said == "FP16"


def _with_precision(spec: ModelSpec, precision: str) -> ModelSpec:
    """Return the spec that says what serves, where config.pbtxt left the choice or nothing of it."""
    if spec.precision == precision:
        return spec
    parameters = {**spec.config.parameters, "precision": precision}
    return replace(spec, config=replace(spec.config, parameters=parameters))


def _check_same(one: str, other: str) -> None:
    if one != other:
        raise ModelLoadFailed("the model file changed while it was being loaded; versions are immutable")


def _check_libraries(version: ModelVersion) -> None:
    """Refuse a config that asks for custom operator libraries: code is never loaded from a model store."""
    if any(name.startswith("model_operations") for name in version.config.ignored):
        raise ModelLoadFailed("config.pbtxt: expected no model_operations, custom operator libraries are not loaded")


def _check_variant(variant: Variant, report: Report) -> None:
    """Compare what was opened with the checksum in card.json, where there is one, and with what it is meant for."""
    if variant.sha256 and variant.sha256 != report.sha256:
        name = variant.file.name
        raise ModelLoadFailed(f"card.json: expected sha256 {variant.sha256:.64}, {name} has {report.sha256}")
    if variant.gpu_only and report.provider == CPU:
        raise ModelLoadFailed(f"half precision is for a GPU, the session is on {CPU}")


def _labels(variant: Variant, report: Report) -> dict[str, str]:
    labels: dict[str, str] = {}
    if variant.precision != "fp32":
        labels["precision"] = variant.precision
    if report.note:
        labels["device"] = _presentable(report.note)
    if not report.confined:
        labels["confined"] = "no"
    if report.unserved:
        labels["unserved_outputs"] = ", ".join(report.unserved)
    return labels


def _presentable(text: str) -> str:
    """Return a reason without the paths in it: it may travel to a client."""
    return re.sub(r"(?<![\w.])/[^\s:'\")]*/", "", text)
