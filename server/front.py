"""The side of this process that takes calls: gRPC and HTTP in front of a catalog and a queue, whoever they belong to.

A worker has none of this.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace

from server import __version__, log, traceparent
from server.accounting import Accountant, Traced
from server.assembly import credentials, transport_options, wire_limits
from server.catalog import Catalog
from server.jobs import JobStore
from server.metrics import Metrics
from server.queues.base import Queue
from server.rest.server import RestServer
from server.settings import Settings
from server.spans import Tracing
from server.transports.base import Gather, Ledger, Methods
from server.transports.choose import choose
from server.wire.admission import Admission
from server.wire.gate import Gate
from server.wire.jobs import JobsService
from server.wire.lifecycle import Lifecycle
from server.wire.open_inference import Identification
from server.wire.reader import Reader
from server.wire.services import Wire, methods
from server.wire.shared_memory import SharedMemory


@dataclass(frozen=True, slots=True)
class Shared:
    """What is different in a process that shares its ports with others, and an engine with them."""

    forwarded: Callable[[Methods], Methods]
    """Has the engine answer some of the methods."""
    gather: Gather | None
    """What sends requests to the engine's queue; None where they go to Redis."""
    written_down: Callable[[Ledger], None] | None
    """Has answers written down by the thread on which they come from the engine; None where they come from Redis."""


class Front:
    """Both ports. Raises InvalidSettings (a file)."""

    def __init__(  # noqa: PLR0913 - all that a front stands on
        self,
        settings: Settings,
        lifecycle: Lifecycle,
        metrics: Metrics,
        catalog: Catalog,
        queue: Queue,
        jobs: JobStore | None,
        *,
        tracing: Tracing | None = None,
        gather: Gather | None = None,
        shared: Shared | None = None,
    ) -> None:
        self._settings = settings
        limits = wire_limits(settings)
        self._admission = Admission(limits)
        accountant = Accountant(metrics.requests, settings.log_requests_per_second)
        observer = accountant if tracing is None else Traced(accountant, tracing)
        # without traces of our own, workers elsewhere still write the caller's trace id into their logs
        passed_on = traceparent.given if settings.queue != "memory" else None
        begin_trace = tracing.begin if tracing is not None else passed_on
        gate = Gate(limits, credentials(settings), self._admission, observer, begin_trace)
        prefix = settings.shared_memory_prefix
        self.table = methods(
            Wire(
                gate=gate,
                catalog=catalog,
                queue=queue,
                lifecycle=lifecycle,
                identification=Identification("sluice", __version__),
                log=log.Levels(),
                reflection=settings.reflection,
                distant=shared is not None and shared.gather is not None,
                # a job's tensors must still be there when it runs, so its reader takes none in shared memory
                jobs=JobsService(jobs, Reader(catalog, limits), limits).methods(gate) if jobs is not None else None,
                shared_memory=SharedMemory(prefix) if prefix else None,
            )
        )
        """The handlers of every method, for whoever has calls from elsewhere."""
        options = transport_options(settings)
        if shared is not None:
            self.table, gather = shared.forwarded(self.table), shared.gather
            options = replace(options, reuse_port=True)
        ledger: Ledger | None = accountant
        if shared is not None and shared.written_down is not None:
            shared.written_down(accountant)
            ledger = None
        self._transport = choose(settings.transport, self.table, options, gather, ledger)
        self._rest = RestServer(self.table, limits.max_message_bytes, reuse_port=shared is not None)
        self.transport_name = self._transport.name

    @property
    def inflight(self) -> int:
        """Inference requests accepted and not yet answered."""
        return self._admission.inflight

    async def open(self) -> tuple[int, int]:
        """Open HTTP, then gRPC, and return the gRPC and the HTTP port. Raises OSError."""
        settings = self._settings
        http_port = await self._rest.start(settings.host, settings.http_port)
        return await self._transport.start(settings.host, settings.grpc_port), http_port

    async def drain(self, grace: float) -> None:
        """Refuse new calls and let those in flight finish within `grace` seconds."""
        await asyncio.gather(self._transport.drain(grace), self._rest.close())
        self._admission.close()

    async def close(self) -> None:
        """Stop at once. Idempotent."""
        await self._transport.close()
        await self._rest.close()
