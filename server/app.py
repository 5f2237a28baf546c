"""Builds everything and owns the order in which it starts and stops; the only module that knows every concrete class.

Start: each step needs the ones before it, and the gRPC port opens last, so being reachable means being ready.

    1  probes           first, so that a start-up probe has somebody to ask: alive, not ready
    2  model repository loads, warms and proves the models, in session children
    3  HTTP port, then gRPC port; readiness and health turn SERVING; the one line that says where

Stop: the reverse, with everything accepted answered on the way.

    1  readiness and health say no, so that balancers look elsewhere; models no longer change
    2  go on accepting for `drain_delay_seconds`, because they look with a delay
    3  gRPC refuses new calls (GOAWAY) while those in flight finish; HTTP likewise
    4  the schedulers answer what is queued; sessions close; memory goes back
    5  probes close; exit 0

A watchdog thread ends the process when all that takes longer than it may: the loop itself may be what hangs.
"""

import asyncio
import faulthandler
import os
import signal
import sys
import threading
from collections.abc import Iterable
from http import HTTPStatus

from server import __version__, log
from server.accounting import Accountant
from server.alarm import ThreadAlarm
from server.assembly import Queued, credentials, make_schedulers, session_options, transport_options, wire_limits
from server.errors import ServingError
from server.metrics import Metrics, ModelSnapshot, Sources
from server.modelconfig import resolve
from server.probes import Page, ProbeServer, plain
from server.queues.memory import MemoryQueue
from server.repository import Options, Repository
from server.rest.server import RestServer
from server.sessions.loader import ModelLoader
from server.settings import Settings
from server.store import Store, StoreError
from server.transports.base import Methods, Transport
from server.transports.choose import TransportUnavailable, choose
from server.wire.admission import Admission
from server.wire.gate import Gate
from server.wire.lifecycle import Lifecycle
from server.wire.open_inference import Identification
from server.wire.services import Wire, methods
from server.wire.shared_memory import SharedMemory

DRAIN_MARGIN = 10.0
"""Seconds beyond the drain's own in which sessions close, before the watchdog ends the process."""


class StartupError(Exception):
    """The server cannot start; the text is the one line that goes to stderr before exit code 2."""


class App:
    """One serving process. `run` returns its exit code."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lifecycle = Lifecycle()
        self._metrics = Metrics(__version__)
        self._alarm = ThreadAlarm()
        self._repository = self._make_repository()
        self._queue = MemoryQueue(self._repository.scheduler, self._targets)
        limits = wire_limits(settings)
        self._admission = Admission(limits)
        accountant = Accountant(self._metrics.requests, settings.log_requests_per_second)
        gate = Gate(limits, credentials(settings), self._admission, accountant)
        prefix = settings.shared_memory_prefix
        wire = Wire(
            gate=gate,
            catalog=self._repository,
            queue=self._queue,
            lifecycle=self._lifecycle,
            identification=Identification("sluice", __version__),
            log=log.Levels(),
            reflection=settings.reflection,
            shared_memory=SharedMemory(prefix) if prefix else None,
        )
        table = methods(wire)
        self._transport = _transport(settings, table)
        self._rest = RestServer(table, limits.max_message_bytes)
        self._probes = ProbeServer(self._pages())

    async def run(self) -> int:
        """Serve until SIGTERM or SIGINT; 0 after a clean stop.

        Raises:
            StartupError: in one sentence.
        """
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        log.event("starting", version=__version__, pid=os.getpid(), store=str(self._settings.model_store))
        stopped, started = asyncio.create_task(stop.wait()), asyncio.create_task(self._start())
        try:
            await asyncio.wait((stopped, started), return_when=asyncio.FIRST_COMPLETED)
            if started.done():
                await started
                await stopped
                await self._drain()
        except (StoreError, ServingError, OSError) as error:
            raise StartupError(_one_line(error)) from error
        finally:
            started.cancel()
            stopped.cancel()
            await self._close()
        log.event("stopped")
        return 0

    async def _start(self) -> None:
        settings = self._settings
        self._metrics.read_from(self._sources())
        metrics_port = self._probes.start(settings.host, settings.metrics_port)
        await self._repository.start()
        if not self._repository.served() and settings.model_control == "none":
            raise StartupError(f"no model could be loaded: {self._reasons()}")
        http_port = await self._rest.start(settings.host, settings.http_port)
        grpc_port = await self._transport.start(settings.host, settings.grpc_port)
        self._metrics.transport = self._transport.name
        self._lifecycle.set(ready=True)
        addresses = zip(("grpc", "http", "metrics"), (grpc_port, http_port, metrics_port), strict=True)
        print("listening", *(f"{name}={settings.host}:{port}" for name, port in addresses), flush=True)  # noqa: T201
        log.event("ready", transport=self._transport.name, models=len(self._repository.served()))

    async def _drain(self) -> None:
        settings = self._settings
        self._watch(settings.drain_delay_seconds + settings.drain_seconds + DRAIN_MARGIN)
        log.event("draining", inflight=self._admission.inflight, seconds=settings.drain_seconds)
        self._lifecycle.set(draining=True)
        self._repository.announce_drain()
        await asyncio.sleep(settings.drain_delay_seconds)
        await asyncio.gather(self._transport.drain(settings.drain_seconds), self._rest.close())
        self._admission.close()
        await self._repository.drain()

    async def _close(self) -> None:
        await self._transport.close()
        await self._rest.close()
        await self._repository.close()
        self._alarm.close()
        self._probes.close()

    def _watch(self, seconds: float) -> None:
        def end() -> None:
            log.event("drain_timed_out", inflight=self._admission.inflight, seconds=seconds)
            faulthandler.dump_traceback(sys.stderr)
            os._exit(1)

        watchdog = threading.Timer(seconds, end)
        watchdog.daemon = True
        watchdog.start()

    def _make_repository(self) -> Repository[Queued]:
        settings = self._settings
        loader = ModelLoader(session_options(settings), resolve)
        options = Options(
            control=settings.model_control,
            startup=settings.load_model,
            poll_seconds=settings.poll_seconds,
            strict_readiness=settings.strict_readiness,
            drain_timeout=settings.drain_seconds,
        )
        make = make_schedulers(settings, self._alarm)
        return Repository(Store(settings.model_store), loader, make, options, [_Bell(self._lifecycle)])

    def _targets(self) -> Iterable[Queued]:
        return [served.scheduler for served in self._repository.served()]

    def _sources(self) -> Sources:
        return Sources(
            models=self._snapshots,
            queues=self._queue.statistics,
            inflight=lambda: self._admission.inflight,
            load_failures=self._repository.load_failures,
        )

    def _snapshots(self) -> list[ModelSnapshot]:
        return [
            ModelSnapshot(
                served.name,
                served.version,
                served.provider,
                served.loaded.load_seconds,
                sum(instance.restarts for instance in served.loaded.instances),
                served.statistics(),
            )
            for served in self._repository.served()
        ]

    def _pages(self) -> dict[str, Page]:
        def metrics() -> tuple[HTTPStatus, str, bytes]:
            return HTTPStatus.OK, self._metrics.content_type, self._metrics.render()

        return {"/metrics": metrics, "/livez": plain(lambda: ""), "/readyz": plain(self._unready)}

    def _unready(self) -> str:
        if self._lifecycle.draining:
            return "draining"
        if not self._lifecycle.ready:
            return "models are loading"
        return "" if self._repository.ready() else f"not every model serves: {self._reasons()}"

    def _reasons(self) -> str:
        return "; ".join(
            f"{entry.name}: {entry.reason}" for entry in self._repository.index() if entry.state == "UNAVAILABLE"
        )


class _Bell:
    """Rings for health watchers when a model comes or goes; implements repository.Observer."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle

    def on_loaded(self, name: str, version: str) -> None:  # noqa: ARG002 - the bell says only that something changed
        self._lifecycle.ring()

    def on_failed(self, name: str, version: str, reason: str) -> None:  # noqa: ARG002 - ditto
        self._lifecycle.ring()

    def on_unloaded(self, name: str, version: str) -> None:  # noqa: ARG002 - the bell says only that something changed
        self._lifecycle.ring()


def _transport(settings: Settings, table: Methods) -> Transport:
    try:
        return choose(settings.transport, table, transport_options(settings))
    except TransportUnavailable as error:
        raise StartupError(str(error)) from error


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"cannot listen: {error.strerror}"
    return str(error)
