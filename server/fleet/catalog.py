"""The models that workers announce, as a frontend offers them: a `Catalog` without sessions.

Readers look at a snapshot that is replaced whole; a model keeps its object while its announcement stays the same, so
what the wire has learned about it stays good. This module must never know redis: it is given what is served.
"""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from server import log
from server.catalog import IndexEntry
from server.errors import FailedPrecondition, ModelNotFound, ModelNotReady, ServingError
from server.fleet.plain import from_plain, to_plain
from server.spec import ModelSpec
from server.statistics import ModelStatistics

Served = Mapping[tuple[str, str], bytes]


@dataclass(slots=True, eq=False)
class RemoteModel:
    """One version that some worker serves. Its counters are the workers' own; see their metrics."""

    spec: ModelSpec
    provider: str

    def statistics(self) -> ModelStatistics:
        """Return no counts: requests are counted where they run."""
        return ModelStatistics()


def announcement(spec: ModelSpec, provider: str) -> bytes:
    """Return what a worker says about a version it serves."""
    return json.dumps({"spec": to_plain(spec), "provider": provider}).encode()


class RemoteCatalog:
    """See `server.catalog.Catalog`."""

    def __init__(self, served: Callable[[], Served]) -> None:
        self._served = served
        self._seen: Served = {}
        self._models: dict[tuple[str, str], RemoteModel] = {}
        self._found: dict[tuple[str, str], RemoteModel] = {}
        self._known: set[str] = set()

    def find(self, name: str, version: str) -> RemoteModel:
        """Return the version asked for; "" means the newest any worker serves. Raises ModelNotFound, ModelNotReady."""
        found = self._snapshot().get((name, version))
        if found is None:
            raise self._missing(name, version)
        return found

    def versions(self, name: str) -> list[str]:
        """Return the versions some worker serves, ascending. Raises ModelNotFound."""
        numbers = sorted(int(v) for model, v in self._snapshot() if model == name and v)
        if not numbers and name not in self._known:
            raise self._missing(name, "")
        return [str(number) for number in numbers]

    def ready(self) -> bool:
        """Whether some worker serves some model."""
        return bool(self._snapshot())

    def index(self) -> list[IndexEntry]:
        """Return every version served now."""
        return [IndexEntry(name, version, "READY") for name, version in sorted(self._snapshot()) if version]

    async def load(self, name: str, parameters: Mapping[str, object]) -> None:  # noqa: ARG002 - the contract's
        """Refuse: workers look after their own models. Raises FailedPrecondition."""
        raise FailedPrecondition(
            "expected a worker to load models on, this is a frontend; its workers poll their store"
        )

    async def unload(self, name: str) -> None:  # noqa: ARG002 - ditto
        """Refuse likewise. Raises FailedPrecondition."""
        raise FailedPrecondition("expected a worker to unload models on, this is a frontend")

    def _snapshot(self) -> dict[tuple[str, str], RemoteModel]:
        served = self._served()
        if served is not self._seen:
            self._rebuild(served)
        return self._found

    def _rebuild(self, served: Served) -> None:
        models: dict[tuple[str, str], RemoteModel] = {}
        for key, about in served.items():
            known = self._models.get(key)
            model = known if known is not None and self._seen.get(key) == about else _read(key, about)
            if model is not None:
                models[key] = model
        found = dict(models)
        for name in {name for name, _ in models}:
            found[name, ""] = models[name, str(max(int(v) for model, v in models if model == name))]
        self._known |= {name for name, _ in models}
        self._models, self._found, self._seen = models, found, served

    def _missing(self, name: str, version: str) -> ServingError:
        shown = f"model {name[:64]!r}"
        if name not in self._known:
            return ModelNotFound(f"{shown}: no worker serves such a model")
        if not version or (name, "") not in self._found:
            return ModelNotReady(f"{shown}: no worker serves it at the moment")
        return ModelNotFound(
            f"{shown}: expected a version in service ({', '.join(self.versions(name))}), got {version[:64]!r}"
        )


def _read(key: tuple[str, str], about: bytes) -> RemoteModel | None:
    try:
        document = json.loads(about)
        return RemoteModel(from_plain(ModelSpec, document["spec"]), str(document["provider"]))
    except (ValueError, KeyError, TypeError) as error:
        log.event("announcement_unreadable", logging.ERROR, model=key[0], version=key[1], reason=str(error))
        return None
