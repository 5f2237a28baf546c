"""Log lines: an event name and key-values, JSON unless a person is watching, one canonical line per request.

This module is the only one that reads the wall clock, and it never sees a payload or a secret.
"""

import json
import logging
import math
import sys
import threading
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Literal, TextIO

from typing_extensions import override

_ROOT = "sluice"
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def event(name: str, level: int = logging.INFO, *, cause: BaseException | None = None, **fields: object) -> None:
    """Log that something happened: `event("model_loaded", model="mnist", seconds=0.8)`."""
    logger = logging.getLogger(_ROOT)
    if logger.isEnabledFor(level):
        trace = (type(cause), cause, cause.__traceback__) if cause is not None else None
        # What `logger.log` does but for looking for the line that called it, which nobody is shown: half of its time.
        logger.handle(logger.makeRecord(_ROOT, level, "", 0, name, (), trace, extra={"fields": fields}))


def setup(form: Literal["auto", "json", "text"], level: str, stream: TextIO = sys.stderr) -> None:
    """Send this server's events to `stream`, and nothing of anybody else's below warning."""
    text = form == "text" or (form == "auto" and stream.isatty())
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_Text() if text else _Json())
    logger = logging.getLogger(_ROOT)
    logger.handlers[:] = [handler]
    logger.propagate = False
    set_level(level)


def set_level(level: str) -> None:
    """Change what is logged from now on: debug, info, warning or error."""
    logging.getLogger(_ROOT).setLevel(_LEVELS[level])


def get_level() -> str:
    """Return the current level's name."""
    return logging.getLevelName(logging.getLogger(_ROOT).level).lower()


def epoch_ms() -> int:
    """Return the wall clock in milliseconds since 1970, for the one field of the protocol that wants it."""
    return time.time_ns() // 1_000_000


def epoch_ns() -> int:
    """Return the wall clock in nanoseconds since 1970, for spans."""
    return time.time_ns()


class Sampler:
    """Lets `per_second` lines through each second and tells how many it held back before the next one."""

    def __init__(self, per_second: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = per_second
        self._clock = clock
        self._lock = threading.Lock()
        self.full_until = -math.inf
        """Until then no line is let through, on `clock`; for who wants to know before there is a line."""
        self._second = 0
        self._passed = 0
        self._held = 0

    def admit(self) -> int | None:
        """Return None to hold the line back, else the number of lines held back since the last one let through."""
        with self._lock:
            second = int(self._clock())
            if second != self._second:
                self._second, self._passed = second, 0
            if self._passed >= self._limit:
                self.full_until = second + 1.0
                self._held += 1
                return None
            self._passed += 1
            held, self._held = self._held, 0
            return held

    def hold(self, lines: int) -> None:
        """Hold so many lines back."""
        with self._lock:
            self._held += lines


_ENCODE = json.JSONEncoder(default=str).encode
"""As `json.dumps` does it, which makes an encoder each time."""


class _Json(logging.Formatter):
    @override
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "ts": _timestamp(record.created),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        line.update(getattr(record, "fields", {}))
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return _ENCODE(line)


class _Text(logging.Formatter):
    @override
    def format(self, record: logging.LogRecord) -> str:
        pairs = " ".join(f"{key}={_plain(value)}" for key, value in getattr(record, "fields", {}).items())
        line = f"{_timestamp(record.created)[11:23]} {record.levelname.lower():<7} {record.getMessage():<18} {pairs}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line.rstrip()


def _plain(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)
    return json.dumps(text) if not text.isprintable() or " " in text or not text else text


def _timestamp(created: float) -> str:
    return f"{_second(int(created))}.{int(created % 1 * 1000):03d}Z"


@lru_cache(2)
def _second(whole: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))


class Levels:
    """The level, for whoever may change it while the server runs; implements wire.open_inference.LogLevels."""

    def get(self) -> str:
        """Return debug, info, warning or error."""
        return get_level()

    def set(self, level: str) -> None:
        """Log from this level on."""
        set_level(level)
