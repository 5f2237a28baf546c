"""Puts versions into service and takes them out, and keeps account of both.

The order of a switch:

    1  the new version is loaded, proven and has its queue, while the old one serves      (rounds.py)
    2  the snapshot is replaced: whoever looks the model up from now on finds the new version
    3  the old queue drains: it answers all it has accepted and refuses the rest with an Unavailable error
    4  its sessions are closed and their memory goes back

A caller that found the old version before step 2 and submits to it after step 3 began is refused, and must look the
model up again: `find` then returns another object, to which the request is validated and submitted afresh. It can
lose that race again only to another switch, so a few rounds always do. Where `find` returns the same object, the
refusal stands.

Everything here runs on the event loop. This module must never know the store or who asked for a change.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Generic, Protocol

from server import log
from server.repository.index import Index
from server.repository.served import S, Served
from server.repository.snapshot import Snapshot
from server.repository.threads import call_soon, in_thread

CLOSE_GRACE = 1.0
"""Seconds an instance may take to end once its queue is empty or was given up."""


class Observer(Protocol):
    """Told about every change, on the event loop; must not block or raise."""

    def on_loaded(self, name: str, version: str) -> None:
        """A version entered service, or was replaced by a reload of itself."""

    def on_failed(self, name: str, version: str, reason: str) -> None:
        """A version could not be loaded; `version` is empty where the model as a whole is to blame."""

    def on_unloaded(self, name: str, version: str) -> None:
        """A version left service; its requests in flight may still be running."""


class Turnover(Generic[S]):
    """The snapshot and its history. `drain_timeout` bounds step 3 in seconds."""

    def __init__(self, drain_timeout: float, observers: Sequence[Observer]) -> None:
        self.snapshot: Snapshot[S] = Snapshot()
        self.index = Index()
        self.load_failures: dict[str, int] = {}
        self._drain_timeout = drain_timeout
        self._observers = observers
        self._closed = False
        self._retiring: set[Served[S]] = set()
        self._drained: dict[Served[S], asyncio.Future[None]] = {}

    def publish(self, name: str, versions: Mapping[int, Served[S]]) -> list[Served[S]]:
        """Let `versions` be what serves of a model from now on; return those that left, to be retired."""
        if self._closed:
            return list(versions.values())
        before = self.snapshot.versions(name)
        self.snapshot = self.snapshot.with_model(name, versions)
        for number, served in versions.items():
            if before.get(number) is not served:
                self._entered(served)
        for number in before.keys() - versions.keys():
            self.index.put(name, str(number), "UNLOADING")
            for observer in self._observers:
                observer.on_unloaded(name, str(number))
        return [served for number, served in before.items() if versions.get(number) is not served]

    def failed(self, name: str, number: int, reason: str, cause: Exception | None = None) -> None:
        """Account for a version, or where `number` is 0 a whole model, that could not be loaded."""
        version = str(number or "")
        if number and (name, version) in self.snapshot.found:
            self.index.put(name, version, "READY", f"reload failed: {reason}")
        else:
            self.index.put(name, version, "UNAVAILABLE", reason)
        self.load_failures[name] = self.load_failures.get(name, 0) + 1
        log.event(
            "model_load_failed", logging.ERROR, cause=cause, model=name, version=version, reason=reason,
            still_serving=sorted(self.snapshot.versions(name)),
        )  # fmt: skip
        for observer in self._observers:
            observer.on_failed(name, version, reason)

    async def retire(self, served: Served[S]) -> None:
        """Let a version that has left the snapshot finish, then give everything it holds back."""
        self._retiring.add(served)
        replaced = (served.name, served.version) in self.snapshot.found
        entry = None if replaced else self.index.put(served.name, served.version, "UNLOADING")
        drained, _ = await asyncio.wait([self._drain(served)], timeout=self._drain_timeout)
        await _close(served)
        self._retiring.discard(served)
        self._drained.pop(served, None)
        if entry is not None:
            self.index.move(entry, "UNAVAILABLE", "unloaded")
        log.event("model_unloaded", model=served.name, version=served.version, drained=bool(drained))

    async def drain(self) -> None:
        """Let everything in service answer what it has accepted, and nothing else; return when it has."""
        if serving := self.snapshot.all():
            await asyncio.wait([self._drain(served) for served in serving])

    async def close(self) -> None:
        """Take everything out of service and give it back, answering what is left with an error. Idempotent."""
        self._closed = True
        left = {*self.snapshot.all(), *self._retiring}
        self.snapshot = Snapshot()
        await asyncio.gather(*map(_close, left))

    def _drain(self, served: Served[S]) -> "asyncio.Future[None]":
        """Ask a queue to drain, once, and return what is done when it has."""
        future = self._drained.get(served)
        if future is None:
            loop = asyncio.get_running_loop()
            future = self._drained[served] = loop.create_future()
            served.scheduler.drain(partial(call_soon, loop, partial(_settle, future)))
        return future

    def _entered(self, served: Served[S]) -> None:
        loaded = served.loaded
        self.index.put(served.name, served.version, "READY")
        log.event(
            "model_loaded", model=served.name, version=served.version, provider=served.provider,
            instances=len(loaded.instances), max_batch_size=served.spec.max_batch_size,
            seconds=loaded.load_seconds,
            about=", ".join(f"{name}={value}" for name, value in loaded.labels.items()),
        )  # fmt: skip
        for observer in self._observers:
            observer.on_loaded(served.name, served.version)


async def _close(served: Served[S]) -> None:
    await in_thread(f"close-{served.name}", partial(served.close, CLOSE_GRACE))


def _settle(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
