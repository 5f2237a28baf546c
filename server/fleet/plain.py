"""Frozen dataclasses as JSON and back, by their own type hints: how a worker describes a model to frontends.

Only what specs are made of is understood: dataclasses, tuples, mappings, literals, optional values and plain ones.
"""

import dataclasses
import types
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")


def to_plain(value: object) -> object:
    """Return a dataclass as dictionaries, lists and plain values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [to_plain(item) for item in value]
    return value


def from_plain(kind: type[T], value: object) -> T:
    """Return what `to_plain` was given.

    Raises:
        ValueError: the value does not fit the type: another version of the server wrote it.
    """
    return cast("T", _read(kind, value))


def _read(kind: Any, value: object) -> object:  # noqa: ANN401 - a type hint can be anything
    origin, arguments = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, value)
    if origin in (Union, types.UnionType):
        (some,) = (argument for argument in arguments if argument is not type(None))
        return None if value is None else _read(some, value)
    if origin is tuple:
        return tuple(_read(arguments[0], item) for item in _expect(value, list))
    if origin is Literal:
        return _expect_one_of(value, arguments)
    if origin is not None and issubclass(origin, Mapping):
        return {arguments[0](key): _read(arguments[1], item) for key, item in _expect(value, dict).items()}
    return float(_expect(value, (int, float))) if kind is float else _expect(value, kind)


def _dataclass(kind: Any, value: object) -> object:  # noqa: ANN401 - any dataclass
    hints = get_type_hints(kind)
    given = _expect(value, dict)
    unknown = given.keys() - {field.name for field in dataclasses.fields(kind)}
    if unknown:
        raise ValueError(f"{kind.__name__}: unexpected {', '.join(sorted(unknown))}")
    return kind(**{name: _read(hints[name], item) for name, item in given.items()})


def _expect(value: object, kind: Any) -> Any:  # noqa: ANN401 - returns what it checked
    if not isinstance(value, kind):
        expected = getattr(kind, "__name__", "a number")
        raise ValueError(f"expected {expected}, got {type(value).__name__}")  # noqa: TRY004 - one error for all
    return value


def _expect_one_of(value: object, allowed: tuple[object, ...]) -> object:
    if value not in allowed:
        raise ValueError(f"expected one of {allowed}, got {value!r}")
    return value
