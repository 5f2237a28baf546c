"""Our own protobuf answers as the JSON that KServe and Triton clients expect: integers stay numbers."""

from typing import Any

from google.protobuf.message import Message

Json = dict[str, object]


def as_json(message: Message) -> Json:
    """Return the fields of a message by their proto names, zeros included; enums by name, maps as objects."""
    return {
        field.name: _value(field, getattr(message, field.name))
        for field in message.DESCRIPTOR.fields
        if not field.has_presence or message.HasField(field.name)
    }


def _value(field: Any, value: Any) -> object:  # noqa: ANN401 - protobuf's descriptors have no public types
    entry = field.message_type
    if entry is not None and entry.GetOptions().map_entry:
        inner = entry.fields_by_name["value"]
        return {str(key): _single(inner, item) for key, item in value.items()}
    if field.is_repeated:
        return [_single(field, item) for item in value]
    return _single(field, value)


def _single(field: Any, value: Any) -> object:  # noqa: ANN401 - ditto
    if isinstance(value, Message):
        return as_json(value)
    if field.enum_type is not None:
        return field.enum_type.values_by_number[value].name
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
