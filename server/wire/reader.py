"""From the bytes of a ModelInferRequest to an InferRequest: the recognised way, and the careful way that teaches it.

The recognised way compares bytes with layouts proven before (layout.py) and never builds a protobuf object. The careful
way pre-scans, parses, finds the model, checks everything and remembers the layout. Both end in the same request, as
a property test shows. This module must never know a call or a queue.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from google.protobuf.message import DecodeError

from server.catalog import Catalog, ServedModel
from server.errors import InvalidRequest, ModelNotFound, ServingError
from server.messages import InferRequest
from server.pb.open_inference_pb2 import ModelInferRequest
from server.spec import ModelSpec
from server.wire.convert import check, raw_contents
from server.wire.layout import RAW_TAG, Layout
from server.wire.limits import Limits
from server.wire.prescan import malformed, prescan, varint
from server.wire.shared_memory import SharedMemory
from server.wire.text import MAX_ECHO, quote

_MAX_LAYOUTS = 16
"""Layouts remembered per model and version asked for: a few client programs times a few batch sizes."""
_MAX_SEGMENT = 4 << 10
"""Bytes of a layout worth comparing; longer ones carry data or names no shipped client sends."""
_MAX_BINDINGS = 1024

NAME_TAG, VERSION_TAG, _ID_TAG = 0x0A, 0x12, 0x1A
_SEGMENT_TAGS = (0x22, 0x2A, 0x32)  # parameters, inputs, outputs

_REPLACEMENT = "\ufffd"
"""What stands for bytes that are not UTF-8; an id that has it goes the careful way, where protobuf decides."""

_NAME = re.compile(r"[\w.+-]{1,256}")
_VERSION = re.compile(r"[1-9][0-9]{0,17}")


Found = Callable[[ModelSpec], None]


def _ignore(_: ModelSpec) -> None:
    """Tell nobody."""


@dataclass(slots=True)
class _Binding:
    """What is remembered under one (model_name, model_version) as clients write them."""

    name: str
    version: str
    spec: ModelSpec
    layouts: tuple[Layout, ...] = field(default=())


class Reader:
    """Reads requests for every model of a catalog; any thread."""

    def __init__(self, catalog: Catalog, limits: Limits, memory: SharedMemory | None = None) -> None:
        self._catalog = catalog
        self._limits = limits
        self._memory = memory
        self._bindings: dict[tuple[bytes, bytes], _Binding] = {}

    def read(self, data: bytes, deadline: float, found: Found = _ignore) -> tuple[InferRequest, Layout]:
        """Turn bytes into a request that the model can take, and the layout its answer is encoded by.

        `found` hears which model it is for as soon as that is known, so that a refusal can be accounted to it.

        Raises:
            InvalidRequest: with one sentence that says what was expected and what came.
            ModelNotFound, ModelNotReady: as the catalog says.
        """
        return self._recognise(data, deadline) or self._parse(data, deadline, found)

    def first_named(self, data: bytes) -> ModelSpec | None:
        """Return the model that a message's first bytes name; as protobuf has it, a later name may be what counts."""
        header = head_of(data)
        if header is None:
            return None
        try:
            return find_model(self._catalog, header[0].decode(), header[1].decode()).spec
        except (ServingError, UnicodeDecodeError):
            return None

    def _recognise(self, data: bytes, deadline: float) -> tuple[InferRequest, Layout] | None:
        header = head_of(data)
        if header is None:
            return None
        name, version, raw_id, start = header
        binding = self._bindings.get((name, version))
        if binding is None or self._catalog.find(binding.name, binding.version).spec is not binding.spec:
            return None
        for layout in binding.layouts:
            if data.startswith(layout.segment, start):
                raws = layout.cut(data, start + len(layout.segment))
                if raws is None:
                    continue
                text = raw_id.decode(errors="replace")
                if text.isprintable() and _REPLACEMENT not in text:
                    return layout.request(raws, text, deadline), layout
                return None
        return None

    def _parse(self, data: bytes, deadline: float, found: Found) -> tuple[InferRequest, Layout]:
        prescan(data, self._limits)
        try:
            message = ModelInferRequest.FromString(data)
        except DecodeError as error:
            raise malformed() from error
        spec = find_model(self._catalog, message.model_name, message.model_version).spec
        found(spec)
        layout = check(message, spec, self._limits, self._memory)
        raws = raw_contents(message, layout)
        request = layout.request(raws, message.id, deadline)
        if message.raw_input_contents:
            self._remember(data, message, layout)
        return request, layout

    def _remember(self, data: bytes, message: ModelInferRequest, layout: Layout) -> None:
        header = head_of(data)
        if header is None:
            return
        name, version, _, start = header
        segment = _segment(data, start)
        if not segment or layout.cut(data, start + len(segment)) is None:
            return  # not in canonical order: correct, and too rare to be worth recognising
        layout.segment = segment
        key = (name, version)
        known = self._bindings.get(key)
        if known is None or known.spec is not layout.spec:
            if len(self._bindings) >= _MAX_BINDINGS:
                self._bindings.clear()
            known = self._bindings[key] = _Binding(message.model_name, message.model_version, layout.spec)
        known.layouts = (layout, *known.layouts[: _MAX_LAYOUTS - 1])


def find_model(catalog: Catalog, name: str, version: str) -> ServedModel:
    """Return a model by the name and version a caller wrote.

    Raises:
        InvalidRequest: either can never exist.
        ModelNotFound, ModelNotReady: as the catalog says.
    """
    if version and not _VERSION.fullmatch(version):
        raise InvalidRequest(f"model_version: expected a positive whole number or nothing, got {quote(version)}")
    try:
        return catalog.find(name, version)
    except ModelNotFound:
        if not name.strip():
            raise InvalidRequest("model_name is empty: expected the name of a model") from None
        if not _NAME.fullmatch(name):
            raise InvalidRequest(
                f"model_name: expected letters, digits and . _ - +, at most 256 of them, got {quote(name)}"
            ) from None
        if len(name) > MAX_ECHO:
            raise ModelNotFound(f"no model {quote(name)}") from None
        raise


def request_id(data: bytes) -> str:
    """Return the id of a message that may be wrong in other ways, "" where it cannot be told without parsing."""
    header = head_of(data)
    return "" if header is None else header[2].decode(errors="replace")


def head_of(data: bytes) -> tuple[bytes, bytes, bytes, int] | None:
    """Split off model_name, model_version and id where they are short, in order and once each; say where they end."""
    try:
        if data[0] != NAME_TAG:
            return None
        at = 2 + data[1]
        name = data[2:at]
        version = request_id = b""
        if data[at] == VERSION_TAG:
            start = at + 2
            at = start + data[at + 1]
            version = data[start:at]
        if data[at] == _ID_TAG:
            start = at + 2
            if data[at + 1] > 0x7F:  # the length takes a second byte
                return None
            at = start + data[at + 1]
            request_id = data[start:at]
    except IndexError:
        return None
    return name, version, request_id, at


def _segment(data: bytes, start: int) -> bytes | None:
    """Return the run of whole parameters, inputs and outputs at data[start:]; None when it is too long."""
    at, end = start, len(data)
    while at < end and data[at] in _SEGMENT_TAGS:
        size, at = varint(data, at + 1, end)
        at += size
        if at - start > _MAX_SEGMENT:
            return None
    return data[start:at] if at < end and data[at] == RAW_TAG else None
