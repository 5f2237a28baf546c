"""Typed, checked access to a tree of fields, which notices what nobody asked for.

Every refusal names the source, the line where there is one, the field's dotted path, what was expected and what came.
This module must never know what any field means.
"""

import re
from collections.abc import Callable, Mapping
from typing import NoReturn, TypeVar

from server.errors import ModelLoadFailed
from server.modelconfig.syntax import Entry, Message, Scalar, Word

T = TypeVar("T")

_TRUTH: Mapping[str | int | bool, bool] = {
    "true": True, "True": True, "t": True, 1: True,
    "false": False, "False": False, "f": False, 0: False,
}  # fmt: skip
_PLAIN_NAME = re.compile(r"[^/\\\x00-\x1f\x7f]{1,255}")


class Fields:
    """The fields of one message. A field is taken once; what is left at the end is `unread`."""

    def __init__(self, message: Message, source: str, path: str = "", *, line: int = 0, json: bool = False) -> None:
        self._left = dict(message.entries)
        self._source = source
        self._path = path
        self._json = json
        self._opened: list[Fields] = []
        self._line = line
        self._lines = {name: entries[0].line for name, entries in message.entries.items() if entries}

    def unread(self) -> list[str]:
        """Return the dotted paths of the fields that nobody took, here and below, each once."""
        own = [self._join(_snake(name) if self._json else name) for name in self._left]
        below = [path for fields in self._opened for path in fields.unread()]
        return list(dict.fromkeys(own + below))

    def given(self, *names: str) -> list[str]:
        """Return those of `names` that are there, without taking them."""
        return [name for name in names if name in self._left or (self._json and _camel(name) in self._left)]

    def integer(self, name: str, low: int, high: int) -> int | None:
        """Take a whole number in low..high."""
        return self._single(name, lambda entry: self._integer(name, entry, low, high))

    def integers(self, name: str, low: int, high: int) -> tuple[int, ...]:
        """Take a repeated whole number, each in low..high."""
        return tuple(self._integer(name, entry, low, high) for entry in self._take(name))

    def boolean(self, name: str) -> bool:
        """Take a truth value; absent is false, as in proto3."""
        return self._single(name, lambda entry: self._boolean(name, entry)) or False

    def text(self, name: str) -> str:
        """Take a string; absent is empty, as in proto3."""
        return self._single(name, lambda entry: self._text(name, entry)) or ""

    def file_name(self, name: str) -> str:
        """Take a string that names a file of the model's own directory: no path, nothing hidden."""
        value = self.text(name)
        if value and (not _PLAIN_NAME.fullmatch(value) or value.startswith(".")):
            self.refuse(name, "a plain file name", value)
        return value

    def choice(self, name: str, choices: Mapping[str, T], numbers: tuple[str, ...]) -> T | None:
        """Take an enum's value, by name or, as proto3 also allows, by its index in `numbers`.

        A name that is in `numbers` and not in `choices` is one the protocol has and we refuse.
        """
        return self._single(name, lambda entry: self._choice(name, entry, choices, numbers))

    def message(self, name: str) -> "Fields | None":
        """Take a message."""
        return self._single(name, lambda entry: self._open(name, entry))

    def messages(self, name: str) -> "list[Fields]":
        """Take a repeated message."""
        return [self._open(name, entry) for entry in self._take(name)]

    def mapping(self, name: str) -> "dict[str, Fields]":
        """Take a map of messages: entries of key and value in text format, one object in JSON."""
        return {key: self._open(f"{name}.{key}", entry) for key, entry in self._pairs(name)}

    def texts(self, name: str) -> "dict[str, str]":
        """Take a map of strings: entries of key and value in text format, one object in JSON."""
        return {key: self._text(f"{name}.{key}", entry) for key, entry in self._pairs(name)}

    def refuse(self, name: str, expected: str, got: object, entry: Entry | None = None) -> NoReturn:
        """Raise ModelLoadFailed for one field, at the line of `entry` or else where the field or its message starts."""
        line = entry.line if entry is not None else self._lines.get(name, self._line)
        place = f"{self._source} line {line}" if line else self._source
        raise ModelLoadFailed(f"{place}: {self._join(name)}: expected {expected}, got {_shown(got)}")

    def _take(self, name: str) -> list[Entry]:
        names = self.given(name)
        if not names:
            return []
        if self._json and name in self._left and _camel(name) != name and _camel(name) in self._left:
            self.refuse(name, "it once", Word(f"{name} and {_camel(name)}"))
        return self._left.pop(name) if name in self._left else self._left.pop(_camel(name))

    def _single(self, name: str, convert: Callable[[Entry], T]) -> T | None:
        entries = self._take(name)
        if len(entries) > 1:
            self.refuse(name, "it once", Word(f"{len(entries)} of them"), entries[1])
        return convert(entries[0]) if entries else None

    def _integer(self, name: str, entry: Entry, low: int, high: int) -> int:
        value = entry.value
        if self._json and isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,20}", value):
            value = int(value)  # 64-bit integers are strings in protobuf's JSON
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            self.refuse(name, f"a whole number from {low} to {high}", value, entry)
        return value

    def _boolean(self, name: str, entry: Entry) -> bool:
        value = entry.value.text if isinstance(entry.value, Word) else entry.value
        if isinstance(value, (Message, float)) or value not in _TRUTH or isinstance(entry.value, str):
            self.refuse(name, "true or false", entry.value, entry)
        return _TRUTH[value]

    def _text(self, name: str, entry: Entry) -> str:
        if not isinstance(entry.value, str):
            self.refuse(name, "a string", entry.value, entry)
        return entry.value

    def _choice(self, name: str, entry: Entry, choices: Mapping[str, T], numbers: tuple[str, ...]) -> T:
        value = entry.value.text if isinstance(entry.value, Word) else entry.value
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(numbers):
            value = numbers[value]
        if not isinstance(value, str) or value not in choices or (isinstance(entry.value, str) and not self._json):
            self.refuse(name, f"one of {', '.join(choices)}", value, entry)
        return choices[value]

    def _message(self, name: str, entry: Entry) -> Message:
        if not isinstance(entry.value, Message):
            self.refuse(name, "a message", entry.value, entry)
        return entry.value

    def _open(self, name: str, entry: Entry) -> "Fields":
        message = self._message(name, entry)
        fields = Fields(message, self._source, self._join(name), line=entry.line, json=self._json)
        self._opened.append(fields)
        return fields

    def _pairs(self, name: str) -> list[tuple[str, Entry]]:
        if not self._json:
            return [self._pair(name, entry) for entry in self._take(name)]
        whole = self._single(name, lambda entry: self._message(name, entry)) or Message()
        return [(key, entry) for key, entries in whole.entries.items() for entry in entries]

    def _pair(self, name: str, entry: Entry) -> tuple[str, Entry]:
        pair = self._message(name, entry).entries
        keys, values = pair.get("key", []), pair.get("value", [Entry(Message(), entry.line)])
        if len(keys) != 1 or len(values) != 1 or not isinstance(keys[0].value, (str, int)):
            self.refuse(name, "one key and one value", sorted(pair), entry)
        return str(keys[0].value), values[0]

    def _join(self, name: str) -> str:
        return f"{self._path}.{name}" if self._path else name


def _shown(value: "Scalar | Message | object") -> str:
    if isinstance(value, Message):
        return "a message"
    return (value.text if isinstance(value, Word) else repr(value))[:64]


def _camel(name: str) -> str:
    """Return a field's name as protobuf's JSON spells it."""
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])[A-Z]", lambda letter: f"_{letter.group().lower()}", name)
