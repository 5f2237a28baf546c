"""grpc.health.v1: the state of the server ("" or one of its services) and of each model, asked once or watched.

No credentials are needed: probes have none, and a state tells nothing that refusing a request would not.
The messages are grpcio-health-checking's; nothing else of that package is used.
"""

from collections.abc import Collection

from grpc_health.v1 import health_pb2

from server.catalog import Catalog
from server.errors import InvalidRequest, ModelNotFound, NotFound, ServingError
from server.transports.base import Stream
from server.wire.lifecycle import Lifecycle, rung
from server.wire.reader import find_model
from server.wire.rpc import parse
from server.wire.text import quote

_SERVING: int = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING: int = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN: int = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
_RECHECK = 1.0
"""Seconds after which a watched model is looked at again though nobody rang: its child process may have died."""


class Health:
    """Check and Watch over a catalog and a lifecycle; `services` share the server's state."""

    def __init__(self, catalog: Catalog, lifecycle: Lifecycle, services: Collection[str]) -> None:
        self._catalog = catalog
        self._lifecycle = lifecycle
        self._services = services

    async def check(self, request: health_pb2.HealthCheckRequest) -> health_pb2.HealthCheckResponse:
        """Answer once.

        Raises:
            NotFound: `service` is neither empty, nor a service, nor a model.
        """
        status = self._status(request.service)
        if status == _UNKNOWN:
            raise NotFound(f"no service or model {quote(request.service)}")
        return health_pb2.HealthCheckResponse(status=status)

    async def list(self, _: health_pb2.HealthListRequest) -> health_pb2.HealthListResponse:
        """Answer for the server, each of its services and each model known."""
        names = ["", *self._services, *(entry.name for entry in self._catalog.index())]
        return health_pb2.HealthListResponse(
            statuses={name: health_pb2.HealthCheckResponse(status=self._status(name)) for name in names}
        )

    async def watch(self, stream: Stream) -> None:
        """Answer at once and again after every change, until the caller goes."""
        data = b""
        async for message in stream:
            data = message
            break
        service: str = parse(health_pb2.HealthCheckRequest, data).service
        last: int | None = None
        while True:
            with self._lifecycle.bell() as bell:
                status = self._status(service)
                if status != last:
                    await stream.send(health_pb2.HealthCheckResponse(status=status).SerializeToString())
                    last = status
                await rung(bell, _RECHECK)

    def _status(self, service: str) -> int:
        if not service or service in self._services:
            return _SERVING if self._lifecycle.ready and self._catalog.ready() else _NOT_SERVING
        try:
            find_model(self._catalog, service, "")
        except (ModelNotFound, InvalidRequest):
            return _UNKNOWN
        except ServingError:
            return _NOT_SERVING
        return _NOT_SERVING if self._lifecycle.draining else _SERVING
