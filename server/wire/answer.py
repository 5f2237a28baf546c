"""An InferResponse as the bytes of a ModelInferResponse, written by hand for the common case.

Everything but the id and the tensors' bytes is the same for every answer of one layout and shape, so it is encoded
once and joined, and the bytes are those protobuf would write (a property test compares them). Outputs always travel as
`raw_output_contents`: Triton's C++ client reads nothing else. The classification extension takes the long way.
"""

from server.messages import Buffer, InferResponse, Tensor
from server.pb import open_inference_pb2 as pb
from server.wire.classification import classify
from server.wire.layout import Layout, encode_varint
from server.wire.shared_memory import BYTE_SIZE, OFFSET, REGION, Place

_NAME, _VERSION, _ID, _RAW = b"\x0a", b"\x12", b"\x1a", b"\x32"
_MAX_HEADS = 64


def encode(response: InferResponse, layout: Layout) -> bytes:
    """Return the message that answers a request of this layout."""
    outputs = response.outputs
    if layout.asked.classes:
        outputs = _classified(outputs, layout)
    if layout.asked.places:
        return _shared(response, outputs, layout.asked.places)
    key = outputs[0].shape if len(outputs) == 1 else tuple([output.shape for output in outputs])
    head = layout.heads.get(key)
    if head is None:
        head = _remember(layout, key, outputs)
    parts: list[Buffer] = [_prefix(response, layout), head]
    for output in outputs:
        data = output.data
        size = len(data) if type(data) is bytes else memoryview(data).nbytes
        parts += (_RAW, bytes((size,)) if size < 0x80 else encode_varint(size), data)
    return b"".join(parts)


def _shared(response: InferResponse, outputs: tuple[Tensor, ...], places: tuple[Place | None, ...]) -> bytes:
    """Put outputs where the caller wants them in shared memory; those have an empty entry among the raw contents."""
    answer = pb.ModelInferResponse(model_name=response.model_name, model_version=response.model_version, id=response.id)
    for output, place in zip(outputs, places, strict=True):
        described = answer.outputs.add(name=output.name, datatype=output.datatype, shape=output.shape)
        answer.raw_output_contents.append(b"" if place is not None else bytes(output.data))
        if place is not None:
            place.write(output.data)
            described.parameters[REGION].string_param = place.region
            described.parameters[BYTE_SIZE].int64_param = len(output.data)
            if place.offset:
                described.parameters[OFFSET].int64_param = place.offset
    return answer.SerializeToString()


def _prefix(response: InferResponse, layout: Layout) -> bytes:
    """Return model_name, model_version and id."""
    spec = layout.spec
    if response.model_version == spec.version and layout.prefix:
        start = layout.prefix
    else:
        start = _text(_NAME, response.model_name) + _text(_VERSION, response.model_version)
        if response.model_version == spec.version:
            layout.prefix = start
    return start + _text(_ID, response.id) if response.id else start


def _text(tag: bytes, text: str) -> bytes:
    data = text.encode()
    return tag + encode_varint(len(data)) + data if data else b""


def _remember(layout: Layout, key: tuple[int, ...] | tuple[tuple[int, ...], ...], outputs: tuple[Tensor, ...]) -> bytes:
    """Encode the descriptions of the outputs; shapes may come from a caller, so their number is bounded."""
    message = pb.ModelInferResponse()
    for output in outputs:
        message.outputs.add(name=output.name, datatype=output.datatype, shape=output.shape)
    if len(layout.heads) >= _MAX_HEADS:
        layout.heads.clear()
    head = layout.heads[key] = message.SerializeToString()
    return head


def _classified(outputs: tuple[Tensor, ...], layout: Layout) -> tuple[Tensor, ...]:
    labels = {tensor.name: tensor.labels for tensor in layout.spec.outputs}
    return tuple(
        classify(output, k, labels[output.name], batched=layout.spec.batches) if k else output
        for output, k in zip(outputs, layout.asked.classes, strict=True)
    )
