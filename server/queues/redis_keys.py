"""The names of the keys Python uses; what they hold is written at the top of lua/common.lua.

`{model}` is the hash tag, so everything of a model is in one slot of a cluster and a script may touch all of it.
"""

from typing import Literal

LaneKind = Literal["j", "o"]
"""j: jobs, o: online requests."""

MODELS = "tq:models"


def prefix(model_name: str) -> str:
    """Return what all keys of a model start with; every script's first argument."""
    return f"tq:{{{model_name}}}:"


def lane(model_name: str, route: str, kind: LaneKind, *, urgent: bool) -> str:
    """Return the stream of one priority; `route` is the version asked for, "" for any."""
    return f"{prefix(model_name)}s:{route}:{kind}{'hi' if urgent else 'lo'}"


def lanes(model_name: str, routes: tuple[str, ...], kind: LaneKind) -> list[str]:
    """Return the lanes of several routes, all urgent ones first."""
    return [lane(model_name, route, kind, urgent=urgent) for urgent in (True, False) for route in routes]


def any_key(model_name: str) -> str:
    """Return a key that routes a script to the model's slot."""
    return f"{prefix(model_name)}lanes"


def alive(consumer: str) -> str:
    """Return the key that exists while a worker lives."""
    return f"tq:w:{consumer}"


def done_channel(model_name: str) -> str:
    """Return the channel that says whose state changed."""
    return f"{prefix(model_name)}done"


def cancel_channel(model_name: str) -> str:
    """Return the channel that asks for cancellations."""
    return f"{prefix(model_name)}cx"


def answer(digest: str) -> str:
    """Return the key of a shared answer; `digest` is of all that it depends on."""
    return f"tq:cache:{digest}"


def is_urgent(priority: int) -> bool:
    """Whether a request goes to the lane that is claimed first."""
    return priority == 1
