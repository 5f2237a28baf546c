"""A parsed ModelInferRequest checked against what its model promises: every rule of a request, one sentence each.

The result is a `Layout` (what the request means) and its raw contents. docs/protocol.md lists the rules.
This module must never know how the request came or where it goes.
"""

from collections.abc import Mapping, Sequence

from server.errors import InvalidRequest
from server.messages import ITEM_BYTES
from server.pb import open_inference_pb2 as pb
from server.spec import ModelSpec, TensorSpec
from server.wire.contents import to_raw
from server.wire.layout import Asked, Layout, Slot
from server.wire.limits import Limits
from server.wire.parameters import priority, refuse_reserved, timeout, whole_number
from server.wire.shared_memory import SharedMemory, place
from server.wire.text import check_id, dims, listing, quote

Message = pb.ModelInferRequest
InputTensor = pb.ModelInferRequest.InferInputTensor
OutputTensor = pb.ModelInferRequest.InferRequestedOutputTensor


def check(message: Message, spec: ModelSpec, limits: Limits, memory: SharedMemory | None) -> Layout:
    """Prove everything about a request but the bytes of its tensors.

    Raises:
        InvalidRequest: with one sentence that names the tensor, what was expected and what came.
        Unimplemented: it wants shared memory and there is none.
    """
    _check_counts(message, limits)
    check_id(message.id, limits.max_name)
    slots = _slots(message.inputs, spec, limits)
    for slot, tensor in zip(slots, message.inputs, strict=True):
        slot.place = place(tensor.parameters, memory, f"input {quote(slot.name)}", limits.max_message_bytes)
    rows = _rows(slots, spec, limits)
    asked = _asked(message, spec)
    places = [
        place(output.parameters, memory, f"output {quote(output.name)}", limits.max_message_bytes)
        for output in message.outputs
    ]
    asked.places = tuple(places) if any(places) else ()
    return Layout(spec, slots, rows, asked)


def raw_contents(message: Message, layout: Layout) -> list[bytes]:
    """Return the raw form of every input, in the request's order and of the length its shape says.

    Raises:
        InvalidRequest: raw and typed contents are mixed, or the number of entries or a length is wrong.
    """
    given = iter(message.raw_input_contents)
    raw = _is_raw(message, layout)
    contents = []
    for slot, tensor in zip(layout.slots, message.inputs, strict=True):
        if slot.place is not None:
            data = slot.place.read()
        elif raw:
            data = next(given)
        else:
            data = to_raw(slot.name, slot.datatype, slot.elements, tensor.contents)
        slot.check(data)
        contents.append(data)
    return contents


def _is_raw(message: Message, layout: Layout) -> bool:
    """Whether contents come raw; what lies in shared memory has neither raw nor typed ones."""
    expected = sum(slot.place is None for slot in layout.slots)
    got = len(message.raw_input_contents)
    for slot, tensor in zip(layout.slots, message.inputs, strict=True):
        if tensor.HasField("contents") and (got or slot.place is not None):
            raise InvalidRequest(f"input {quote(slot.name)}: expected its contents in one way, got two")
    if got and got != expected:
        raise InvalidRequest(f"raw_input_contents: expected {expected} entries, one per input, got {got}")
    return got > 0


def _check_counts(message: Message, limits: Limits) -> None:
    for what, count, most in (
        ("inputs", len(message.inputs), limits.max_inputs),
        ("outputs", len(message.outputs), limits.max_outputs),
        ("parameters", len(message.parameters), limits.max_parameters),
    ):
        if count > most:
            raise InvalidRequest(f"{what}: expected at most {most}, got {count}")


def _slots(inputs: Sequence[InputTensor], spec: ModelSpec, limits: Limits) -> list[Slot]:
    known = {tensor.name: tensor for tensor in spec.inputs}
    slots: dict[str, Slot] = {}
    for tensor in inputs:
        name = tensor.name
        if name not in known:
            raise InvalidRequest(f"input {quote(name)}: expected one of {listing(known)}")
        if name in slots:
            raise InvalidRequest(f"input {quote(name)}: expected once, got it twice")
        slots[name] = _slot(tensor, known[name], spec, limits)
    missing = [name for name, tensor in known.items() if name not in slots and not tensor.optional]
    if missing:
        raise InvalidRequest(f"input {quote(missing[0])} is missing: expected inputs {listing(known)}")
    return list(slots.values())


def _slot(tensor: InputTensor, promised: TensorSpec, spec: ModelSpec, limits: Limits) -> Slot:
    where = f"input {quote(promised.name)}"
    if tensor.datatype != promised.datatype:
        raise InvalidRequest(f"{where}: expected datatype {promised.datatype}, got {quote(tensor.datatype)}")
    shape = tuple(tensor.shape[: limits.max_rank + 1])
    if not _fits(shape, promised.shape):
        got = f"rank {len(tensor.shape)}" if len(tensor.shape) > limits.max_rank else dims(shape)
        raise InvalidRequest(f"{where}: expected shape {dims(promised.shape)}, got {got}")
    if min(shape, default=1) < 1:
        what = "at least 1 row" if spec.batches and shape[0] < 1 else "every dimension to be at least 1"
        raise InvalidRequest(f"{where}: expected {what}, got shape {dims(shape)}")
    slot = Slot(promised.name, promised.datatype, shape)
    if slot.nbytes > limits.max_message_bytes:
        item = ITEM_BYTES[slot.datatype]
        raise InvalidRequest(
            f"{where}: expected at most {limits.max_message_bytes} bytes, got shape {dims(shape)} of {item} bytes each"
        )
    if slot.nbytes < 0 and slot.elements > limits.max_bytes_elements:
        raise InvalidRequest(
            f"{where}: expected at most {limits.max_bytes_elements} BYTES elements, got shape {dims(shape)}"
        )
    return slot


def _fits(shape: Sequence[int], promised: Sequence[int]) -> bool:
    return len(shape) == len(promised) and all(
        wanted in (size, -1) for size, wanted in zip(shape, promised, strict=True)
    )


def _rows(slots: list[Slot], spec: ModelSpec, limits: Limits) -> int:
    if not spec.batches or not slots:
        return 1
    first = slots[0]
    rows = first.shape[0]
    for slot in slots:
        if slot.shape[0] != rows:
            raise InvalidRequest(
                f"input {quote(slot.name)}: expected {rows} rows as in {quote(first.name)}, got {slot.shape[0]}"
            )
    if rows > limits.max_rows:
        raise InvalidRequest(f"input {quote(first.name)}: expected at most {limits.max_rows} rows, got {rows}")
    return rows


def _asked(message: Message, spec: ModelSpec) -> Asked:
    refuse_reserved(message.parameters)
    outputs, classes = _outputs(message.outputs, {tensor.name: tensor for tensor in spec.outputs})
    return Asked(
        outputs=outputs,
        classes=classes if any(classes) else (),
        priority=priority(message.parameters, spec.config.batching.priority_levels),
        timeout=timeout(message.parameters),
    )


def _outputs(asked: Sequence[OutputTensor], known: Mapping[str, TensorSpec]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return the names of the requested outputs and the k of each that asks for classification."""
    names: dict[str, int] = {}
    for output in asked:
        name = output.name
        if name not in known:
            raise InvalidRequest(f"output {quote(name)}: expected one of {listing(known)}")
        if name in names:
            raise InvalidRequest(f"output {quote(name)}: expected once, got it twice")
        names[name] = _classes(output, known[name])
    return tuple(names), tuple(names.values())


def _classes(output: OutputTensor, promised: TensorSpec) -> int:
    if "classification" not in output.parameters:
        return 0
    where = f"output {quote(output.name)}: classification"
    if promised.datatype in ("BYTES", "BOOL"):
        raise InvalidRequest(f"{where}: expected a numeric output, got {promised.datatype}")
    return whole_number(output.parameters["classification"], where, 1, 1 << 31)
