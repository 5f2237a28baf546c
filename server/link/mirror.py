"""What the engine serves, as its frontends know it: the models on offer, readiness, the log level.

The engine describes its whole state and sends it whenever the description changes; a frontend takes it over before it
reads the next frame, and says that it has. So whoever is refused because a version has just left finds its successor
when looking again, and whoever asked for a change is answered when every frontend knows of it.
"""

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from server import log
from server.catalog import Catalog, IndexEntry, missing
from server.errors import FailedPrecondition, ServingError
from server.fleet.catalog import RemoteModel, announcement
from server.fleet.plain import from_plain
from server.spec import ModelSpec
from server.wire.lifecycle import Lifecycle

GONE = -1
"""A number that no spec ever has."""


class Announcer:
    """The engine's side: describes a catalog and a lifecycle. Specs that have not changed are not written again.

    Each spec has a number of its own, so that a request can say what it was checked against.
    """

    def __init__(self, catalog: Catalog, lifecycle: Lifecycle) -> None:
        self._catalog = catalog
        self._lifecycle = lifecycle
        self._written: dict[tuple[str, str], _Written] = {}
        self._numbers = itertools.count(1)

    def state(self) -> dict[str, Any]:
        """Return everything a frontend wants to know, as plain values."""
        index = self._catalog.index()
        served = {(entry.name, entry.version) for entry in index if entry.state == "READY"}
        written = {key: self._announce(*key) for key in sorted(served)}
        self._written = {key: one for key, one in written.items() if one is not None}
        return {
            "ready": self._lifecycle.ready and self._catalog.ready(),
            "draining": self._lifecycle.draining,
            "log_level": log.get_level(),
            "index": [(entry.name, entry.version, entry.state, entry.reason) for entry in index],
            "served": [(*key, one.number, one.text) for key, one in self._written.items()],
        }

    def spec(self, number: int) -> ModelSpec | None:
        """Return what was last announced under a number, None when it is announced no more; any thread."""
        return next((one.spec for one in list(self._written.values()) if one.number == number), None)

    def _announce(self, name: str, version: str) -> "_Written | None":
        try:
            model = self._catalog.find(name, version)
        except ServingError:  # it left since the index was read; the next state says so
            return None
        known = self._written.get((name, version))
        if known is not None and known.spec is model.spec:
            return known
        return _Written(next(self._numbers), model.spec, announcement(model.spec, model.provider).decode())


@dataclass(frozen=True, slots=True)
class _Written:
    number: int
    spec: ModelSpec
    text: str


class MirroredCatalog:
    """A frontend's side: what it was last told, as a `server.catalog.Catalog`.

    Readers look at dictionaries that are replaced whole; a model stays the same object while its number does.
    """

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle
        self._ready = False
        self._index: dict[str, list[IndexEntry]] = {}
        self._models: dict[int, RemoteModel] = {}
        self._numbers: dict[int, int] = {}
        self._found: dict[tuple[str, str], RemoteModel] = {}

    def apply(self, state: Mapping[str, Any]) -> None:
        """Take over what the engine says; on the link's thread. Raises ValueError, KeyError, TypeError."""
        index: dict[str, list[IndexEntry]] = {}
        for name, *entry in state["index"]:
            index.setdefault(name, []).append(IndexEntry(name, *entry))
        models, found = {}, {}
        for name, version, number, text in sorted(state["served"], key=lambda one: int(one[1])):
            models[number] = found[name, version] = found[name, ""] = self._models.get(number) or _read(text)
        self._models, self._numbers = models, {id(model.spec): number for number, model in models.items()}
        self._index, self._found, self._ready = index, found, state["ready"]
        log.set_level(state["log_level"])
        self._lifecycle.set(ready=state["ready"], draining=state["draining"])

    def number_of(self, spec: ModelSpec | None) -> int:
        """Return under which number the engine knows a spec: 0 for none, GONE for one that it has just withdrawn."""
        return 0 if spec is None else self._numbers.get(id(spec), GONE)

    def find(self, name: str, version: str) -> RemoteModel:
        """Return the version asked for; "" means the newest in service. Raises ModelNotFound, ModelNotReady."""
        found = self._found.get((name, version))
        if found is None:
            raise missing(name, version, self._index.get(name), self._serving(name))
        return found

    def versions(self, name: str) -> list[str]:
        """Return the versions in service, ascending. Raises ModelNotFound."""
        if name not in self._index:
            raise missing(name, "", None, [])
        return [str(number) for number in self._serving(name)]

    def ready(self) -> bool:
        """Whether every model that should serve does."""
        return self._ready

    def index(self) -> list[IndexEntry]:
        """Return every model and version known, in service or not."""
        return [entry for entries in self._index.values() for entry in entries]

    async def load(self, name: str, parameters: Mapping[str, object]) -> None:  # noqa: ARG002 - the contract's
        """Refuse: such calls are the engine's to answer. Raises FailedPrecondition."""
        raise FailedPrecondition("expected the engine process to load models, this is a frontend of it")

    async def unload(self, name: str) -> None:  # noqa: ARG002 - ditto
        """Refuse likewise. Raises FailedPrecondition."""
        raise FailedPrecondition("expected the engine process to unload models, this is a frontend of it")

    def _serving(self, name: str) -> list[int]:
        return sorted(int(version) for model, version in self._found if model == name and version)


def _read(text: str) -> RemoteModel:
    document = json.loads(text)
    return RemoteModel(from_plain(ModelSpec, document["spec"]), str(document["provider"]))
