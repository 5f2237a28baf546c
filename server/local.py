"""The models that this process has sessions for: loaded, queued for, drained, given back.

A frontend without sessions has none of this. This module must never know a wire or a transport.
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager

from server.alarm import ThreadAlarm
from server.assembly import Queued, make_schedulers, session_options, shared_cache
from server.bundle import Bundle
from server.fleet.workers import Target
from server.gpu import GpuReader
from server.metrics import ModelSnapshot
from server.modelconfig import resolve
from server.queues.memory import MemoryQueue
from server.repository import Observer, Options, Repository
from server.sessions.loader import ModelLoader
from server.settings import Settings
from server.store import Store


class LocalModels:
    """A repository, and the in-process queue in front of its schedulers."""

    def __init__(
        self, settings: Settings, observer: Observer, together: AbstractContextManager[None] | None = None
    ) -> None:
        self._alarm = ThreadAlarm()
        options = Options(
            control=settings.model_control,
            startup=settings.load_model,
            poll_seconds=settings.poll_seconds,
            strict_readiness=settings.strict_readiness,
            drain_timeout=settings.drain_seconds,
        )
        loader = ModelLoader(session_options(settings), resolve)
        self.cache = shared_cache(settings)
        if self.cache is not None:
            self.cache.start()
        self.bundle = Bundle()
        """Starts what a transport's thread submits, once for all that it has at hand."""
        make = make_schedulers(settings, self._alarm, self.cache, together, self.bundle)
        self.repository: Repository[Queued] = Repository(Store(settings.model_store), loader, make, options, [observer])
        self.gpus = GpuReader().read if settings.device != "cpu" else None
        """What reads the GPUs for the metrics; nothing is touched before the first scrape."""
        self.queue = MemoryQueue(self.repository.scheduler, self._schedulers)

    def unready(self) -> str:
        """Return which models do not serve, and why."""
        return "; ".join(
            f"{entry.name}: {entry.reason}" for entry in self.repository.index() if entry.state == "UNAVAILABLE"
        )

    def targets(self) -> list[Target]:
        """Return what a worker claims for."""
        return [
            Target(
                spec=served.spec,
                provider=served.provider,
                submit=served.scheduler.submit,
                capacity=2 * served.scheduler.max_batch_rows * len(served.loaded.instances),
                newest=self.repository.scheduler(served.name, "") is served.scheduler,
            )
            for served in self.repository.served()
        ]

    def snapshots(self) -> list[ModelSnapshot]:
        """Return what the metrics tell about each version in service."""
        return [
            ModelSnapshot(
                served.name,
                served.version,
                served.provider,
                served.loaded.load_seconds,
                sum(instance.restarts for instance in served.loaded.instances),
                served.statistics(),
                served.scheduler.cost_points(),
                served.scheduler.max_batch_rows,
                served.spec.precision,
            )
            for served in self.repository.served()
        ]

    async def close(self) -> None:
        """Give everything back. Idempotent."""
        await self.repository.close()
        self._alarm.close()
        if self.cache is not None:
            self.cache.close()

    def _schedulers(self) -> Iterable[Queued]:
        return [served.scheduler for served in self.repository.served()]
