"""How every client command reaches a server: the same flags, one call helper, errors as one clear line."""

import argparse
import os
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, Self, TypeVar

import grpc

from server.cli.main import CommandError


class _Message(Protocol):
    def SerializeToString(self) -> bytes: ...  # noqa: N802 - protobuf's name


Response = TypeVar("Response")


class CallFailed(CommandError):
    """The server answered with an error, or nobody answered."""

    exit_code = 1


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say where the server is and how to talk to it."""
    group = parser.add_argument_group("connection")
    group.add_argument(
        "--server",
        default=os.environ.get("SLUICE_SERVER", "127.0.0.1:8001"),
        metavar="HOST:PORT",
        help="also SLUICE_SERVER (default: %(default)s)",
    )
    group.add_argument("--timeout", type=float, default=10.0, metavar="SECONDS", help="(default: %(default)s)")
    group.add_argument("--tls-ca", type=Path, metavar="FILE", help="PEM authority of the server; switches TLS on")
    group.add_argument("--tls-cert", type=Path, metavar="FILE", help="PEM certificate of this client (mTLS)")
    group.add_argument("--tls-key", type=Path, metavar="FILE", help="PEM key of this client (mTLS)")
    group.add_argument("--api-key-file", type=Path, metavar="FILE", help="file holding the API key")
    group.add_argument("--json", action="store_true", help="print JSON, for scripts")


class Client:
    """Calls by method path; use as a context manager."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._server: str = arguments.server
        self._timeout: float = arguments.timeout
        self._metadata = credentials(arguments)
        self._channel = _open(arguments)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def call(self, path: str, request: _Message, response: type[Response]) -> Response:
        """Make one unary call.

        Raises:
            CallFailed: with the status and the server's sentence.
        """
        method = self._channel.unary_unary(
            path,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=response.FromString,  # type: ignore[attr-defined]
        )
        try:
            answer: Response = method(request, timeout=self._timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            raise CallFailed(self._sentence(error)) from error
        return answer

    def stream(self, path: str, request: _Message, response: type[Response]) -> Iterator[Response]:
        """Make one server-streaming call and yield its messages; it has no deadline.

        Raises:
            CallFailed: with the status and the server's sentence.
        """
        method = self._channel.unary_stream(
            path,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=response.FromString,  # type: ignore[attr-defined]
        )
        try:
            yield from method(request, metadata=self._metadata)
        except grpc.RpcError as error:
            raise CallFailed(self._sentence(error)) from error

    def _sentence(self, error: grpc.RpcError) -> str:
        code, details = error.code(), error.details() or ""
        if code is grpc.StatusCode.UNAVAILABLE and "failed to connect" in details:
            if "refused" in details:
                return f"no server answers at {self._server}; start one with `sluice serve`"
            return f"cannot talk to {self._server}: {details.rpartition('last error: ')[2]}"
        return f"{code.name}: {details}"


def credentials(arguments: argparse.Namespace) -> tuple[tuple[str, str], ...]:
    """Return what goes with every call: the API key, if there is one. Raises CommandError."""
    key = _read(arguments.api_key_file)
    return (("authorization", f"Bearer {key.decode().strip()}"),) if key else ()


def tls_context(arguments: argparse.Namespace) -> ssl.SSLContext | None:
    """Return how connections are secured, None for not at all. Raises CommandError."""
    if arguments.tls_ca is None:
        if arguments.tls_cert is not None or arguments.tls_key is not None:
            raise CommandError("--tls-cert and --tls-key: expected --tls-ca with them, which switches TLS on")
        return None
    try:
        context = ssl.create_default_context(cafile=arguments.tls_ca)
        if arguments.tls_cert is not None:
            context.load_cert_chain(arguments.tls_cert, arguments.tls_key)
    except OSError as error:
        raise CommandError(f"cannot use the TLS files: {error.strerror or error}") from error
    context.set_alpn_protocols(["h2"])
    return context


def _open(arguments: argparse.Namespace) -> grpc.Channel:
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    if tls_context(arguments) is None:  # which also says what is wrong with the files, as gRPC would not
        return grpc.insecure_channel(arguments.server, options)
    credentials = grpc.ssl_channel_credentials(
        _read(arguments.tls_ca), _read(arguments.tls_key), _read(arguments.tls_cert)
    )
    return grpc.secure_channel(arguments.server, credentials, options)


def _read(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise CommandError(f"cannot read {path}: {error.strerror}") from error
