"""Which transport serves."""

import os
from typing import Literal

from server.transports.base import Gather, Ledger, Methods, Transport, TransportOptions
from server.transports.http2.transport import Http2Transport


def choose(
    name: Literal["auto", "lean", "aio"],
    methods: Methods,
    options: TransportOptions,
    gather: Gather | None = None,
    ledger: Ledger | None = None,
) -> Transport:
    """Build the transport called `name`; `auto` is lean."""
    if name == "aio":
        # Otherwise gRPC's core writes a line to stderr for each malformed frame that a caller sends.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        # Imported here, so that a server that does without grpc's 20 MB of code has none of it in memory.
        from server.transports.aio import AioTransport  # noqa: PLC0415

        return AioTransport(methods, options)
    return Http2Transport(methods, options, gather=gather, ledger=ledger)
