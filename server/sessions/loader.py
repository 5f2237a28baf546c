"""Brings a version directory into service, or says why not, beside whatever is already serving.

    1  look at its files: regular, its own, unchanged          (files.py)
    2  open it in a child first, under limits, whatever the isolation asked for: a hostile file hurts nobody
    3  check that what was opened is what card.json vouches for
    4  settle its spec from config.pbtxt and the graph         (modelconfig.py)
    5  open the remaining instances
    6  warm up, replay the golden vectors on the provider that will serve, see that rows leave each other alone
    7  measure the cost curve and choose the largest batch from it

Never knows what version serves now or when the new one takes over: that is the repository's.
"""

import json
import re
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from server import modelconfig
from server.errors import ModelLoadFailed
from server.sessions import limits
from server.sessions.base import BatchError, LoadedModel, ModelVersion, SessionOptions
from server.sessions.files import ModelFile, check_files
from server.sessions.install import check_installation
from server.sessions.plans import ChildPlan, Report, SessionPlan
from server.sessions.process import ProcessInstance
from server.sessions.prove import Fresh, Proof, prove
from server.sessions.spawn import ChildFailed, SessionChild
from server.sessions.watchdog import Watchdog
from server.spec import InstanceGroup, ModelSpec, TensorSpec

Resolve = Callable[[ModelVersion, Sequence[TensorSpec], Sequence[TensorSpec], int], ModelSpec]
"""`modelconfig.resolve`: version, the graph's inputs and outputs, the largest batch to try -> what is served."""

MESSAGES_PER_AREA = 16
"""A shared area may hold this many of the largest messages: a batch is several requests."""

MOST_CARD_BYTES = 4 << 20


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
        with ExitStack() as undo:
            try:
                loaded = self._load(version, undo)
            except (ChildFailed, BatchError, OSError) as error:
                raise ModelLoadFailed(_presentable(str(error))) from error
            undo.pop_all()
        return loaded

    def _load(self, version: ModelVersion, undo: ExitStack) -> LoadedModel:
        started = time.monotonic()
        model = check_files(version.model_file)
        _check_libraries(version)
        plans = self._plans(version, model)
        child, report = _open(plans[0], undo)
        _check_card(version.directory, report)
        model.check_unchanged()
        spec = self._resolve(version, report.inputs, report.outputs, self._options.max_batch_size)
        if self._options.isolation == "none":
            instances = self._inline(spec, plans, report, undo)
            child.close()
        else:
            instances = self._processes(spec, plans, (child, report), undo)
        proof = Proof(version, spec, report.provider, started + self._options.load_timeout, _labels(report, plans))
        prove(proof, instances)
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
        return [
            ChildPlan(
                model,
                SessionPlan(
                    "cpu" if kind == "cpu" else options.device,
                    gpu,
                    threads,
                    options.gpu_memory_limit_bytes,
                    model.folder,
                    version.config.parameters.get("cuda_graphs", "true").lower() not in ("0", "false", "off"),
                    self._cores,
                ),
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
        said = version.config.parameters.get("intra_op_thread_count", "") or self._options.intra_op_threads
        try:
            threads = int(said)
        except ValueError as error:
            raise ModelLoadFailed(f"intra_op_thread_count: expected a number, got {said!r:.64}") from error
        frontend = 1 if self._options.isolation == "process" and not self._cores else 0
        return min(threads, cores) if threads > 0 else max(1, (cores - frontend) // instances)

    def _processes(
        self, spec: ModelSpec, plans: Sequence[ChildPlan], first: tuple[SessionChild, Report], undo: ExitStack
    ) -> list[Fresh]:
        instances: list[Fresh] = []
        for number, plan in enumerate(plans):
            child, report = _open(plan, undo) if number else first
            _check_same(report.sha256, first[1].sha256)
            instance = ProcessInstance(f"{spec.name}/{spec.version}#{number}", spec, plan, child, self._watchdog)
            undo.callback(instance.close, 0.0)
            instances.append(instance)
        return instances

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


def _check_same(one: str, other: str) -> None:
    if one != other:
        raise ModelLoadFailed("the model file changed while it was being loaded; versions are immutable")


def _check_libraries(version: ModelVersion) -> None:
    """Refuse a config that asks for custom operator libraries: code is never loaded from a model store."""
    if any(name.startswith("model_operations") for name in version.config.ignored):
        raise ModelLoadFailed("config.pbtxt: expected no model_operations, custom operator libraries are not loaded")


def _check_card(directory: Path, report: Report) -> None:
    """Compare what was opened with the checksum in card.json, where there is one."""
    path = directory / "card.json"
    try:
        if path.stat().st_size > MOST_CARD_BYTES:
            raise ModelLoadFailed(f"card.json: expected at most {MOST_CARD_BYTES} bytes")
        card = json.loads(path.read_bytes())
    except FileNotFoundError:
        return
    except (OSError, ValueError, RecursionError) as error:
        raise ModelLoadFailed("card.json: expected a JSON object") from error
    promised = card.get("sha256") if isinstance(card, dict) else None
    if promised is not None and promised != report.sha256:
        raise ModelLoadFailed(f"card.json: expected sha256 {promised!s:.64}, model.onnx has {report.sha256}")


def _labels(report: Report, plans: Sequence[ChildPlan]) -> dict[str, str]:
    labels = {"instances": str(len(plans)), "threads": str(plans[0].session.threads)}
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
