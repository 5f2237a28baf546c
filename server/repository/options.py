"""What may be decided about model management: by the operator once, and by whoever sends a load request."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from server.errors import FailedPrecondition, InvalidRequest


@dataclass(frozen=True, slots=True)
class Options:
    """How models are managed. Durations are seconds.

    `startup` names the models that explicit control loads at start, "*" means all. `drain_timeout` bounds how long a
    version that left service may go on with its requests; `parallel_loads` how many versions load at once.
    """

    control: Literal["none", "poll", "explicit"]
    startup: tuple[str, ...]
    poll_seconds: float
    strict_readiness: bool
    drain_timeout: float
    parallel_loads: int = 2


def override_of(parameters: Mapping[str, object]) -> str | None:
    """Return the configuration that came with a load request, checked for nothing but its type."""
    for key in parameters:
        if key.startswith("file:"):
            raise FailedPrecondition("expected the model's files in the model store, `file:` parameters are not taken")
        if key != "config":
            raise InvalidRequest(f"expected the load parameter config, got {key[:64]!r}")
    config = parameters.get("config")
    if config is not None and not isinstance(config, str):
        raise InvalidRequest(f"load parameter config: expected a string of JSON, got {type(config).__name__}")
    return config
