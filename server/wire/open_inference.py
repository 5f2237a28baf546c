"""The rare RPCs of inference.GRPCInferenceService: what serves, what it promises, how it fares, and changing that.

Each method takes the parsed request and returns the answer; rpc.py frames it. Where Triton's behaviour is what clients
rely on, that is what happens here: ModelReady of an unknown model is `false`, not an error.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from server.catalog import Catalog
from server.errors import InvalidRequest, NotFound, ServingError, Unimplemented
from server.pb import open_inference_pb2 as pb
from server.wire import describe
from server.wire.lifecycle import Lifecycle
from server.wire.log_settings import level_asked_for, shown
from server.wire.reader import find_model
from server.wire.text import quote

EXTENSIONS = (
    "statistics",
    "model_repository",
    "model_configuration",
    "binary_tensor_data",
    "parameters",
    "schedule_policy",
    "classification",
    "logging",
)
"""Those of protocol.md that are implemented whatever the settings; system_shared_memory comes with its flag."""


class LogLevels(Protocol):
    """The log level, which LogSettings reads and changes."""

    def get(self) -> str:
        """Return debug, info, warning or error."""

    def set(self, level: str) -> None:
        """Log from this level on."""


@dataclass(frozen=True, slots=True)
class Identification:
    """What ServerMetadata says of the server."""

    name: str
    version: str
    extensions: tuple[str, ...] = EXTENSIONS


class OpenInference:
    """Answers about the models of a catalog; on the slow lane's event loop."""

    def __init__(self, catalog: Catalog, lifecycle: Lifecycle, identification: Identification, log: LogLevels) -> None:
        self._catalog = catalog
        self._lifecycle = lifecycle
        self._identification = identification
        self._log = log

    async def server_live(self, _: pb.ServerLiveRequest) -> pb.ServerLiveResponse:
        """Whether the process is worth keeping."""
        return pb.ServerLiveResponse(live=self._lifecycle.live)

    async def server_ready(self, _: pb.ServerReadyRequest) -> pb.ServerReadyResponse:
        """Whether every model that should serve does."""
        return pb.ServerReadyResponse(ready=self._lifecycle.ready and self._catalog.ready())

    async def model_ready(self, request: pb.ModelReadyRequest) -> pb.ModelReadyResponse:
        """Whether a request for this model would be taken now."""
        if self._lifecycle.draining:
            return pb.ModelReadyResponse(ready=False)
        try:
            find_model(self._catalog, request.name, request.version)
        except InvalidRequest:
            raise
        except ServingError:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=True)

    async def server_metadata(self, _: pb.ServerMetadataRequest) -> pb.ServerMetadataResponse:
        """Name, version and the protocol extensions this server has."""
        who = self._identification
        return pb.ServerMetadataResponse(name=who.name, version=who.version, extensions=who.extensions)

    async def model_metadata(self, request: pb.ModelMetadataRequest) -> pb.ModelMetadataResponse:
        """The tensors of a version, and the versions in service."""
        model = find_model(self._catalog, request.name, request.version)
        versions = [request.version] if request.version else self._catalog.versions(request.name)
        return describe.metadata(model, versions)

    async def model_config(self, request: pb.ModelConfigRequest) -> pb.ModelConfigResponse:
        """How a version is served, gaps of its config.pbtxt filled."""
        model = find_model(self._catalog, request.name, request.version)
        return pb.ModelConfigResponse(config=describe.config(model.spec))

    async def model_statistics(self, request: pb.ModelStatisticsRequest) -> pb.ModelStatisticsResponse:
        """Counters of one version, of every version of a model, or of everything in service."""
        if request.name:
            versions = [request.version] if request.version else self._catalog.versions(request.name)
            asked = [(request.name, version) for version in versions]
        else:
            asked = [(entry.name, entry.version) for entry in self._catalog.index() if entry.state == "READY"]
        models = [find_model(self._catalog, name, version) for name, version in asked]
        return pb.ModelStatisticsResponse(
            model_stats=[describe.statistics(model.spec, model.statistics()) for model in models]
        )

    async def repository_index(self, request: pb.RepositoryIndexRequest) -> pb.RepositoryIndexResponse:
        """Every model and version known, or with `ready` those in service."""
        _check_repository(request.repository_name)
        return pb.RepositoryIndexResponse(
            models=[
                pb.RepositoryIndexResponse.ModelIndex(
                    name=entry.name, version=entry.version, state=entry.state, reason=entry.reason
                )
                for entry in self._catalog.index()
                if entry.state == "READY" or not request.ready
            ]
        )

    async def repository_load(self, request: pb.RepositoryModelLoadRequest) -> pb.RepositoryModelLoadResponse:
        """Load a model, or load it again; returns when it serves."""
        _check_repository(request.repository_name)
        await self._catalog.load(request.model_name, _values(request.parameters))
        self._lifecycle.ring()
        return pb.RepositoryModelLoadResponse()

    async def repository_unload(self, request: pb.RepositoryModelUnloadRequest) -> pb.RepositoryModelUnloadResponse:
        """Take a model out of service after its requests in flight."""
        _check_repository(request.repository_name)
        await self._catalog.unload(request.model_name)
        self._lifecycle.ring()
        return pb.RepositoryModelUnloadResponse()

    async def trace_setting(self, _: pb.TraceSettingRequest) -> pb.TraceSettingResponse:
        """Triton's traces are not offered; the request log and the metrics are."""
        raise Unimplemented("this server writes no traces; the request log and /metrics have the timings")

    async def log_settings(self, request: pb.LogSettingsRequest) -> pb.LogSettingsResponse:
        """Read and change the log level under Triton's names for it (see log_settings.py)."""
        if request.settings:
            self._log.set(level_asked_for(request, self._log.get()))
        return shown(self._log.get())


def _check_repository(name: str) -> None:
    if name:
        raise NotFound(f"no repository {quote(name)}: this server has one, without a name")


def _values(parameters: Mapping[str, pb.ModelRepositoryParameter]) -> dict[str, object]:
    """Return the parameters as plain values. Raises InvalidRequest for one without a value."""
    values: dict[str, object] = {}
    for name, parameter in parameters.items():
        kind = parameter.WhichOneof("parameter_choice")
        if kind is None:
            raise InvalidRequest(f"parameter {quote(name)}: expected a value, got none")
        values[name] = getattr(parameter, kind)
    return values
