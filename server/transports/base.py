"""The boundary between the network and the meaning of bytes.

A transport accepts gRPC calls and hands raw message bytes to the handler registered for the method's path; it knows
no protobuf, no model and no queue. Two implementations pass tests/contract/test_transport.py: `lean` (http2/, our own
HTTP/2, the default) and `aio` (grpc.aio generic handlers, for who asks for it).

Three kinds of method:
    Fast       `handler(call, message)` on the transport's own thread; must not block; replies through the call
               whenever it likes, from any thread. ModelInfer and the typed predictions.
    Unary      `await handler(call, message) -> bytes` on the slow lane's event loop. Metadata, admin, jobs.
    Streaming  `await handler(stream)`; reads with `async for`, writes with `await stream.send`. Health Watch,
               ModelStreamInfer, Jobs.Wait, reflection.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence, Sized
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from server.bundle import AddReader


class StatusCode(IntEnum):
    """gRPC's status codes, so that nothing outside the transports imports grpc."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


Metadata = Sequence[tuple[str, str | bytes]]


class StatusError(Exception):
    """A call's end with a status other than OK, already in transport terms."""

    def __init__(self, code: StatusCode, details: str, trailers: Metadata = ()) -> None:
        super().__init__(details)
        self.code = code
        self.details = details
        self.trailers = trailers


class Call(Protocol):
    """One RPC. Every method may be called from any thread; the first of `reply` and `fail` wins."""

    method: str
    """The path, e.g. /inference.GRPCInferenceService/ModelInfer."""

    @property
    def metadata(self) -> Metadata:
        """Request metadata, keys in lower case."""

    @property
    def peer(self) -> str:
        """Address of the caller in gRPC's form, e.g. ipv4:127.0.0.1:50000."""

    @property
    def deadline(self) -> float | None:
        """The instant (time.monotonic()) of the caller's deadline, None when it set none."""

    def reply(self, message: bytes) -> None:
        """Answer a unary call: message and OK. Ignored when the caller has gone or the call was answered."""

    def fail(self, code: StatusCode, details: str, trailers: Metadata = ()) -> None:
        """End the call with a status. Ignored when the caller has gone or the call was answered."""

    def on_cancel(self, callback: Callable[[], None]) -> None:
        """Call `callback` once if the caller goes away before the answer; at once if it already has.

        "Goes away" includes the caller's deadline passing. Called from any thread; must not block.
        """


class Stream(Protocol):
    """A streaming call, on the slow lane's event loop only. Cancelled callers cancel the handler's task."""

    method: str

    @property
    def metadata(self) -> Metadata:
        """Request metadata, keys in lower case."""

    @property
    def peer(self) -> str:
        """Address of the caller."""

    def time_remaining(self) -> float | None:
        """Seconds until the caller's deadline, None when it set none."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the caller's messages until it half-closes."""

    async def send(self, message: bytes) -> None:
        """Send one message; returns when the transport took it, so a slow reader slows the writer."""


FastHandler = Callable[[Call, bytes], None]


class Refusal(Protocol):
    """How calls end whose handler has just refused one like them."""

    @property
    def status(self) -> "StatusError":
        """What they hear."""

    @property
    def alike(self) -> int:
        """Bytes of a message by which their like are known, if everything else about two calls is the same."""

    def count(self, calls: int) -> None:
        """Hear of more that ended so; somebody will ask."""


class Shed(Protocol):
    """What becomes of calls that nobody will handle, because there are too many. The transport's thread asks."""

    @property
    def status(self) -> "StatusError":
        """How those end that would wait for the thread longer than their deadlines allow."""

    @property
    def recent(self) -> Sized:
        """Empty while nothing was refused lately, always the same object: then nobody needs to ask."""

    def refuse(self, message: bytes, seconds: float, metadata: Metadata, waited: float) -> Refusal | None:
        """Return how a call ends that its handler would only refuse, with so many seconds left; None if it would not.

        `waited` says how many seconds ago the call came, 0 for now; the same was asked then, if its message was there.
        """

    def count(self, calls: int) -> None:
        """Hear, now and then, how many more there were of the first kind, and that some of either were counted."""


UnaryHandler = Callable[[Call, bytes], Awaitable[bytes]]
StreamHandler = Callable[[Stream], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Fast:
    """A unary method answered by callback."""

    handler: FastHandler
    shed: Shed | None = None
    """What becomes of calls that have a deadline and are too many; without one they are handled like all others. A
    transport that knows no backlog of its own only asks for refusals."""


@dataclass(frozen=True, slots=True)
class Unary:
    """A unary method answered by a coroutine; it may raise StatusError."""

    handler: UnaryHandler


@dataclass(frozen=True, slots=True)
class Streaming:
    """A method that streams either way; the handler may raise StatusError. Returning ends the call with OK."""

    handler: StreamHandler


Methods = Mapping[str, Fast | Unary | Streaming]
"""Handlers by method path; unknown paths are answered UNIMPLEMENTED by the transport."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM contents, already read: certificate chain, key, and the CA that client certificates must come from."""

    certificate: bytes
    key: bytes
    client_ca: bytes | None = None


@dataclass(frozen=True, slots=True)
class TransportOptions:
    """Limits and lifetimes; durations are seconds. The reasons for the defaults are in docs/limits.md."""

    max_receive_bytes: int = 16 << 20
    max_send_bytes: int = 64 << 20
    max_metadata_bytes: int = 8 << 10
    max_concurrent_streams: int = 1024
    max_connections: int = 1000
    keepalive_time: float = 60.0
    keepalive_timeout: float = 20.0
    min_ping_interval: float = 30.0
    handshake_timeout: float = 20.0
    """Until a new connection must have finished TLS and sent its first HTTP/2 frame."""
    max_connection_idle: float = 600.0
    max_connection_age: float = 0.0
    """0 for no limit."""
    max_connection_age_grace: float = 30.0
    reuse_port: bool = False
    tls: TlsFiles | None = None


class Gather(Protocol):
    """Something that is cheaper to do for many calls at once, such as sending their requests elsewhere.

    A transport whose thread does many calls one after the other may take it over; the other leaves it alone.
    """

    def begin(self, add_reader: AddReader) -> None:
        """Say that the calling thread will flush what its own calls bring, and has sockets read by `add_reader`."""

    def waiting(self) -> int:
        """Return how much there is to be flushed."""

    def flush(self) -> None:
        """Do it; returns at once."""

    def pause(self) -> float:
        """Return for how many seconds nothing that comes could begin, so that it may as well be read together."""


class Ledger(Protocol):
    """Writes answered calls down, which is cheaper for many at once.

    A transport whose thread does many calls one after the other says when; the other leaves it alone.
    """

    def begin(self) -> None:
        """Say that the calling thread will settle what its own calls bring."""

    def settle(self) -> None:
        """Write down what was answered, right before the answers leave; returns at once."""


class Transport(Protocol):
    """A listening gRPC server."""

    name: str

    async def start(self, host: str, port: int) -> int:
        """Open the port (0 for any free one) and return it.

        Raises:
            OSError: the address cannot be bound.
        """

    async def drain(self, grace: float) -> None:
        """Refuse new calls with GOAWAY, let running ones finish within `grace` seconds, then cancel the rest."""

    async def close(self) -> None:
        """Stop at once. Idempotent; called after drain as well."""
