"""A caller's own text in our sentences: escaped and cut, so that an error or a log line cannot be forged with it."""

from collections.abc import Iterable, Sequence

from server.errors import InvalidRequest

MAX_ECHO = 64


def quote(text: str) -> str:
    """Return `text` in quotes, ASCII only, at most 64 characters of it."""
    shown = ascii(text[:MAX_ECHO])
    return shown if len(shown) <= MAX_ECHO + 2 and len(text) <= MAX_ECHO else shown[: MAX_ECHO - 3] + "...'"


def listing(names: Iterable[str], most: int = 16) -> str:
    """Return names in quotes, separated by commas, the first `most` of them."""
    every = list(names)
    shown = ", ".join(quote(name) for name in every[:most])
    return f"{shown} and {len(every) - most} more" if len(every) > most else shown


def dims(shape: Sequence[int]) -> str:
    """Return a shape as the protocol writes it, e.g. [-1,28,28]."""
    return "[" + ",".join(map(str, shape)) + "]"


def check_id(text: str, most: int, what: str = "id") -> str:
    """Return an identifier that is safe to log.

    Raises:
        InvalidRequest: it is too long, or has characters that do not print.
    """
    if len(text) > most or not text.isprintable():
        raise InvalidRequest(f"{what}: expected at most {most} printable characters, got {len(text)}: {quote(text)}")
    return text
