"""A progress line for long work: redrawn in place on a terminal, silent in a pipe."""

import sys
import time
from typing import TextIO


class Progress:
    """Counts towards a total; use as a context manager."""

    def __init__(self, total: int, unit: str, stream: TextIO = sys.stderr) -> None:
        self._total = total
        self._unit = unit
        self._stream = stream
        self._done = 0
        self._started = time.monotonic()
        self._drawn = 0.0

    def __enter__(self) -> "Progress":  # noqa: PYI034 - typing.Self reads no better here
        return self

    def __exit__(self, *_: object) -> None:
        self._draw()
        if self._stream.isatty():
            self._stream.write("\n")

    def add(self, count: int) -> None:
        """Count `count` more as done; redraws at most ten times a second."""
        self._done += count
        now = time.monotonic()
        if now - self._drawn >= 0.1:
            self._drawn = now
            self._draw()

    def _draw(self) -> None:
        if not self._stream.isatty():
            return
        share = self._done / self._total if self._total else 1.0
        rate = self._done / max(time.monotonic() - self._started, 1e-9)
        full = round(30 * share)
        bar = "█" * full + "·" * (30 - full)
        self._stream.write(f"\r{bar} {self._done}/{self._total} {self._unit}, {rate:.0f}/s ")
        self._stream.flush()
