"""Requests and outcomes as bytes for a broker: versioned, digest-checked, no pickle.

A broker keeps what it was given without a checksum of its own (Redis's AOF has none), so a damaged byte must be seen
here and never reach a model. Instants do not travel: a deadline crosses process borders as a remaining budget, in the
broker's own fields, and whoever decodes says what it is on its own clock.
This module must never know which broker carries the bytes.

    offset  bytes  what
    0       2      b"SL"
    2       1      version of this layout, 1
    3       1      kind: Q request, A answer, E error
    4       16     BLAKE2b-128 of everything from offset 20
    20      4      length of the header, little-endian
    24      ...    header, JSON
    ...     ...    the tensors' raw bytes, one after the other
"""

import hashlib
import json
import struct
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any

from server.errors import ServingError
from server.messages import NO_DEADLINE, Buffer, Form, InferRequest, InferResponse, Packed, Tensor, Timing, taken_apart

Outcome = InferResponse | ServingError

_MAGIC = b"SL\x01"
_HEAD = struct.Struct("<3s1s16sI")
_BODY = 20
_LONGEST = 4096
"""Characters of a description of tensors that is worth remembering."""
_dump = json.JSONEncoder(separators=(",", ":")).encode
_read_head = json.JSONDecoder().raw_decode


class DamagedEnvelope(Exception):
    """Bytes that are not what was written: cut, altered, or of a version this build does not know."""


def encode_request(request: InferRequest) -> bytes:
    """Return `request` without its deadline."""
    r = request
    head = [r.model_name, r.model_version, r.id, r.rows, r.size, r.outputs, r.priority, r.timeout, r.traceparent]
    return _encode(b"Q", head, r.inputs)


def decode_request(data: bytes, deadline: float = NO_DEADLINE) -> InferRequest:
    """Return the request, its deadline set to `deadline` on the caller's monotonic clock.

    The tensors are views of `data`.

    Raises:
        DamagedEnvelope: these are not the bytes `encode_request` wrote.
    """
    head, tensors = _decode(b"Q", data)
    name, version, ident, rows, size, outputs, priority, timeout, traceparent = head
    return InferRequest(
        name, version, ident, tensors, rows, size, tuple(outputs), priority, deadline, timeout, traceparent
    )  # fmt: skip


def encode_outcome(outcome: Outcome) -> bytes:
    """Return an answer or an error."""
    if isinstance(outcome, ServingError):
        return _encode(b"E", [type(outcome).__name__, str(outcome), outcome.retry_after], ())
    t = outcome.timing
    timing = [t.queue, t.compute_input, t.compute_infer, t.compute_output, t.batch_rows]
    return _encode(b"A", [outcome.model_name, outcome.model_version, outcome.id, timing], outcome.outputs)


def decode_outcome(data: bytes) -> Outcome:
    """Return what `encode_outcome` was given; an error class this build does not know becomes a ServingError.

    Raises:
        DamagedEnvelope: these are not the bytes `encode_outcome` wrote.
    """
    if data[3:4] == b"E":
        (kind, message, retry_after), _ = _decode(b"E", data)
        return _ERRORS.get(kind, ServingError)(message, retry_after=retry_after)
    (name, version, ident, timing), tensors = _decode(b"A", data)
    return InferResponse(name, version, ident, tuple(tensors), Timing(*timing))


def fingerprint(request: InferRequest) -> str:
    """Return what makes two requests the same work: model, version, inputs and outputs asked for, as a SHA-256."""
    digest = hashlib.sha256()
    shapes = [(t.name, t.datatype, t.shape, len(t.data)) for t in request.inputs]
    digest.update(_dump([request.model_name, request.model_version, request.outputs, shapes]).encode())
    for tensor in request.inputs:
        digest.update(tensor.data)
    return digest.hexdigest()


def _encode(kind: bytes, head: Sequence[object], tensors: Sequence[Tensor]) -> bytes:
    packed = taken_apart(tensors)
    raws = packed.raws
    header = f"[{_dump(head)},{_write_shapes(packed.form, tuple(map(len, raws)))}]".encode()
    parts: list[Buffer] = [len(header).to_bytes(4, "little"), header, *raws]
    body = b"".join(parts)
    return b"".join((_MAGIC, kind, hashlib.blake2b(body, digest_size=16).digest(), body))


def _decode(kind: bytes, data: bytes) -> tuple[list[Any], Packed]:
    if len(data) < _HEAD.size:
        raise DamagedEnvelope(f"envelope: expected at least {_HEAD.size} bytes, got {len(data)}")
    magic, found, digest, length = _HEAD.unpack_from(data)
    if magic != _MAGIC or found != kind:
        raise DamagedEnvelope(f"envelope: expected it to start with {_MAGIC + kind!r}, got {bytes(data[:4])!r}")
    view = memoryview(data)
    if hashlib.blake2b(view[_BODY:], digest_size=16).digest() != digest:
        raise DamagedEnvelope("envelope: expected the digest it was written with, got another")
    at = _HEAD.size + length
    header = str(view[_HEAD.size : at], "utf-8")
    head, end = _read_head(header, 1)
    shapes = header[end + 1 : -1]
    form, bounds = _read_shapes(shapes) if len(shapes) <= _LONGEST else _read_shapes.__wrapped__(shapes)
    return head, Packed(form, [view[at + start : at + stop] for start, stop in bounds])


# Requests of one model mostly look alike: what they look like is written and read once for all of them.


@lru_cache(128)
def _write_shapes(form: Form, sizes: tuple[int, ...]) -> str:
    """Return name, datatype, shape and bytes of each tensor as JSON."""
    return _dump([(*known, size) for known, size in zip(form, sizes, strict=True)])


@lru_cache(128)
def _read_shapes(text: str) -> tuple[Form, list[tuple[int, int]]]:
    """Return name, datatype and shape of each tensor, and where its bytes begin and end behind the header."""
    shapes = json.loads(text)
    ends = accumulate(size for *_, size in shapes)
    form = tuple([(name, datatype, tuple(shape)) for name, datatype, shape, _ in shapes])
    return form, [(end - size, end) for (*_, size), end in zip(shapes, ends, strict=True)]


def _tree(root: type[ServingError]) -> Iterator[type[ServingError]]:
    yield root
    for child in root.__subclasses__():
        yield from _tree(child)


_ERRORS = {kind.__name__: kind for kind in _tree(ServingError)}
