"""What the portable transport tells gRPC's core: channel arguments and TLS; and how the core says "no deadline"."""

import grpc

from server.transports.base import TlsFiles, TransportOptions

_MISSING = float(1 << 31)


def channel_arguments(options: TransportOptions) -> list[tuple[str, int]]:
    """Translate limits and lifetimes into the core's channel arguments."""
    arguments = [
        ("grpc.max_receive_message_length", options.max_receive_bytes),
        ("grpc.max_send_message_length", options.max_send_bytes),
        # Between the soft and the hard limit the core rejects at random, so there is only one limit.
        ("grpc.max_metadata_size", options.max_metadata_bytes),
        ("grpc.absolute_max_metadata_size", options.max_metadata_bytes),
        ("grpc.max_concurrent_streams", options.max_concurrent_streams),
        ("grpc.max_allowed_incoming_connections", options.max_connections),
        ("grpc.keepalive_time_ms", _milliseconds(options.keepalive_time)),
        ("grpc.keepalive_timeout_ms", _milliseconds(options.keepalive_timeout)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", _milliseconds(options.min_ping_interval)),
        ("grpc.server_handshake_timeout_ms", _milliseconds(options.handshake_timeout)),
        ("grpc.max_connection_idle_ms", _milliseconds(options.max_connection_idle)),
        ("grpc.so_reuseport", int(options.reuse_port)),
    ]
    if options.max_connection_age:
        arguments.append(("grpc.max_connection_age_ms", _milliseconds(options.max_connection_age)))
        arguments.append(("grpc.max_connection_age_grace_ms", _milliseconds(options.max_connection_age_grace)))
    return arguments


def server_credentials(tls: TlsFiles) -> grpc.ServerCredentials:
    """Build TLS credentials; with a client CA every caller must show a certificate signed by it."""
    pair = (tls.key, tls.certificate)
    return grpc.ssl_server_credentials([pair], tls.client_ca, require_client_auth=tls.client_ca is not None)


def finite(seconds: float | None) -> float | None:
    """Turn the core's way of saying "no deadline" (292 years) into None; never below 0."""
    if seconds is None or seconds > _MISSING:
        return None
    return max(seconds, 0.0)


def _milliseconds(seconds: float) -> int:
    return min(int(seconds * 1000), (1 << 31) - 1)
