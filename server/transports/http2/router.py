"""Finds what serves a path, and opens the call that goes with it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from server.transports.base import Call, Fast, Methods, StreamHandler, Streaming, Unary, UnaryHandler
from server.transports.http2.backlog import Backlog, Deliver, Shedder
from server.transports.http2.call import UnaryCall
from server.transports.http2.stream import StreamCall
from server.transports.lane import SlowLane

if TYPE_CHECKING:
    from server.transports.http2.connection import Connection
    from server.transports.http2.heads import Head


@dataclass(frozen=True, slots=True)
class Route:
    """How calls of one method are opened."""

    open: "Callable[[Connection, int, Head], UnaryCall | StreamCall]"
    deliver: Deliver
    """Takes a unary call's message, on the transport's thread."""
    shedder: Shedder | None = None
    """What sheds its calls; None where they may not be."""


class Router:
    """All methods, by path; every connection's."""

    def __init__(self, methods: Methods, lane: SlowLane, backlog: Backlog) -> None:
        self._routes = {path: _route(method, lane, backlog) for path, method in methods.items()}

    def find(self, path: str) -> Route | None:
        """Return the route of a path, None for an unknown one."""
        return self._routes.get(path)


def _route(method: Fast | Unary | Streaming, lane: SlowLane, backlog: Backlog) -> Route:
    if isinstance(method, Fast):
        shedder = None if method.shed is None else backlog.shedder(method.shed)
        return Route(UnaryCall, backlog.entry(method.handler, shedder), shedder)
    if isinstance(method, Unary):
        return Route(UnaryCall, _slowly(method.handler, lane))
    return Route(_streaming(method.handler, lane), _nothing)


def _slowly(handler: UnaryHandler, lane: SlowLane) -> Deliver:
    def enqueue(call: Call, message: bytes) -> None:
        lane.soon(lane.unary, call, message, handler)

    return enqueue


def _streaming(handler: StreamHandler, lane: SlowLane) -> "Callable[[Connection, int, Head], StreamCall]":
    def open_stream(connection: "Connection", number: int, head: "Head") -> StreamCall:
        call = StreamCall(connection, number, head, lane)
        lane.soon(call.serve, handler)
        return call

    return open_stream


def _nothing(_: UnaryCall, __: bytes) -> None:
    return
