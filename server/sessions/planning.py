"""How the sessions of a version are to be opened: where each of them runs, and what share of the cores it gets.

Decides from the config and the settings alone. Must never know how a session is opened, nor what becomes of it.
"""

from dataclasses import replace

from server.errors import ModelLoadFailed
from server.sessions import limits
from server.sessions.base import ModelVersion, SessionOptions
from server.sessions.files import ModelFile
from server.sessions.plans import ChildPlan, SessionPlan
from server.spec import InstanceGroup

MESSAGES_PER_AREA = 16
"""A shared area may hold this many of the largest messages: a batch is several requests."""


def planned(
    version: ModelVersion, model: ModelFile, options: SessionOptions, pinned: tuple[int, ...]
) -> list[ChildPlan]:
    """Return one plan per instance, the cores divided among them; `pinned` are those they must stay on, if any.

    Raises:
        ModelLoadFailed: config.pbtxt says something about threads that cannot be.
    """
    groups = version.config.instance_groups or (InstanceGroup(),)
    places = [(group.kind, gpu) for group in groups for gpu in (group.gpus or (0,)) for _ in range(max(1, group.count))]
    session = _session(version, model, options, pinned, len(places))
    area = MESSAGES_PER_AREA * options.max_message_bytes
    return [
        ChildPlan(
            model,
            replace(session, device="cpu" if kind == "cpu" else options.device, device_id=gpu),
            options.load_timeout,
            options.memory_limit_bytes,
            area,
        )
        for kind, gpu in places
    ]


def asked_threads(version: ModelVersion, options: SessionOptions) -> int:
    """Return the threads of each session that config.pbtxt or the settings ask for, 0 where neither does.

    Raises:
        ModelLoadFailed: config.pbtxt asks for something that is no number.
    """
    return _number(version, "intra_op_thread_count") or options.intra_op_threads


def _session(
    version: ModelVersion, model: ModelFile, options: SessionOptions, pinned: tuple[int, ...], instances: int
) -> SessionPlan:
    """Return what all the sessions have in common."""
    threads = _threads(version, options, pinned, instances)
    parameters, optimization = version.config.parameters, version.config.optimization
    largest = version.config.max_batch_size
    return SessionPlan(
        device=options.device,
        device_id=0,
        threads=threads,
        gpu_memory_limit_bytes=options.gpu_memory_limit_bytes,
        data_folder=model.folder,
        cuda_graphs=parameters.get("cuda_graphs", "true").lower() not in ("0", "false", "off"),
        cores=pinned,
        graph_level=optimization.graph_level,
        parallel_threads=_parallel_threads(version, pinned, threads),
        tensorrt=optimization.tensorrt,
        engine_cache=options.engine_cache,
        max_batch_size=options.max_batch_size if largest is None else largest,
    )


def _threads(version: ModelVersion, options: SessionOptions, pinned: tuple[int, ...], instances: int) -> int:
    """Return the threads of each session: what is asked for, else a fair share of the cores.

    Never more than there are cores. One is left to the frontend where sessions have processes of their own.
    """
    cores = len(pinned) or limits.cores()
    asked = asked_threads(version, options)
    frontend = 1 if options.isolation == "process" and not pinned else 0
    return min(asked, cores) if asked > 0 else max(1, (cores - frontend) // instances)


def _parallel_threads(version: ModelVersion, pinned: tuple[int, ...], threads: int) -> int:
    """Return how many branches of the graph run side by side; 0 for one after the other, as without being told."""
    mode = version.config.parameters.get("execution_mode", "0")
    if mode not in ("0", "1"):
        raise ModelLoadFailed(f"execution_mode: expected 0 (sequential) or 1 (parallel), got {mode!r:.64}")
    asked = _number(version, "inter_op_thread_count")
    cores = len(pinned) or limits.cores()
    return 0 if mode == "0" else min(asked or threads, cores)


def _number(version: ModelVersion, name: str) -> int:
    """Return a parameter of config.pbtxt, 0 where it is not said."""
    said = version.config.parameters.get(name) or "0"
    try:
        return int(said)
    except ValueError as error:
        raise ModelLoadFailed(f"{name}: expected a number, got {said!r:.64}") from error
