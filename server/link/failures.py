"""Errors as plain values and back, for the way between two processes of one server."""

from collections.abc import Iterator

from server.errors import ServingError

Plain = tuple[str, str, float | None]


def encode_error(error: ServingError) -> Plain:
    """Return an error's class, message and hint."""
    return type(error).__name__, str(error), error.retry_after


def decode_error(plain: Plain) -> ServingError:
    """Return what `encode_error` was given. Raises ValueError, KeyError for anything else."""
    kind, message, retry_after = plain
    return _ERRORS[kind](message, retry_after=retry_after)


def _tree(root: type[ServingError]) -> Iterator[type[ServingError]]:
    yield root
    for child in root.__subclasses__():
        yield from _tree(child)


_ERRORS = {kind.__name__: kind for kind in _tree(ServingError)}
