"""One version in service, and what the repository asks of the queue in front of it.

This module must never know the store, a wire or a runtime.
"""

import threading
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from server.sessions.base import LoadedModel
from server.spec import ModelVersion
from server.statistics import ModelStatistics
from server.store import Stamp


class Service(Protocol):
    """The queue of one version, as far as its coming and going is concerned; `Scheduler` is one."""

    def drain(self, done: Callable[[], None]) -> None:
        """Refuse new requests with an Unavailable error; call `done`, from any thread, when all others are answered."""

    def close(self) -> None:
        """Answer whatever is left. Idempotent."""

    def statistics(self) -> ModelStatistics:
        """Return a snapshot of the counters."""


S = TypeVar("S", bound=Service)


class Served(Generic[S]):
    """A version that is loaded, and its queue."""

    def __init__(self, source: ModelVersion, files: tuple[Stamp, ...], loaded: LoadedModel, scheduler: S) -> None:
        self.source = source
        self.files = files
        """What its directory held when it was loaded."""
        self.loaded = loaded
        self.scheduler = scheduler
        self.spec = loaded.spec
        self.provider = loaded.provider
        self._closing = threading.Lock()

    @property
    def name(self) -> str:
        """The model."""
        return self.spec.name

    @property
    def version(self) -> str:
        """The version, a decimal number."""
        return self.spec.version

    def statistics(self) -> ModelStatistics:
        """Return a snapshot of its counters since it was loaded."""
        return self.scheduler.statistics()

    def close(self, grace: float) -> None:
        """Answer what is left in the queue and give back sessions and memory.

        Blocks for at most `grace` seconds per instance. Idempotent; may be called from several threads.
        """
        with self._closing:
            self.scheduler.close()
            for instance in self.loaded.instances:
                instance.close(grace)
