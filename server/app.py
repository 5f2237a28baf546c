"""Builds everything and owns the order in which it starts and stops.

Start: each step needs the ones before it, and the gRPC port opens last, so being reachable means being ready.

    1  probes           first, so that a start-up probe has somebody to ask: alive, not ready
    2  Redis            if the queue is there: the link, and whether it keeps what we would promise
    3  models           loaded, warmed and proven in session children          (roles all and worker)
    4  claims           the worker's end of the queue, announcing what serves   (with Redis)
    5  front            the HTTP port, then the gRPC port                       (roles all and frontend)
                        with --frontends in processes of their own, which step 1 has started
    6  health turns SERVING; the one line that says where

Stop: the reverse, with everything accepted answered on the way.

    1  readiness and health say no, so that balancers look elsewhere; models no longer change
    2  go on accepting for `drain_delay_seconds`, because they look with a delay
    3  gRPC refuses new calls (GOAWAY) while those in flight finish; HTTP likewise
    4  claims: what is held is finished or handed back; then the schedulers answer what is queued
    5  sessions close, their memory goes back; Redis closes; probes last; exit 0

A watchdog thread ends the process when all that takes longer than it may: the loop itself may be what hangs.
"""

import asyncio
import faulthandler
import logging
import os
import signal
import sys
import threading
from http import HTTPStatus

from server import __version__, collector, log
from server.assembly import redis_options, tracing
from server.catalog import Catalog
from server.errors import ServingError
from server.fleet.catalog import RemoteCatalog
from server.fleet.ends import BrokerUnusable, RedisEnds
from server.front import Front
from server.frontends import Behind, Frontends
from server.link.child import FrontendFailed
from server.local import LocalModels
from server.metrics import Metrics, Sources
from server.probes import Page, ProbeServer, plain
from server.queues.base import Queue
from server.settings import Settings
from server.store import StoreError
from server.transports.base import Gather
from server.wire.lifecycle import Lifecycle
from server.worklog import WorkLog

DRAIN_MARGIN = 10.0
"""Seconds beyond the drain's own in which sessions close, before the watchdog ends the process."""


FLUSH_SECONDS = 5.0
"""Of that margin, what a collector may take to hear the last spans."""


class StartupError(Exception):
    """The server cannot start; the text is the one line that goes to stderr before exit code 2."""


class App:
    """One serving process. `run` returns its exit code."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lifecycle = Lifecycle()
        self._metrics = Metrics(__version__)
        self._probes = ProbeServer(self._pages())
        self._models: LocalModels | None = None
        self._ends: RedisEnds | None = None
        self._front: Front | Frontends | None = None
        self._frontends: Frontends | None = None
        self._catalog: Catalog | None = None
        self._tracing = tracing(settings)

    async def run(self) -> int:
        """Serve until SIGTERM or SIGINT; 0 after a clean stop.

        Raises:
            StartupError: in one sentence.
        """
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        log.event("starting", version=__version__, pid=os.getpid(), role=self._settings.role)
        stopped, started = asyncio.create_task(stop.wait()), asyncio.create_task(self._start())
        try:
            await asyncio.wait((stopped, started), return_when=asyncio.FIRST_COMPLETED)
            if started.done():
                await started
                await stopped
                await self._drain()
        except (StoreError, ServingError, OSError, BrokerUnusable, FrontendFailed) as error:
            raise StartupError(_one_line(error)) from error
        finally:
            started.cancel()
            stopped.cancel()
            await self._close()
        log.event("stopped")
        return 0

    async def _start(self) -> None:
        settings = self._settings
        ports = {"metrics": self._probes.start(settings.host, settings.metrics_port)}
        if settings.frontends > 1:
            self._front = self._frontends = Frontends(settings, self._lifecycle, self._metrics.requests.snapshot)
            self._frontends.spawn()
        if settings.queue != "memory":
            self._ends = RedisEnds(redis_options(settings))
            await self._ends.open()
        if settings.role != "frontend":
            await self._start_models()
        if settings.role != "worker":
            ports = dict(zip(("grpc", "http"), await self._start_front(), strict=True)) | ports
        self._metrics.read_from(self._sources())
        collector.settle()
        self._lifecycle.set(ready=True)
        print("listening", *(f"{name}={settings.host}:{port}" for name, port in ports.items()), flush=True)  # noqa: T201
        log.event("ready", role=settings.role, transport=self._metrics.transport)

    async def _start_models(self) -> None:
        models = self._models = LocalModels(self._settings, self, self._frontends)
        await models.repository.start()
        if not models.repository.served() and self._settings.model_control == "none":
            raise StartupError(f"no model could be loaded: {models.unready()}")
        self._catalog = models.repository
        if self._ends is not None:
            written = WorkLog(self._settings.log_requests_per_second, self._tracing)
            await self._ends.open_workers(models.targets, written.worked)

    async def _start_front(self) -> tuple[int, int]:
        ends, models = self._ends, self._models
        queue: Queue
        gather: Gather | None = None
        if ends is not None:
            await ends.open_frontend()
            assert ends.queue is not None, "open_frontend() makes it"  # noqa: S101 - narrows for mypy
            queue = ends.queue
            self._catalog = self._catalog or RemoteCatalog(ends.served)
        else:
            assert models is not None, "settings refuse a frontend without Redis"  # noqa: S101 - ditto
            queue, gather = models.queue, models.bundle
        assert self._catalog is not None, "either end brings one"  # noqa: S101 - ditto
        jobs = ends.jobs if ends is not None else None
        front = Front(
            self._settings,
            self._lifecycle,
            self._metrics,
            self._catalog,
            queue,
            jobs,
            tracing=self._tracing,
            gather=gather,
        )
        if self._frontends is None:
            self._front = front
            ports = await front.open()
        else:  # that one opens no port; what it would answer it answers for them
            ports = await self._frontends.open(Behind(self._catalog, queue, front.table))
        self._metrics.transport = front.transport_name
        return ports

    async def _drain(self) -> None:
        settings = self._settings
        self._watch(settings.drain_delay_seconds + settings.drain_seconds + DRAIN_MARGIN)
        log.event("draining", inflight=self._inflight(), seconds=settings.drain_seconds)
        self._lifecycle.set(draining=True)
        if self._models is not None:
            self._models.repository.announce_drain()
        await asyncio.sleep(settings.drain_delay_seconds)
        if self._front is not None:
            await self._front.drain(settings.drain_seconds)
        if self._ends is not None:
            await self._ends.drain(settings.drain_seconds)
        if self._models is not None:
            await self._models.repository.drain()

    async def _close(self) -> None:
        for part in (self._front, self._models, self._ends):
            if part is not None:
                await part.close()
        if self._tracing is not None:
            await asyncio.to_thread(self._tracing.close, min(self._settings.drain_seconds, FLUSH_SECONDS))
        self._probes.close()

    def _watch(self, seconds: float) -> None:
        def end() -> None:
            log.event("drain_timed_out", logging.ERROR, inflight=self._inflight(), seconds=seconds)
            faulthandler.dump_traceback(sys.stderr)
            os._exit(1)

        watchdog = threading.Timer(seconds, end)
        watchdog.daemon = True
        watchdog.start()

    # What the repository tells (repository.Observer): a model came, went or failed.

    def on_loaded(self, name: str, version: str) -> None:  # noqa: ARG002 - all that matters is that something changed
        """Tell health watchers and the worker's end."""
        self._changed()
        if self._ends is not None and self._ends.fleet is not None:
            self._ends.fleet.changed()

    def on_failed(self, name: str, version: str, reason: str) -> None:  # noqa: ARG002 - ditto
        """Tell health watchers."""
        self._changed()

    def on_unloaded(self, name: str, version: str) -> None:
        """Tell health watchers and the worker's end."""
        self.on_loaded(name, version)

    def _changed(self) -> None:
        if self._frontends is not None:
            self._frontends.announce()
        self._lifecycle.ring()

    # What the probes and metrics ask.

    def _inflight(self) -> int:
        return self._front.inflight if self._front is not None else 0

    def _sources(self) -> Sources:
        models, ends = self._models, self._ends
        queue = models.queue if models is not None else ends.queue if ends is not None else None
        jobs = ends.jobs if ends is not None else None
        return Sources(
            models=models.snapshots if models is not None else list,
            queues=queue.statistics if queue is not None else dict,
            inflight=self._inflight,
            load_failures=models.repository.load_failures if models is not None else dict,
            jobs=jobs.statistics if jobs is not None else None,
            requests=self._frontends.counts if self._frontends is not None else None,
            frontends=self._frontends.snapshots if self._frontends is not None else None,
            gpus=models.gpus if models is not None else None,
            cache=models.cache.statistics if models is not None and models.cache is not None else None,
        )

    def _pages(self) -> dict[str, Page]:
        def metrics(accept: str) -> tuple[HTTPStatus, str, bytes]:
            return HTTPStatus.OK, *self._metrics.render(accept)

        return {"/metrics": metrics, "/livez": plain(lambda: ""), "/readyz": plain(self._unready)}

    def _unready(self) -> str:
        if self._lifecycle.draining:
            return "draining"
        if not self._lifecycle.ready or self._catalog is None:
            return "starting: the models are loading"
        if self._catalog.ready():
            return ""
        why = self._models.unready() if self._models is not None else "no worker serves any"
        return f"not every model serves: {why}"


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"cannot listen: {error.strerror}"
    return str(error)
