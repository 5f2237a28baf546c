"""An HTTP request in the clothes of a gRPC call, so that both protocols run through the very same handlers.

Authentication, admission, limits, validation, batching and the canonical log line are therefore one piece of code.
"""

import asyncio
from collections.abc import Callable

from aiohttp import web

from server.transports.base import Metadata, StatusCode, StatusError

HTTP_STATUS = {
    StatusCode.OK: 200,
    StatusCode.CANCELLED: 499,
    StatusCode.UNKNOWN: 500,
    StatusCode.INVALID_ARGUMENT: 400,
    StatusCode.DEADLINE_EXCEEDED: 504,
    StatusCode.NOT_FOUND: 404,
    StatusCode.ALREADY_EXISTS: 409,
    StatusCode.PERMISSION_DENIED: 403,
    StatusCode.RESOURCE_EXHAUSTED: 429,
    StatusCode.FAILED_PRECONDITION: 412,
    StatusCode.ABORTED: 409,
    StatusCode.OUT_OF_RANGE: 400,
    StatusCode.UNIMPLEMENTED: 501,
    StatusCode.INTERNAL: 500,
    StatusCode.UNAVAILABLE: 503,
    StatusCode.DATA_LOSS: 500,
    StatusCode.UNAUTHENTICATED: 401,
}


class HttpCall:
    """Implements transports.base.Call; `answer` resolves to the reply's bytes or raises StatusError."""

    def __init__(self, method: str, request: web.Request) -> None:
        self.method = method
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._loop = asyncio.get_running_loop()
        self._request = request
        self._cancelled: list[Callable[[], None]] = []

    @property
    def metadata(self) -> Metadata:
        """The HTTP headers, keys in lower case."""
        return [(key.lower(), value) for key, value in self._request.headers.items()]

    @property
    def peer(self) -> str:
        """Address of the caller."""
        return f"http:{self._request.remote}"

    @property
    def deadline(self) -> float | None:
        """HTTP callers set none; the `timeout` parameter of the request still counts."""
        return None

    def reply(self, message: bytes) -> None:
        """Answer with a serialised response message; from any thread."""
        self._settle(lambda: self.answer.set_result(message))

    def fail(self, code: StatusCode, details: str, trailers: Metadata = ()) -> None:
        """Answer with a status; from any thread."""
        self._settle(lambda: self.answer.set_exception(StatusError(code, details, trailers)))

    def on_cancel(self, callback: Callable[[], None]) -> None:
        """Call `callback` when the HTTP client hangs up before its answer."""
        self._cancelled.append(callback)

    def hang_up(self) -> None:
        """Tell the handlers that the caller has gone."""
        for callback in self._cancelled:
            callback()

    def _settle(self, settle: Callable[[], None]) -> None:
        self._loop.call_soon_threadsafe(lambda: None if self.answer.done() else settle())
