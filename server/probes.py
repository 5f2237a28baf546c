"""The operators' port: /metrics, /livez and /readyz, on a thread of its own so that it answers whatever else is busy.

It opens before the models load, so that a start-up probe has somebody to ask, and closes last.
This module must never know gRPC, models or queues: it is told what to answer.
"""

import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import urlsplit

from typing_extensions import override

Page = Callable[[str], tuple[HTTPStatus, str, bytes]]
"""Takes the Accept header and produces status, content type and body; called on a request's own thread."""


def plain(check: Callable[[], str]) -> Page:
    """Make a probe page of a function that returns "" when all is well, else what is not."""

    def page(_: str) -> tuple[HTTPStatus, str, bytes]:
        problem = check()
        status = HTTPStatus.SERVICE_UNAVAILABLE if problem else HTTPStatus.OK
        return status, "text/plain; charset=utf-8", f"{problem or 'ok'}\n".encode()

    return page


class ProbeServer:
    """A small HTTP server of fixed pages."""

    def __init__(self, pages: dict[str, Page]) -> None:
        self._pages = pages
        self._server: ThreadingHTTPServer | None = None

    def start(self, host: str, port: int) -> int:
        """Open the port (0 for any free one) and return it. Raises OSError when it cannot be bound."""
        handler = type("Handler", (_Handler,), {"pages": self._pages})
        self._server = _Server((host, port), handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), name="probes", daemon=True).start()
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Stop answering. Idempotent."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    @override
    def handle_error(self, request: object, client_address: object) -> None:
        """A probe that hangs up half-way is not worth a line."""


class _Handler(BaseHTTPRequestHandler):
    pages: ClassVar[dict[str, Page]] = {}
    protocol_version = "HTTP/1.1"
    server_version = "sluice"
    sys_version = ""
    timeout = 10
    """Seconds a client may take to send its request line, so that idle connections do not hold threads."""

    def do_GET(self) -> None:
        """Answer one page; HEAD is the same without the body."""
        page = self.pages.get(urlsplit(self.path).path)
        if page is None:
            known = ", ".join(sorted(self.pages))
            self._answer(HTTPStatus.NOT_FOUND, "text/plain; charset=utf-8", f"expected one of {known}\n".encode())
        else:
            self._answer(*page(self.headers.get("Accept", "")))

    do_HEAD = do_GET  # noqa: N815 - the base class looks methods up by this name

    def _answer(self, status: HTTPStatus, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    @override
    def log_message(self, format: str, *args: object) -> None:
        """Scrapes every few seconds are not events."""
