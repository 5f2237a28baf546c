"""One attempt to bring a model to what the store says: which versions to load, and what serves after it.

The rules, in the order they matter: a failure never costs a version that works; a version that serves exactly as the
store has it is left alone; where the policy is `latest` and nothing of the model would serve, older versions are
tried, newest first. This module must never know who asked or how a switch is done.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Generic

from server import log
from server.errors import ModelLoadFailed
from server.repository.served import S, Served
from server.repository.threads import in_thread
from server.repository.turnover import CLOSE_GRACE, Turnover
from server.sessions.base import LoadedModel, Loader
from server.spec import ModelVersion
from server.store import Stamp, Store, StoredModel, select

WHOLE_MODEL = 0
"""Stands for a version number where the model as a whole is to blame."""

MakeScheduler = Callable[[LoadedModel], S]


@dataclass(slots=True)
class Round(Generic[S]):
    """What the store has, what serves, and what came of trying."""

    stored: StoredModel
    serving: dict[int, Served[S]]
    selected: tuple[int, ...]
    fresh: dict[int, Served[S]] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)

    def is_current(self, number: int) -> bool:
        """Whether a version serves exactly as the store has it."""
        served = self.serving.get(number)
        source = self.stored.versions[number], self.stored.fingerprint.versions[number]
        return served is not None and (served.source, served.files) == source

    def in_service(self) -> dict[int, Served[S]]:
        """Return what serves after the round: the fresh, and of the rest what is selected, or all after a failure."""
        stay = {n: served for n, served in self.serving.items() if self.failures or n in self.selected}
        return {**stay, **self.fresh}

    def error(self) -> ModelLoadFailed | None:
        """Return what to tell whoever asked, None when nothing failed."""
        if not self.failures:
            return None
        number = max(self.failures)
        which = f" version {number}" if number else ""
        serves = sorted(self.in_service())
        after = f"; version {', '.join(map(str, serves))} goes on serving" if serves else ""
        return ModelLoadFailed(f"model {self.stored.config.name!r}{which}: {self.failures[number]}{after}")

    def fallbacks(self) -> list[int]:
        """Return the older versions worth trying because nothing would serve otherwise, newest first."""
        if self.in_service() or self.stored.config.version_policy.kind != "latest":
            return []
        return sorted(self.stored.versions.keys() - set(self.selected), reverse=True)


@dataclass(frozen=True, slots=True)
class Outcome(Generic[S]):
    """The versions that left service, to be retired, and what to tell whoever asked if something failed."""

    left: list[Served[S]]
    error: ModelLoadFailed | None


class Loading(Generic[S]):
    """Runs rounds. `parallel` versions load at once, whatever the number of models."""

    def __init__(
        self, store: Store, loader: Loader, make_scheduler: MakeScheduler[S], turnover: Turnover[S], parallel: int
    ) -> None:
        self._store = store
        self._loader = loader
        self._make_scheduler = make_scheduler
        self._turnover = turnover
        self._slots = asyncio.Semaphore(parallel)
        self._noted: dict[str, tuple[str, ...]] = {}
        self._abandoned = False

    def abandon(self) -> None:
        """Close what comes out of a loader from now on instead of handing it on: nobody waits any more."""
        self._abandoned = True

    async def run(self, name: str, override: str | None) -> "Outcome[S]":
        """Bring one model to what the store says.

        Raises:
            ModelNotFound: the store has no such model.
        """
        try:
            stored = await in_thread(f"read-{name}", partial(self._store.read, name, override))
        except ModelLoadFailed as error:
            self._turnover.failed(name, WHOLE_MODEL, str(error))
            return Outcome([], error)
        self._note_ignored(name, stored)
        selected = select(stored.config.version_policy, stored.versions)
        round_ = Round(stored, self._turnover.snapshot.versions(name), selected)
        await self._load(round_)
        left = self._turnover.publish(name, round_.in_service())
        self._account(round_)
        return Outcome(left, round_.error())

    async def _load(self, round_: Round[S]) -> None:
        if not round_.selected:
            self._fail(round_, WHOLE_MODEL, _nothing_selected(round_.stored))
        for number in reversed(round_.selected):
            if not round_.is_current(number):
                await self._try(round_, number)
        for number in round_.fallbacks():
            if await self._try(round_, number):
                return

    async def _try(self, round_: Round[S], number: int) -> bool:
        version = round_.stored.versions[number]
        name = version.config.name
        if number not in round_.serving:
            self._turnover.index.put(name, version.version, "LOADING")
        files = round_.stored.fingerprint.versions[number]
        try:
            async with self._slots:
                served = await in_thread(f"load-{name}-{number}", partial(self._open, version, files))
        except ModelLoadFailed as error:
            self._fail(round_, number, str(error))
            return False
        except Exception as error:  # noqa: BLE001  (a broken loader is this version's failure, not the server's)
            self._fail(round_, number, "the loader broke; the reason is in the server's log", error)
            return False
        round_.fresh[number] = served
        return True

    def _open(self, version: ModelVersion, files: tuple[Stamp, ...]) -> Served[S]:
        """Load one version and put its queue in front of it; in a thread."""
        loaded = self._loader.load(version)
        try:
            served = Served(version, files, loaded, self._make_scheduler(loaded))
        except BaseException:
            for instance in loaded.instances:
                instance.close(CLOSE_GRACE)
            raise
        if self._abandoned:
            served.close(CLOSE_GRACE)
            raise ModelLoadFailed("the server is shutting down")
        return served

    def _fail(self, round_: Round[S], number: int, reason: str, cause: Exception | None = None) -> None:
        round_.failures[number] = reason
        self._turnover.failed(round_.stored.config.name, number, reason, cause)

    def _account(self, round_: Round[S]) -> None:
        """Put what cannot even be tried into the index, and forget what is no longer there."""
        stored, name, index = round_.stored, round_.stored.config.name, self._turnover.index
        problems = dict(stored.problems)
        for number in set(stored.config.version_policy.versions) - stored.versions.keys() - problems.keys():
            problems[number] = "version_policy names it, the store has no such version"
        serves = round_.in_service()
        for number, reason in problems.items():
            if number not in serves:
                index.put(name, str(number), "UNAVAILABLE", reason)
        known = {*stored.versions, *problems, *serves, *round_.failures}
        index.keep(name, {str(number or "") for number in known})

    def _note_ignored(self, name: str, stored: StoredModel) -> None:
        ignored = stored.config.ignored
        if ignored and self._noted.get(name) != ignored:
            log.event("config_fields_ignored", logging.WARNING, model=name, fields=", ".join(ignored))
        self._noted[name] = ignored


def _nothing_selected(stored: StoredModel) -> str:
    if stored.versions:
        named = ", ".join(map(str, stored.config.version_policy.versions))
        return f"version_policy names versions {named}, the store has {', '.join(map(str, stored.versions))}"
    if stored.problems:
        return "; ".join(stored.problems.values())
    return f"expected a version directory, such as 1, with {stored.config.model_filename} in it; there is none"
