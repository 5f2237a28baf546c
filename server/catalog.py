"""What the wire may ask about models, whoever manages them.

`repository.py` implements `Catalog` over versions loaded in this process; a frontend without sessions implements it
over what workers announce. This module must never know how a model is loaded or run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from server.errors import ModelNotFound, ModelNotReady, ServingError
from server.spec import ModelSpec
from server.statistics import ModelStatistics

_MEANWHILE = {"LOADING": "it is being loaded", "UNLOADING": "it is being unloaded"}


class ServedModel(Protocol):
    """One version in service."""

    spec: ModelSpec
    provider: str

    def statistics(self) -> ModelStatistics:
        """Return a snapshot of its counters since it was first loaded."""


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """A row of RepositoryIndex; `state` is READY, LOADING, UNLOADING or UNAVAILABLE, as Triton spells them."""

    name: str
    version: str
    state: str
    reason: str = ""


class Catalog(Protocol):
    """The models this server offers. `find` is on the hot path: a dictionary look-up, no lock, any thread."""

    def find(self, name: str, version: str) -> ServedModel:
        """Return the version asked for; "" means the highest one in service.

        Raises:
            ModelNotFound: no such model or version.
            ModelNotReady: it exists and is not in service now.
        """

    def versions(self, name: str) -> list[str]:
        """Return the versions in service, ascending. Raises ModelNotFound."""

    def ready(self) -> bool:
        """Whether every model that should serve does, and the server is not draining."""

    def index(self) -> list[IndexEntry]:
        """Return every model and version known, in service or not."""

    async def load(self, name: str, parameters: Mapping[str, object]) -> None:
        """Load or reload a model (explicit control).

        Raises:
            ModelNotFound, ModelLoadFailed, FailedPrecondition (control mode), InvalidRequest (parameters).
        """

    async def unload(self, name: str) -> None:
        """Take a model out of service after its requests in flight. Raises ModelNotFound, FailedPrecondition."""


def missing(name: str, version: str, entries: Sequence[IndexEntry] | None, serving: Sequence[int]) -> ServingError:
    """Return why `find` finds nothing, in one sentence.

    `entries` is what the index has of the model, by version; None for a model that nobody knows. `serving` lists the
    versions in service, ascending.
    """
    shown = f"model {name[:64]!r}"
    if entries is None:
        return ModelNotFound(f"{shown}: this server has no such model")
    if not version:
        reasons = (entry.reason or _MEANWHILE.get(entry.state) for entry in reversed(entries))
        why = next(filter(None, reasons), "it has not been loaded")
        return ModelNotReady(f"{shown} is not in service: {why}")
    for entry in entries:
        if entry.version == version:
            return ModelNotReady(f"{shown} version {version} is {entry.state}" + (entry.reason and f": {entry.reason}"))
    serves = ", ".join(map(str, serving)) or "none at the moment"
    return ModelNotFound(f"{shown}: expected a version in service ({serves}), got {version[:64]!r}")
