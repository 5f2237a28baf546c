"""What is known of a model's answers: the key of a request's content, a bounded memory, and others who may know.

This module must never know a scheduler, a wire or a broker.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Protocol

from server.messages import InferRequest, Tensor

ENTRY_BYTES = 256
TENSOR_BYTES = 192
"""What an entry, and each tensor in or out of it, is taken to cost beside the outputs' data.

Measured with tracemalloc: 2,088 bytes an entry for ten small inputs and one output, 463 for one image and one output.
"""

EXACT_BYTES = 64
"""Tensors up to this long are their own key: comparing them is cheaper than hashing them."""

Outputs = tuple[Tensor, ...]
Key = tuple[tuple[str, ...], tuple[tuple[str, str, tuple[int, ...], int, bytes], ...]]
"""The outputs asked for, and per input: name, datatype, shape, bytes, and the bytes themselves or their digest."""


class ResponseCache:
    """Outputs by content key, bounded in bytes, the least recently used going first. Not thread-safe by itself."""

    def __init__(self, max_bytes: int) -> None:
        self.bytes = 0
        self._max_bytes = max_bytes
        self._entries: OrderedDict[Key, Outputs] = OrderedDict()

    def get(self, key: Key) -> Outputs | None:
        """Return what is known under a key."""
        outputs = self._entries.get(key)
        if outputs is not None:
            self._entries.move_to_end(key)
        return outputs

    def put(self, key: Key, outputs: Outputs) -> None:
        """Remember outputs; what alone is larger than the cache is not kept."""
        size = _size(key, outputs)
        if size > self._max_bytes or key in self._entries:
            return
        self._entries[key] = outputs
        self.bytes += size
        while self.bytes > self._max_bytes:
            self.bytes -= _size(*self._entries.popitem(last=False))


class SharedAnswers(Protocol):
    """What other processes know about one model version; `server.queues.redis_cache` has it. May forget anything."""

    def fetch(self, key: Key, found: Callable[[Outputs | None], None]) -> bool:
        """Ask; returns at once, and False where nobody can be asked now.

        After True `found` is called exactly once, from another thread and within a bounded time, with what is known.
        """

    def put(self, key: Key, outputs: Outputs) -> None:
        """Tell the others; returns at once and may be lost."""


@dataclass(frozen=True, slots=True)
class SharedStatistics:
    """How this process got on with the shared answers: `counts` by operation (get, put) and result."""

    available: bool
    counts: Mapping[tuple[str, str], int]


def content_key(request: InferRequest) -> Key:
    """Return all that the answer depends on; of long tensors a 256-bit digest, so that keys stay small."""
    return request.outputs, tuple(
        (
            tensor.name,
            tensor.datatype,
            tensor.shape,
            len(tensor.data),
            bytes(tensor.data) if len(tensor.data) <= EXACT_BYTES else blake2b(tensor.data, digest_size=32).digest(),
        )
        for tensor in request.inputs
    )


def _size(key: Key, outputs: Outputs) -> int:
    tensors = len(key[1]) + len(outputs)
    return ENTRY_BYTES + TENSOR_BYTES * tensors + sum(len(tensor.data) for tensor in outputs)
