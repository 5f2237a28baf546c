"""Which transport serves: the lean one, or the portable one where the lean one's ground has moved."""

import logging
from typing import Literal

import grpc

from server import log
from server.transports.aio import AioTransport
from server.transports.base import Gather, Methods, Transport, TransportOptions


class TransportUnavailable(Exception):
    """The transport that was asked for by name does not work with the installed grpcio."""


def choose(
    name: Literal["auto", "lean", "aio"], methods: Methods, options: TransportOptions, gather: Gather | None = None
) -> Transport:
    """Build the transport called `name`; `auto` is lean, or aio with a line in the log when lean's self-check fails.

    Raises:
        TransportUnavailable: `lean` was asked for and its self-check failed.
    """
    if name == "aio":
        return AioTransport(methods, options)
    try:
        # Imported here: a binding without the names we use must not keep the other transport from starting.
        from server.transports.lean import LeanTransport  # noqa: PLC0415
        from server.transports.selfcheck import selfcheck  # noqa: PLC0415

        selfcheck()
    except Exception as error:
        reason = f"the lean transport's self-check failed with grpcio {grpc.__version__}: {error}"
        if name == "lean":
            raise TransportUnavailable(reason) from error
        log.event("transport_fallback", logging.WARNING, transport="aio", reason=reason)
        return AioTransport(methods, options)
    return LeanTransport(methods, options, gather=gather)
