"""What a server has said on one stream."""

from dataclasses import dataclass, field

from h2.errors import ErrorCodes


@dataclass
class Answer:
    """What has come for one stream so far."""

    headers: dict[str, str] = field(default_factory=dict)
    trailers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    chunks: list[int] = field(default_factory=list)
    ended: bool = False
    reset: ErrorCodes | None = None

    @property
    def status(self) -> str | None:
        """The gRPC status, also of an answer that is all trailers."""
        return self.trailers.get("grpc-status", self.headers.get("grpc-status"))

    @property
    def details(self) -> str | None:
        return self.trailers.get("grpc-message", self.headers.get("grpc-message"))

    @property
    def over(self) -> bool:
        return self.ended or self.reset is not None

    @property
    def message(self) -> bytes:
        """The only message of the body."""
        length = int.from_bytes(self.body[1:5], "big")
        assert len(self.body) == 5 + length, "not exactly one message"
        return bytes(self.body[5:])
