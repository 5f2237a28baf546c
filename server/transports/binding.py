"""The one place that knows grpcio's private binding: what of it the lean transport uses, under names with types.

`grpc._cython.cygrpc` is the layer that grpc.Server itself stands on. It is private, so pyproject.toml pins the grpcio
versions it was tested with, and `selfcheck` tries everything listed here before the lean transport is chosen.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from grpc._cython import cygrpc  # type: ignore[attr-defined]  # no types

from server.transports.base import Metadata


class CoreCall(Protocol):
    """cygrpc.Call."""

    def start_server_batch(self, operations: Sequence[object], tag: Callable[[Any], None]) -> int:
        """Start a batch; 0 when the core took it. The tag comes back with the event once all of it is done.

        Every operation must be a fresh object: the core frees what is inside once the batch is done, and a second
        use would free it twice.
        """

    def peer(self) -> bytes:
        """Address of the other side, as gRPC writes it."""

    def cancel(self, code: int, details: str) -> None:
        """End the call from this side, with a status."""


class _Ended:
    def start_server_batch(self, _: Sequence[object], __: Callable[[Any], None]) -> int:
        return 0

    def peer(self) -> bytes:
        return b""

    def cancel(self, _: int, __: str) -> None:
        return


ENDED: CoreCall = _Ended()
"""Takes a call's place once it is over, so that nobody can start a batch on it or keep the core's memory of it."""


class CallDetails(Protocol):
    """cygrpc.CallDetails."""

    method: bytes
    deadline: float
    """On time.time(); 292 years ahead for none."""


class NewCall(Protocol):
    """cygrpc.RequestCallEvent."""

    success: bool
    call: CoreCall
    call_details: CallDetails
    invocation_metadata: Metadata


class Done(Protocol):
    """cygrpc.BatchOperationEvent; `batch_operations` are the operations as they were given."""

    success: bool
    batch_operations: Sequence[Any]


CompletionQueue: Any = cygrpc.CompletionQueue
Server: Any = cygrpc.Server
QUEUE_SHUTDOWN: int = cygrpc.CompletionType.queue_shutdown
QUEUE_TIMEOUT: int = cygrpc.CompletionType.queue_timeout

ReceiveMessage: Callable[[int], object] = cygrpc.ReceiveMessageOperation
ReceiveClose: Callable[[int], object] = cygrpc.ReceiveCloseOnServerOperation
SendInitialMetadata: Callable[[Metadata | None, int], object] = cygrpc.SendInitialMetadataOperation
SendMessage: Callable[[bytes, int], object] = cygrpc.SendMessageOperation
SendStatus: Callable[[Metadata | None, int, bytes, int], object] = cygrpc.SendStatusFromServerOperation
