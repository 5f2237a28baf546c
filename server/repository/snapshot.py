"""What serves at one moment: never changed, only replaced, so readers need no lock.

This module must never know how anything is loaded.
"""

from collections.abc import Iterable, Mapping
from typing import Generic

from server.repository.served import S, Served


class Snapshot(Generic[S]):
    """Versions in service by (model, version); (model, "") is the newest."""

    def __init__(self, served: Iterable[Served[S]] = ()) -> None:
        ascending = sorted(served, key=lambda one: int(one.version))
        self.found: Mapping[tuple[str, str], Served[S]] = {
            **{(one.name, one.version): one for one in ascending},
            **{(one.name, ""): one for one in ascending},
        }

    def all(self) -> list[Served[S]]:
        """Return everything in service, each version once."""
        return [served for (_, version), served in self.found.items() if version]

    def versions(self, name: str) -> dict[int, Served[S]]:
        """Return a model's versions, ascending."""
        return {int(served.version): served for served in self.all() if served.name == name}

    def with_model(self, name: str, versions: Mapping[int, Served[S]]) -> "Snapshot[S]":
        """Return a snapshot in which `versions` are all there is of one model."""
        return Snapshot([*(served for served in self.all() if served.name != name), *versions.values()])
