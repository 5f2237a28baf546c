"""W3C Trace Context: which trace a request belongs to, as its `traceparent` says, without any library for it.

    00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01     version, trace, the caller's span, flags (01: sampled)

What does not have this form is no trace at all, so what a caller writes there never reaches a log or a metric.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from typing_extensions import override

HEADER = "traceparent"
STATE_HEADER = "tracestate"
_FORM = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII | re.DOTALL)
_SAMPLED = 1


class TraceContext(NamedTuple):
    """A span as others refer to it. The identifiers are 32 and 16 lower-case hexadecimal digits."""

    trace_id: str
    span_id: str
    sampled: bool

    @override
    def __str__(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"


def parse(text: str) -> TraceContext | None:
    """Return what a `traceparent` says, None if it says nothing valid."""
    found = _FORM.fullmatch(text)
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == "ff" or (version == "00" and more) or not trace_id.strip("0") or not span_id.strip("0"):
        return None
    return TraceContext(trace_id, span_id, bool(int(flags, 16) & _SAMPLED))


def given(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """Return the `traceparent` that came with a call, "" if none did or it is not valid."""
    text = header(metadata, HEADER)
    return text if parse(text) is not None else ""


def trace_id(traceparent: str) -> str:
    """Return the trace that a `traceparent` names, "" for none."""
    found = parse(traceparent)
    return "" if found is None else found.trace_id


def trace_field(traceparent: str) -> dict[str, str]:
    """Return the field that a log line has where there is a trace."""
    found = trace_id(traceparent)
    return {"trace_id": found} if found else {}


def header(metadata: Iterable[tuple[str, str | bytes]], name: str) -> str:
    """Return the first value of a header whose key is `name` (in lower case), "" if there is none."""
    for key, value in metadata:
        if key == name and isinstance(value, str):
            return value
    return ""
