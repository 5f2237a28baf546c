"""The models of this process: what the wire asks about them, and who may change them when.

    none        every model of the store is loaded at start; nothing changes after that
    poll        the same, and the store is looked at again every few seconds
    explicit    only the models named at start are loaded, the others when RepositoryModelLoad asks for them; the store
                is looked at all the same, so that the index shows what could be loaded

What readers see is a snapshot that is replaced whole, so `find` takes no lock and works on any thread. All changes
happen on one event loop, one at a time per model, and everything that blocks runs in a thread of its own. A caller
of `load` or `unload` who goes away does not stop what it started. How a switch loses no request, and what a caller
must do who meets one half-way, is told in turnover.py.
This module must never know a wire, a transport or a runtime.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Generic

from server import log
from server.catalog import IndexEntry, missing
from server.errors import FailedPrecondition, ModelNotFound, ServingError, ShuttingDown
from server.repository.options import Options, override_of
from server.repository.rounds import Loading
from server.repository.served import S, Served
from server.repository.threads import in_thread
from server.repository.turnover import Observer, Turnover
from server.sessions.base import LoadedModel, Loader
from server.store import Fingerprint, Store, StoreError

CLOSE_TIMEOUT = 2.0
"""Seconds `close` waits for loads that are under way before it leaves them to end by themselves."""


class Repository(Generic[S]):
    """A `Catalog` over versions loaded in this process."""

    def __init__(
        self,
        store: Store,
        loader: Loader,
        make_scheduler: Callable[[LoadedModel], S],
        options: Options,
        observers: Sequence[Observer] = (),
    ) -> None:
        self._store = store
        self._options = options
        self._turnover: Turnover[S] = Turnover(options.drain_timeout, observers)
        self._loading = Loading(store, loader, make_scheduler, self._turnover, options.parallel_loads)
        self._locks: dict[str, asyncio.Lock] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._seen: Mapping[str, Fingerprint | None] = {}
        self._wanted: frozenset[str] = frozenset()
        self._started = False
        self._polling: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()

    # What the hot path and the rare RPCs ask; any thread.

    def find(self, name: str, version: str) -> Served[S]:
        """Return the version asked for; "" means the newest in service.

        Raises:
            ModelNotFound: no such model or version.
            ModelNotReady: it exists and is not in service now.
        """
        served = self._turnover.snapshot.found.get((name, version))
        if served is None:
            raise self._missing(name, version)
        return served

    def scheduler(self, name: str, version: str) -> S | None:
        """Return the queue of a version in service."""
        served = self._turnover.snapshot.found.get((name, version))
        return None if served is None else served.scheduler

    def served(self) -> list[Served[S]]:
        """Return every version in service."""
        return self._turnover.snapshot.all()

    def versions(self, name: str) -> list[str]:
        """Return the versions in service, ascending. Raises ModelNotFound."""
        versions = [str(number) for number in self._turnover.snapshot.versions(name)]
        if not versions and not self._knows(name):
            raise self._missing(name, "")
        return versions

    def ready(self) -> bool:
        """Whether the models of the start serve (unless readiness is not strict), and the server is not draining.

        A version that fails to load later costs no readiness: the one before it goes on serving.
        """
        if not self._started or self._stopping.is_set():
            return False
        found = self._turnover.snapshot.found
        return not self._options.strict_readiness or all((name, "") in found for name in self._wanted)

    def index(self) -> list[IndexEntry]:
        """Return every model and version known, in service or not."""
        index = self._turnover.index
        entries = []
        for name in sorted({*self._seen, *index.names()}):
            entries += index.entries(name) or [IndexEntry(name, "", "UNAVAILABLE", "it has not been loaded")]
        return entries

    def load_failures(self) -> Mapping[str, int]:
        """Return how many versions of each model could not be loaded so far."""
        return dict(self._turnover.load_failures)

    # Changes; the event loop only.

    async def start(self) -> None:
        """Load the models of the start; returns when each serves or has failed.

        Raises:
            StoreError: the store is missing, empty although it is all there will ever be, or lacks a startup model.
        """
        self._seen = await in_thread("scan-store", self._look)
        names = self._startup_names()
        self._wanted = frozenset(names)
        if names:
            await asyncio.wait([self._spawn(self._bring(name, None)) for name in names])
        self._started = True
        if self._options.control != "none":
            self._polling = asyncio.get_running_loop().create_task(self._poll())
            self._polling.add_done_callback(self._finished)

    async def load(self, name: str, parameters: Mapping[str, object]) -> None:
        """Load or reload a model; returns when its newest version serves.

        Raises:
            ModelNotFound: the store has no such model.
            ModelLoadFailed: why; what served before goes on serving.
            FailedPrecondition: models are not managed by request, or `file:` parameters came.
            InvalidRequest: another parameter than `config`.
            ShuttingDown: draining.
        """
        self._check_control()
        override = override_of(parameters)
        self._seen = await in_thread("scan-store", self._look)
        if name not in self._seen:
            raise ModelNotFound(f"model {name[:64]!r}: the model store has no such model")
        await asyncio.shield(self._spawn(self._bring(name, override)))

    async def unload(self, name: str) -> None:
        """Take a model out of service; returns when its requests in flight are answered and its memory is back.

        Raises:
            ModelNotFound, FailedPrecondition, ShuttingDown.
        """
        self._check_control()
        if not self._knows(name):
            raise self._missing(name, "")
        await asyncio.shield(self._spawn(self._withdraw(name)))

    async def poll_once(self) -> None:
        """Look at the store once and start what its changes ask for. A store that cannot be read changes nothing."""
        try:
            found = await in_thread("scan-store", self._look)
        except (StoreError, OSError) as error:
            log.event("model_store_unreadable", logging.ERROR, reason=str(error))
            return
        if self._seen and not found:
            log.event("model_store_empty", logging.ERROR, reason="every model is gone at once; going on with them")
            return
        before, self._seen = self._seen, found
        if self._options.control != "poll":
            return
        for name in before.keys() - found.keys():
            self._spawn(self._withdraw(name, forget=True))
        for name, fingerprint in found.items():
            if before.get(name) != fingerprint:
                self._spawn(self._bring(name, None))

    async def settled(self) -> None:
        """Wait until no load, unload or retirement is under way."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    def announce_drain(self) -> None:
        """From now on not ready, and no model changes; what serves goes on serving."""
        self._stopping.set()

    async def drain(self) -> None:
        """Refuse new requests and return when every accepted one is answered."""
        self.announce_drain()
        await self._turnover.drain()

    async def close(self) -> None:
        """Give everything back, answering what is left with an error. Idempotent."""
        self.announce_drain()
        self._loading.abandon()
        await self._turnover.close()
        if tasks := list(self._tasks):
            await asyncio.wait(tasks, timeout=CLOSE_TIMEOUT)

    async def _bring(self, name: str, override: str | None) -> None:
        async with self._locks.setdefault(name, asyncio.Lock()):
            self._check_open()
            outcome = await self._loading.run(name, override)
            if self._turnover.snapshot.versions(name):
                self._wanted |= {name}
        for served in outcome.left:
            self._spawn(self._turnover.retire(served))
        if outcome.error is not None:
            raise outcome.error

    async def _withdraw(self, name: str, *, forget: bool = False) -> None:
        async with self._locks.setdefault(name, asyncio.Lock()):
            self._wanted -= {name}
            left = self._turnover.publish(name, {})
        await asyncio.gather(*(self._turnover.retire(served) for served in left))
        if forget and name not in self._seen:
            self._turnover.index.forget(name)

    async def _poll(self) -> None:
        while not self._stopping.is_set():
            try:
                async with asyncio.timeout(self._options.poll_seconds):
                    await self._stopping.wait()
            except TimeoutError:
                await self.poll_once()

    def _look(self) -> dict[str, Fingerprint | None]:
        """Return the models of the store, with what shows their changes where somebody will compare it."""
        if self._options.control == "poll":
            return {**self._store.scan()}
        return dict.fromkeys(self._store.names())

    def _startup_names(self) -> list[str]:
        control, startup = self._options.control, self._options.startup
        if control == "none" and not self._seen:
            raise StoreError(f"{self._store}: expected at least one model, a directory with a version such as 1 in it")
        if control != "explicit" or "*" in startup:
            return list(self._seen)
        for name in startup:
            if name not in self._seen:
                has = ", ".join(self._seen) or "none"
                raise StoreError(f"{self._store}: expected model {name!r} to load at start, the models are: {has}")
        return list(dict.fromkeys(startup))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Start a task that outlives whoever asked for it."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, ServingError):  # those were accounted for where they arose
            log.event("model_management_failed", logging.ERROR, cause=error)

    def _check_open(self) -> None:
        if self._stopping.is_set():
            raise ShuttingDown("the server is shutting down")

    def _check_control(self) -> None:
        self._check_open()
        if self._options.control != "explicit":
            raise FailedPrecondition(
                "expected a server with --model-control explicit to load and unload models on request,"
                f" this one runs with {self._options.control}"
            )

    def _knows(self, name: str) -> bool:
        return name in self._seen or self._turnover.index.knows(name)

    def _missing(self, name: str, version: str) -> ServingError:
        entries = self._turnover.index.entries(name) if self._knows(name) else None
        return missing(name, version, entries, list(self._turnover.snapshot.versions(name)))
