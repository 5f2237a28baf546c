"""The Lua scripts as Redis wants them: each file of lua/ with common.lua behind its first line.

`#!lua` must be the first line of a script and Lua has no include there, so the helpers are spliced in when loading.
"""

import hashlib
from dataclasses import dataclass
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class Script:
    """One script and the digest EVALSHA knows it by."""

    name: str
    text: str
    sha: str


def load_scripts() -> dict[str, Script]:
    """Return every script of the package by name."""
    folder = files("server.queues") / "lua"
    texts = {item.name.removesuffix(".lua"): item.read_text("utf-8") for item in folder.iterdir()}
    common = texts.pop("common")
    return {name: _script(name, text, common) for name, text in sorted(texts.items())}


def _script(name: str, text: str, common: str) -> Script:
    first, _, rest = text.partition("\n")
    whole = f"{first}\n{common}\n{rest}"
    return Script(name, whole, hashlib.sha1(whole.encode()).hexdigest())  # noqa: S324 - the digest Redis itself uses
