"""The state of every model and version known, as RepositoryIndex reports it.

Written on the event loop only, read from anywhere: each entry is replaced whole. Never knows why states change.
"""

from collections.abc import Collection
from typing import Literal

from server.catalog import IndexEntry

State = Literal["READY", "LOADING", "UNLOADING", "UNAVAILABLE"]


class Index:
    """Entries by model and version; version "" stands for the model as a whole."""

    def __init__(self) -> None:
        self._models: dict[str, dict[str, IndexEntry]] = {}

    def put(self, name: str, version: str, state: State, reason: str = "") -> IndexEntry:
        """Set and return one entry."""
        entry = IndexEntry(name, version, state, reason)
        self._models.setdefault(name, {})[version] = entry
        return entry

    def move(self, entry: IndexEntry, state: State, reason: str) -> None:
        """Replace `entry` unless something else has replaced it meanwhile."""
        versions = self._models.get(entry.name, {})
        if versions.get(entry.version) is entry:
            versions[entry.version] = IndexEntry(entry.name, entry.version, state, reason)

    def keep(self, name: str, versions: Collection[str]) -> None:
        """Forget every entry of a model but those of `versions`."""
        kept = {version: entry for version, entry in self._models.get(name, {}).items() if version in versions}
        self._models[name] = kept

    def forget(self, name: str) -> None:
        """Forget a model."""
        self._models.pop(name, None)

    def knows(self, name: str) -> bool:
        """Whether anything is known of a model."""
        return bool(self._models.get(name))

    def names(self) -> list[str]:
        """Return the models that have entries."""
        return [name for name, versions in list(self._models.items()) if versions]

    def entries(self, name: str) -> list[IndexEntry]:
        """Return a model's entries, by version."""
        return sorted(self._models.get(name, {}).values(), key=_newest_last)


def _newest_last(entry: IndexEntry) -> int:
    return int(entry.version or 0)
