"""Protobuf's text format and JSON, read into one plain tree whose leaves remember their line.

The grammar is https://protobuf.dev/reference/protobuf/textformat-spec/, less what no configuration needs
(signed infinities). The text may be hostile: its size and its depth are bounded, and nothing here calls anything.
This module must never know what the fields mean.
"""

import json
import re
from dataclasses import dataclass, field
from typing import NoReturn

from server.errors import ModelLoadFailed

MAX_CHARACTERS = 1 << 20
MAX_DEPTH = 32
MAX_DIGITS = 64


@dataclass(frozen=True, slots=True)
class Word:
    """An identifier that stands as a value: an enum's name, true or false."""

    text: str


Scalar = str | int | float | bool | Word


@dataclass(frozen=True, slots=True)
class Entry:
    """One value of a field and the line it starts on; JSON has no lines, 0 there."""

    value: "Scalar | Message"
    line: int = 0


@dataclass(frozen=True, slots=True)
class Message:
    """The values given to each field, in the order they came."""

    entries: dict[str, list[Entry]] = field(default_factory=dict)


_TOKEN = re.compile(
    r"""(?P<space>\s+|\#[^\n]*)
    |(?P<word>[A-Za-z_][A-Za-z0-9_]*)
    |(?P<number>-?(?:0[xX][0-9a-fA-F]+|(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?[fF]?)(?![\w.]))
    |(?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
    |(?P<mark>[{}<>\[\]:,;])
    |(?P<extension>[./])""",
    re.VERBOSE,
)
_INTEGER = re.compile(r"(-?)(?:0[xX]([0-9a-fA-F]+)|0([0-7]+)|(0|[1-9]\d*))")
_ESCAPE = re.compile(rb"\\(?:([0-7]{1,3})|[xX]([0-9a-fA-F]{1,2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.DOTALL)
_CONTROLS = {b"a": b"\a", b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}
_CLOSING = {"{": "}", "<": ">"}


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    line: int


def read_text(text: str, source: str) -> Message:
    """Read protobuf text format; `source` names it in errors, e.g. "mnist/config.pbtxt".

    Raises:
        ModelLoadFailed: naming the line, what was expected and what came.
    """
    _check_size(text, source)
    return _Parser(text, source).whole()


def read_json(text: str, source: str) -> Message:
    """Read a JSON object.

    Raises:
        ModelLoadFailed: it is no JSON object, holds a key twice, or is nested too deep.
    """
    _check_size(text, source)
    try:
        value = json.loads(text, object_pairs_hook=_json_message, parse_constant=_no_constant)
    except RecursionError as error:
        raise ModelLoadFailed(f"{source}: expected at most {MAX_DEPTH} levels, it is nested deeper") from error
    except ValueError as error:
        raise ModelLoadFailed(f"{source}: expected JSON: {str(error)[:200]}") from error
    if not isinstance(value, Message):
        raise ModelLoadFailed(f"{source}: expected a JSON object, got {type(value).__name__}")
    return value


def _check_size(text: str, source: str) -> None:
    if len(text) > MAX_CHARACTERS:
        raise ModelLoadFailed(f"{source}: expected at most {MAX_CHARACTERS} characters, it has {len(text)}")


class _Parser:
    """One pass over the tokens of a text."""

    def __init__(self, text: str, source: str) -> None:
        self._source = source
        self._tokens = list(self._lex(text))
        self._at = 0

    def whole(self) -> Message:
        return self._message("", 0)

    def _lex(self, text: str) -> "list[_Token]":
        tokens: list[_Token] = []
        at, line = 0, 1
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None:
                self._refuse("a field or a value", text[at : at + 16].splitlines()[0], line)
            if match.lastgroup != "space":
                tokens.append(_Token(match.lastgroup or "", match.group(), line))
            line += match.group().count("\n")
            at = match.end()
        tokens.append(_Token("end", "", line))
        return tokens

    def _message(self, closing: str, depth: int) -> Message:
        message = Message()
        while not self._skip(closing):
            token = self._take("word", "[", wanted=f"a field's name{closing and f' or {closing!r}'}")
            name = token.text if token.kind == "word" else self._extension()
            colon = self._skip(":")
            message.entries.setdefault(name, []).extend(self._values(depth, colon=colon))
            if not self._skip(","):
                self._skip(";")
        return message

    def _values(self, depth: int, *, colon: bool) -> list[Entry]:
        if not self._skip("["):
            return [self._value(depth, colon=colon)]
        values: list[Entry] = []
        while not self._skip("]"):
            if values:
                self._take(",", wanted="',' or ']'")
            values.append(self._value(depth, colon=colon))
        return values

    def _value(self, depth: int, *, colon: bool) -> Entry:
        token = self._tokens[self._at]
        if token.text in _CLOSING:
            self._at += 1
            if depth >= MAX_DEPTH:
                self._refuse(f"at most {MAX_DEPTH} levels", "another", token.line)
            return Entry(self._message(_CLOSING[token.text], depth + 1), token.line)
        if not colon:
            self._refuse("':' or '{'", token.text, token.line)
        self._take("word", "number", "string", wanted="a value")
        return Entry(self._scalar(token), token.line)

    def _scalar(self, token: _Token) -> Scalar:
        if token.kind == "word":
            return Word(token.text)
        if token.kind == "number":
            if len(token.text) > MAX_DIGITS:
                self._refuse(f"a number of at most {MAX_DIGITS} digits", token.text, token.line)
            return _number(token.text)
        parts = [token]
        while self._tokens[self._at].kind == "string":
            parts.append(self._take("string"))
        try:
            return b"".join(_unescape(part.text[1:-1]) for part in parts).decode()
        except (UnicodeDecodeError, OverflowError, ValueError):
            return self._refuse("a string of UTF-8", token.text, token.line)

    def _extension(self) -> str:
        words = []
        while not self._skip("]"):
            words.append(self._take("word", "extension", wanted="an extension's name").text)
        return f"[{''.join(words)}]"

    def _skip(self, text: str) -> bool:
        """Step over a mark, or over nothing at the end when `text` is empty; say whether it was there."""
        token = self._tokens[self._at]
        if token.text != text or token.kind not in ("mark", "end"):
            return False
        self._at += 1
        return True

    def _take(self, *kinds: str, wanted: str = "") -> _Token:
        token = self._tokens[self._at]
        if token.kind not in kinds and not (token.kind == "mark" and token.text in kinds):
            self._refuse(wanted, token.text or "the end", token.line)
        self._at += 1
        return token

    def _refuse(self, expected: str, got: str, line: int) -> NoReturn:
        raise ModelLoadFailed(f"{self._source} line {line}: expected {expected}, got {got[:64]!r}")


def _number(text: str) -> int | float:
    match = _INTEGER.fullmatch(text)
    if match is None:
        return float(text.rstrip("fF"))
    sign, hexadecimal, octal, decimal = match.groups()
    value = int(hexadecimal, 16) if hexadecimal else int(octal, 8) if octal else int(decimal)
    return -value if sign else value


def _unescape(text: str) -> bytes:
    return _ESCAPE.sub(_escaped, text.encode())


def _escaped(match: "re.Match[bytes]") -> bytes:
    octal, hexadecimal, short, long, other = match.groups()
    if octal:
        return bytes([int(octal, 8)])
    if hexadecimal:
        return bytes([int(hexadecimal, 16)])
    if short or long:
        return chr(int(short or long, 16)).encode()
    return _CONTROLS.get(other, bytes(other))


def _json_message(pairs: list[tuple[str, object]]) -> Message:
    message = Message()
    for name, value in pairs:
        if name in message.entries:
            raise ValueError(f"the key {name[:64]!r} is there twice")
        if value is not None:
            message.entries[name] = [
                Entry(_json_value(item)) for item in (value if isinstance(value, list) else [value])
            ]
    return message


def _json_value(value: object) -> "Scalar | Message":
    if isinstance(value, (str, int, float, bool, Message)):
        return value
    raise ValueError("a list holds null or another list")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")
