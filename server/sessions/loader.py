"""Brings a version directory into service, or says why not, beside whatever is already serving.

    0  choose the file: full or half precision                 (variants.py)
    1  look at its files: regular, its own, unchanged          (files.py)
    2  open it in a child first, under limits, whatever the isolation asked for: a hostile file hurts nobody
    3  check that what was opened is what card.json vouches for
    4  settle its spec from config.pbtxt and the graph         (modelconfig.py)
    5  open the remaining instances
    6  warm up, replay the golden vectors on the provider that will serve, see that rows leave each other alone
    7  measure the cost curve and choose the largest batch from it
    8  open more sessions of one thread where the config leaves that open and they pay (copies.py)

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
from server.sessions.files import ModelFile, check_files
from server.sessions.install import check_installation
from server.sessions.plans import ChildPlan, Report, SessionPlan
from server.sessions.process import ProcessInstance
from server.sessions.prove import Fresh, Proof, measured_beside, prove, ready
from server.sessions.spawn import ChildFailed, SessionChild
from server.sessions.variants import Variant, candidates
from server.sessions.watchdog import Watchdog
from server.spec import InstanceGroup, ModelSpec, TensorSpec

Resolve = Callable[[ModelVersion, Sequence[TensorSpec], Sequence[TensorSpec], int], ModelSpec]
"""`modelconfig.resolve`: version, the graph's inputs and outputs, the largest batch to try -> what is served."""

MESSAGES_PER_AREA = 16
"""A shared area may hold this many of the largest messages: a batch is several requests."""

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
        plans = self._plans(version, model)
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
            proof, instances, plans = self._multiplied(proof, instances, plans, undo)
        proof.labels |= {"instances": str(len(plans)), "threads": str(plans[0].session.threads)}
        memory = report.memory_bytes * len(instances)
        digest = model.digest() if version.config.response_cache else ""
        seconds = time.monotonic() - started
        return LoadedModel(
            proof.spec, report.provider, tuple(instances), proof.costs, seconds, memory, proof.labels, digest
        )

    def _plans(self, version: ModelVersion, model: ModelFile) -> list[ChildPlan]:
        """Return one plan per instance, the cores divided among them."""
        options = self._options
        groups = version.config.instance_groups or (InstanceGroup(),)
        places = [
            (group.kind, gpu) for group in groups for gpu in (group.gpus or (0,)) for _ in range(max(1, group.count))
        ]
        threads = self._threads(version, len(places))
        memory, area = options.memory_limit_bytes, MESSAGES_PER_AREA * options.max_message_bytes
        parameters, optimization = version.config.parameters, version.config.optimization
        session = SessionPlan(
            device=options.device,
            device_id=0,
            threads=threads,
            gpu_memory_limit_bytes=options.gpu_memory_limit_bytes,
            data_folder=model.folder,
            cuda_graphs=parameters.get("cuda_graphs", "true").lower() not in ("0", "false", "off"),
            cores=self._cores,
            graph_level=optimization.graph_level,
            parallel_threads=self._parallel_threads(version, threads),
            tensorrt=optimization.tensorrt,
            engine_cache=options.engine_cache,
            max_batch_size=_largest(version, options.max_batch_size),
        )
        return [
            ChildPlan(
                model,
                replace(session, device="cpu" if kind == "cpu" else options.device, device_id=gpu),
                options.load_timeout,
                memory,
                area,
            )
            for kind, gpu in places
        ]

    def _threads(self, version: ModelVersion, instances: int) -> int:
        """Return the threads of each session: what config.pbtxt or the settings say, else a fair share of the cores.

        Never more than there are cores. One is left to the frontend where sessions have processes of their own.
        """
        cores = len(self._cores) or limits.cores()
        threads = _number(version, "intra_op_thread_count") or self._options.intra_op_threads
        frontend = 1 if self._options.isolation == "process" and not self._cores else 0
        return min(threads, cores) if threads > 0 else max(1, (cores - frontend) // instances)

    def _parallel_threads(self, version: ModelVersion, threads: int) -> int:
        """Return how many branches of the graph run side by side; 0 for one after the other, as without being told."""
        mode = version.config.parameters.get("execution_mode", "0")
        if mode not in ("0", "1"):
            raise ModelLoadFailed(f"execution_mode: expected 0 (sequential) or 1 (parallel), got {mode!r:.64}")
        said = _number(version, "inter_op_thread_count")
        cores = len(self._cores) or limits.cores()
        return 0 if mode == "0" else min(said or threads, cores)

    def _processes(
        self, spec: ModelSpec, plans: Sequence[ChildPlan], first: tuple[SessionChild, Report], undo: ExitStack
    ) -> list[Fresh]:
        instances: list[Fresh] = []
        for number, plan in enumerate(plans):
            child, report = _open(plan, undo) if number else first
            _check_same(report.sha256, first[1].sha256)
            instances.append(self._process(spec, number, plan, child, undo))
        return instances

    def _process(
        self, spec: ModelSpec, number: int, plan: ChildPlan, child: SessionChild, undo: ExitStack
    ) -> ProcessInstance:
        instance = ProcessInstance(f"{spec.name}/{spec.version}#{number}", spec, plan, child, self._watchdog)
        undo.callback(instance.close, 0.0)
        return instance

    def _may_multiply(self, proof: Proof) -> bool:
        """Whether neither config nor settings say how many sessions there are, and cores are what they would share."""
        config, options = proof.version.config, self._options
        said = config.instance_groups or _number(proof.version, "intra_op_thread_count") or options.intra_op_threads
        free = not said and options.isolation == "process" and not self._cores
        return free and proof.provider == CPU and proof.spec.batches and len(proof.costs) > 1

    def _multiplied(
        self, proof: Proof, instances: list[Fresh], plans: list[ChildPlan], undo: ExitStack
    ) -> tuple[Proof, list[Fresh], list[ChildPlan]]:
        """Return what serves: the one session there is, or several of one thread in its place."""
        cores = max(1, limits.cores() - 1)
        single = replace(plans[0], session=replace(plans[0].session, threads=1))
        alone, first = proof, instances[0]
        if plans[0].session.threads > 1:
            first = self._process(proof.spec, 0, single, _open(single, undo)[0], undo)
            alone = measured_beside(proof, first)
        copies = busy_copies(alone.costs, cores)
        if first is not instances[0] and (copies == 1 or not worthwhile(alone.costs, proof.costs, copies)):
            first.close(0.0)
            return proof, instances, plans
        if first is not instances[0]:
            instances[0].close(0.0)
        more = [self._process(alone.spec, number, single, _open(single, undo)[0], undo) for number in range(1, copies)]
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


def _number(version: ModelVersion, name: str) -> int:
    """Return a parameter of config.pbtxt, 0 where it is not said."""
    said = version.config.parameters.get(name) or "0"
    try:
        return int(said)
    except ValueError as error:
        raise ModelLoadFailed(f"{name}: expected a number, got {said!r:.64}") from error


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


def _largest(version: ModelVersion, tried: int) -> int:
    """Return the largest batch that may run."""
    said = version.config.max_batch_size
    return tried if said is None else said


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
