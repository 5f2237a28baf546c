"""How much work this process holds at once, counted in requests and in bytes, before any of it is parsed.

gRPC's own limit (`maximum_concurrent_rpcs`) counts calls that have not even sent their message and refuses health
checks with the rest; this one counts inference requests whose bytes are here.
"""

import threading

from server.errors import QueueFull, ShuttingDown, TooLarge
from server.wire.limits import Limits

_RETRY_AFTER = 0.1
"""Seconds; at this bound thousands of requests are in flight, so room comes within a fraction of a second."""


class Admission:
    """Counts requests in flight. Every `enter` that returned is followed by exactly one `leave`."""

    def __init__(self, limits: Limits) -> None:
        self._max_requests = limits.max_inflight_requests
        self._max_bytes = limits.max_inflight_bytes
        self._max_message = limits.max_message_bytes
        self._lock = threading.Lock()
        self._requests = 0
        self._bytes = 0
        self._closed = False

    @property
    def inflight(self) -> int:
        """Requests accepted and not yet answered."""
        return self._requests

    @property
    def inflight_bytes(self) -> int:
        """Their encoded size in all."""
        return self._bytes

    def enter(self, size: int) -> None:
        """Count a request of `size` bytes in.

        Raises:
            TooLarge: the message alone is over the limit.
            QueueFull: too many requests or bytes are in flight.
            ShuttingDown: `close` was called.
        """
        if size > self._max_message:
            raise TooLarge(f"expected a message of at most {self._max_message} bytes, got {size}")
        with self._lock:
            if self._requests < self._max_requests and self._bytes + size <= self._max_bytes and not self._closed:
                self._requests += 1
                self._bytes += size
                return
        if self._closed:
            raise ShuttingDown("this server is shutting down")
        raise self._full()

    def leave(self, size: int) -> None:
        """Count a request of `size` bytes out."""
        with self._lock:
            self._requests -= 1
            self._bytes -= size

    def close(self) -> None:
        """Refuse what comes from now on; what is in flight goes on."""
        self._closed = True

    def _full(self) -> QueueFull:
        if self._requests >= self._max_requests:
            message = f"expected at most {self._max_requests} requests in flight, and so many are"
        else:
            message = f"expected at most {self._max_bytes} bytes of requests in flight, and {self._bytes} are"
        return QueueFull(message, retry_after=_RETRY_AFTER)
