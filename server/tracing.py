"""OpenTelemetry: which requests are traced, and spans on their way to a collector (OTLP over HTTP).

The only module that knows the library, and imported only where `--otlp-endpoint` asks for it. The library's sampler
decides (OTEL_TRACES_SAMPLER, parent-based unless that says otherwise), its batch processor sends from a thread of its
own and drops what it cannot hold; the spans themselves are made here, finished and with explicit times, because the
library's own way of making them would keep an object and a lock per request while it runs.
"""

import logging
import random
import threading
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import Decision, Sampler
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)
from typing_extensions import override

from server import log
from server.spans import Kind, Span, rpc_spans, work_spans
from server.traceparent import HEADER, TraceContext, header, parse
from server.transports.base import Metadata
from server.wire.observer import Outcome
from server.work import Work

PATH = "/v1/traces"
_UNTRACED = ("/grpc.health.v1.Health/", "/grpc.reflection.")
"""Probes and tools ask these all the time, and nobody looks for them in a trace."""
_COMPLAINTS_PER_SECOND = 1
_NOT_SAMPLED = "00"
_KINDS = {Kind.SERVER: SpanKind.SERVER, Kind.CONSUMER: SpanKind.CONSUMER, Kind.INTERNAL: SpanKind.INTERNAL}
_random = random.SystemRandom()


def open_tracing(endpoint: str, about: Mapping[str, str]) -> "OtelTracing":
    """Begin to trace to the collector at `endpoint`, a base URL.

    `about` describes this server; OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES win over it.

    Raises:
        ValueError: an OTEL_* variable cannot be.
    """
    said = OTELResourceDetector().detect().attributes
    url = endpoint if endpoint.endswith(PATH) else endpoint.rstrip("/") + PATH
    resource = Resource.create({**about, **said})
    sampler = TracerProvider(resource=resource, shutdown_on_exit=False).sampler
    _listen()
    return OtelTracing(BatchSpanProcessor(OTLPSpanExporter(endpoint=url)), sampler, resource)


class OtelTracing:
    """Implements spans.Tracing."""

    def __init__(self, processor: SpanProcessor, sampler: Sampler, resource: Resource) -> None:
        self._processor = processor
        self._sampler = sampler
        self._resource = resource
        self._scope = InstrumentationScope("sluice")

    def begin(self, metadata: Metadata) -> str:
        """See `Tracing`."""
        return str(self._begin(parse(header(metadata, HEADER))))

    def rpc(self, outcome: Outcome) -> None:
        """See `Tracing`."""
        own = outcome.traceparent if outcome.request is None else outcome.request.traceparent
        if own.endswith(_NOT_SAMPLED) or outcome.method.startswith(_UNTRACED):
            return
        context = parse(own) or self._begin(parse(header(outcome.metadata, HEADER)))
        if context.sampled:
            self._send(rpc_spans(outcome, context, _new_span_id))

    def worked(self, work: Work) -> None:
        """See `Tracing`."""
        parent = parse(work.claim.request.traceparent)
        context = self._begin(parent)
        if context.sampled:
            self._send(work_spans(work, context, parent, _new_span_id))

    def close(self, seconds: float) -> None:
        """See `Tracing`. A collector that does not answer is given up then; the thread that waits is left behind."""
        flushing = threading.Thread(target=self._processor.shutdown, name="traces-flush", daemon=True)
        flushing.start()
        flushing.join(seconds)
        if flushing.is_alive():
            log.event("traces_lost", logging.WARNING, reason=f"the collector did not take them within {seconds:g} s")

    def _begin(self, parent: TraceContext | None) -> TraceContext:
        """Return a new span's context in the trace of `parent`, or in one of its own; the sampler decides on both."""
        trace_id = f"{_random.getrandbits(128):032x}" if parent is None else parent.trace_id
        around = None if parent is None else set_span_in_context(NonRecordingSpan(_span_context(parent, remote=True)))
        decision = self._sampler.should_sample(around, int(trace_id, 16), "").decision
        return TraceContext(trace_id, _new_span_id(), decision is Decision.RECORD_AND_SAMPLE)

    def _send(self, spans: Iterable[Span]) -> None:
        for span in spans:
            self._processor.on_end(self._readable(span))

    def _readable(self, span: Span) -> ReadableSpan:
        return ReadableSpan(
            span.name,
            context=_span_context(span.context, span.state),
            parent=None if span.parent is None else _span_context(span.parent, remote=span.kind is not Kind.INTERNAL),
            resource=self._resource,
            attributes=MappingProxyType(span.attributes),
            kind=_KINDS[span.kind],
            status=Status(StatusCode.ERROR if span.failed else StatusCode.UNSET),
            start_time=span.start,
            end_time=span.end,
            instrumentation_scope=self._scope,
        )


def _new_span_id() -> str:
    return f"{_random.getrandbits(64):016x}"


def _span_context(context: TraceContext, state: str = "", *, remote: bool = False) -> SpanContext:
    return SpanContext(
        int(context.trace_id, 16),
        int(context.span_id, 16),
        remote,
        TraceFlags(int(context.sampled)),
        TraceState.from_header([state]) if state else None,
    )


class _Complaints(logging.Handler):
    """Turns what the library has to say (a collector that does not answer, a full queue) into events of ours."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._sampler = log.Sampler(_COMPLAINTS_PER_SECOND)

    @override
    def emit(self, record: logging.LogRecord) -> None:
        skipped = self._sampler.admit()
        if skipped is not None:
            log.event("traces_not_sent", logging.WARNING, reason=record.getMessage(), unlogged=skipped)


def _listen() -> None:
    logger = logging.getLogger("opentelemetry")
    logger.handlers[:] = [_Complaints()]
    logger.propagate = False
