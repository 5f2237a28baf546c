"""A collector for tests: hears OTLP over HTTP, and keeps every span with the resource it came from."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


@dataclass(frozen=True)
class HeardSpan:
    """One span as it came over the wire; identifiers in hexadecimal, `parent_id` "" for a root."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: int
    start: int
    end: int
    state: str
    attributes: dict
    resource: dict


class Collector:
    """What was heard so far."""

    def __init__(self) -> None:
        self.spans: list[HeardSpan] = []
        self.port = 0
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def hear(self, body: bytes) -> None:
        heard = [
            HeardSpan(
                span.name, span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex(), span.kind,
                span.start_time_unix_nano, span.end_time_unix_nano, span.trace_state,
                plain(span.attributes), plain(group.resource.attributes),
            )
            for group in ExportTraceServiceRequest.FromString(body).resource_spans
            for scope in group.scope_spans
            for span in scope.spans
        ]  # fmt: skip
        with self._lock:
            self.spans += heard

    def trace(self, trace_id: str) -> list[HeardSpan]:
        return [span for span in self.spans if span.trace_id == trace_id]

    def tree(self, trace_id: str, under: str) -> dict:
        """Return the names of the spans under a span as nested dictionaries; names must differ among siblings."""
        children = [span for span in self.trace(trace_id) if span.parent_id == under]
        named = {span.name: self.tree(trace_id, span.span_id) for span in children}
        assert len(named) == len(children), f"siblings share a name: {children}"
        return named


def plain(attributes) -> dict:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in attributes}


@contextmanager
def collector() -> Iterator[Collector]:
    """Run a collector for the length of the block."""
    heard = Collector()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            known = self.path == "/v1/traces" and self.headers["Content-Type"] == "application/x-protobuf"
            if known:
                heard.hear(body)
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200 if known else 404)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            """Tests read what was heard."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    heard.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield heard
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
