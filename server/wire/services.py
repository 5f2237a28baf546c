"""Every method of every service under its path: the whole wire, put together.

`methods` is what the application gives to a transport. A test walks the protobuf descriptors and proves that no method
is forgotten and that each but the health checks asks for credentials.
"""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2

from server.catalog import Catalog
from server.errors import NeedsRedis
from server.pb import open_inference_pb2 as oip
from server.pb import sluice_pb2
from server.queues.base import Queue
from server.transports.base import Fast, Methods, Stream, Streaming, Unary
from server.wire.auth import Scope
from server.wire.gate import Gate
from server.wire.health import Health
from server.wire.infer import InferHandler
from server.wire.lifecycle import Lifecycle
from server.wire.open_inference import Identification, LogLevels, OpenInference
from server.wire.questions import QUESTIONS
from server.wire.reader import Reader
from server.wire.reflection import SERVICES as REFLECTION_SERVICES
from server.wire.reflection import Reflection
from server.wire.regions import Regions, refuse
from server.wire.rpc import streaming, unary
from server.wire.shared_memory import SharedMemory
from server.wire.shedding import Shedding
from server.wire.stream import StreamHandler
from server.wire.typed import TypedHandler

INFERENCE: ServiceDescriptor = oip.DESCRIPTOR.services_by_name["GRPCInferenceService"]
PREDICTIONS: ServiceDescriptor = sluice_pb2.DESCRIPTOR.services_by_name["Predictions"]
JOBS: ServiceDescriptor = sluice_pb2.DESCRIPTOR.services_by_name["Jobs"]
HEALTH: ServiceDescriptor = health_pb2.DESCRIPTOR.services_by_name["Health"]


_DECODERS = 2
"""Threads that decode pictures; Pillow lets go of the GIL while it does."""


@dataclass(frozen=True, slots=True)
class Wire:
    """What the wire stands on. `jobs` are the handlers of sluice.v1.Jobs where there is a Redis queue."""

    gate: Gate
    catalog: Catalog
    queue: Queue
    lifecycle: Lifecycle
    identification: Identification
    log: LogLevels
    reflection: bool = True
    jobs: Methods | None = None
    distant: bool = False
    """Whether the queue's scheduler is in another process."""
    shared_memory: SharedMemory | None = None


def methods(wire: Wire) -> Methods:
    """Return the handler of every method this server has."""
    reader = Reader(wire.catalog, wire.gate.limits, wire.shared_memory)
    infer = InferHandler(wire.gate, reader, wire.queue, distant=wire.distant)
    served = [INFERENCE, PREDICTIONS, JOBS, HEALTH]
    table: dict[str, Fast | Unary | Streaming] = {}
    table.update(_inference(wire, infer))
    table.update(_predictions(wire))
    table.update(_health(wire, served))
    table.update(wire.jobs if wire.jobs is not None else _without_jobs(wire.gate))
    if wire.reflection:
        handler = streaming(wire.gate, Scope.READ, Reflection(service.full_name for service in served))
        table.update({f"/{name}/ServerReflectionInfo": handler for name in REFLECTION_SERVICES})
    return table


def paths(service: ServiceDescriptor) -> Mapping[str, str]:
    """Return the path of each method of a service by its name."""
    return {method.name: f"/{service.full_name}/{method.name}" for method in service.methods}


def _inference(wire: Wire, infer: InferHandler) -> Iterator[tuple[str, Fast | Unary | Streaming]]:
    gate = wire.gate
    rpcs = OpenInference(wire.catalog, wire.lifecycle, _identification(wire), wire.log)
    path = paths(INFERENCE)
    yield path["ModelInfer"], Fast(infer, Shedding(gate, path["ModelInfer"], infer.refusals))
    yield path["ModelStreamInfer"], streaming(gate, Scope.INFER, StreamHandler(infer, gate.limits))
    yield path["ServerLive"], unary(gate, Scope.READ, oip.ServerLiveRequest, rpcs.server_live)
    yield path["ServerReady"], unary(gate, Scope.READ, oip.ServerReadyRequest, rpcs.server_ready)
    yield path["ModelReady"], unary(gate, Scope.READ, oip.ModelReadyRequest, rpcs.model_ready)
    yield path["ServerMetadata"], unary(gate, Scope.READ, oip.ServerMetadataRequest, rpcs.server_metadata)
    yield path["ModelMetadata"], unary(gate, Scope.READ, oip.ModelMetadataRequest, rpcs.model_metadata)
    yield path["ModelConfig"], unary(gate, Scope.READ, oip.ModelConfigRequest, rpcs.model_config)
    yield path["ModelStatistics"], unary(gate, Scope.READ, oip.ModelStatisticsRequest, rpcs.model_statistics)
    yield path["RepositoryIndex"], unary(gate, Scope.READ, oip.RepositoryIndexRequest, rpcs.repository_index)
    yield path["RepositoryModelLoad"], unary(gate, Scope.ADMIN, oip.RepositoryModelLoadRequest, rpcs.repository_load)
    yield (
        path["RepositoryModelUnload"],
        unary(gate, Scope.ADMIN, oip.RepositoryModelUnloadRequest, rpcs.repository_unload),
    )
    yield path["TraceSetting"], unary(gate, Scope.ADMIN, oip.TraceSettingRequest, rpcs.trace_setting)
    yield path["LogSettings"], unary(gate, Scope.ADMIN, oip.LogSettingsRequest, rpcs.log_settings)
    yield from _shared_memory(wire, path)


def _identification(wire: Wire) -> Identification:
    """Add the extension that only some servers have."""
    said = wire.identification
    return said if wire.shared_memory is None else replace(said, extensions=(*said.extensions, "system_shared_memory"))


def _shared_memory(wire: Wire, path: Mapping[str, str]) -> Iterator[tuple[str, Unary]]:
    regions = None if wire.shared_memory is None else Regions(wire.shared_memory)
    for verb in ("Status", "Register", "Unregister"):
        for kind, offered in (("System", regions), ("Cuda", None)):
            name = f"{kind}SharedMemory{verb}"
            handler = refuse if offered is None else getattr(offered, verb.lower())
            yield path[name], unary(wire.gate, Scope.ADMIN, getattr(oip, f"{name}Request"), handler)


def _predictions(wire: Wire) -> Iterator[tuple[str, Fast]]:
    pool = ThreadPoolExecutor(_DECODERS, thread_name_prefix="images")
    path = paths(PREDICTIONS)
    for name, question in QUESTIONS.items():
        handler = TypedHandler(wire.gate, wire.catalog, wire.queue, question, pool, distant=wire.distant)
        yield path[name], Fast(handler, Shedding(wire.gate, path[name]))


def _health(wire: Wire, served: list[ServiceDescriptor]) -> Iterator[tuple[str, Unary | Streaming]]:
    health = Health(wire.catalog, wire.lifecycle, {service.full_name for service in served})
    path = paths(HEALTH)
    yield path["Check"], unary(wire.gate, None, health_pb2.HealthCheckRequest, health.check)
    yield path["List"], unary(wire.gate, None, health_pb2.HealthListRequest, health.list)
    yield path["Watch"], streaming(wire.gate, None, health.watch)


def _without_jobs(gate: Gate) -> Iterator[tuple[str, Unary | Streaming]]:
    def refusal() -> NeedsRedis:
        return NeedsRedis(
            "durable jobs need Redis: start the server with --queue redis://HOST:PORT/DB, this one has --queue memory"
        )

    async def refuse(_: Message) -> Message:
        raise refusal()

    async def refuse_stream(_: Stream) -> None:
        raise refusal()

    for method in JOBS.methods:
        path = f"/{JOBS.full_name}/{method.name}"
        if method.server_streaming:
            yield path, streaming(gate, Scope.INFER, refuse_stream)
        else:
            yield path, unary(gate, Scope.INFER, getattr(sluice_pb2, method.input_type.name), refuse)
