import logging
import subprocess
import sys
import threading
import time

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased
from opentelemetry.trace import SpanKind
from opentelemetry.trace import StatusCode as SpanStatus

from server import assembly
from server.errors import Cancelled, InferenceFailed
from server.messages import InferRequest, InferResponse, Timing
from server.queues.claims import Claim
from server.settings import InvalidSettings, Settings
from server.traceparent import parse
from server.tracing import OtelTracing, open_tracing
from server.transports.base import StatusCode
from server.wire.observer import Outcome
from server.work import Work

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
METHOD = "/inference.GRPCInferenceService/ModelInfer"
SAMPLED, NOT_SAMPLED = f"00-{TRACE}-{CALLER}-01", f"00-{TRACE}-{CALLER}-00"


@pytest.fixture
def exporter():
    return InMemorySpanExporter()


def tracing(exporter, sampler=ParentBased(ALWAYS_ON)):  # noqa: B008 - samplers have no state
    return OtelTracing(SimpleSpanProcessor(exporter), sampler, Resource({"service.name": "sluice"}))


def caller(traceparent, **more):
    return [("user-agent", "test"), ("traceparent", traceparent), *more.items()]


def answered(traces, metadata, *, seconds=0.010, **timing):
    """An RPC that ended just now."""
    request = InferRequest("churn", "1", "id-1", (), 2, traceparent=traces.begin(metadata))
    outcome = Outcome(
        METHOD, StatusCode.OK, seconds, "ipv4:10.0.0.7:5000", "churn", "1", "", request, Timing(**timing), metadata
    )
    traces.rpc(outcome)
    return outcome


def by_name(exporter):
    return {span.name: span for span in exporter.get_finished_spans()}


def span_id(span):
    return f"{span.context.span_id:016x}"


def test_an_rpc_is_a_server_span_in_its_callers_trace(exporter):
    traces = tracing(exporter)

    outcome = answered(traces, caller(SAMPLED, tracestate="vendor=opaque,other=1"))

    (span,) = exporter.get_finished_spans()
    assert (span.name, span.kind) == ("inference.GRPCInferenceService/ModelInfer", SpanKind.SERVER)
    assert (f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}") == (TRACE, CALLER)
    assert span.parent.is_remote
    assert span_id(span) == parse(outcome.request.traceparent).span_id
    assert dict(span.context.trace_state) == {"vendor": "opaque", "other": "1"}
    assert span.status.status_code is SpanStatus.UNSET
    assert dict(span.attributes) == {
        "rpc.system": "grpc",
        "rpc.service": "inference.GRPCInferenceService",
        "rpc.method": "ModelInfer",
        "rpc.grpc.status_code": 0,
        "network.peer.address": "10.0.0.7",
        "sluice.model": "churn",
        "sluice.version": "1",
        "sluice.request.id": "id-1",
        "sluice.request.rows": 2,
    }


def test_its_times_are_those_that_were_measured(exporter):
    traces, before = tracing(exporter), time.time_ns()
    began = time.monotonic() - 0.008

    answered(
        traces, caller(SAMPLED), started=began, queue=0.001, compute_input=0.0005, compute_infer=0.003,
        compute_output=0.0002, batch_rows=8,
    )  # fmt: skip

    spans, after = by_name(exporter), time.time_ns()
    rpc = spans["inference.GRPCInferenceService/ModelInfer"]
    assert before <= rpc.end_time <= after
    assert rpc.end_time - rpc.start_time == 10_000_000
    took = {name: (span.end_time - span.start_time) / 1e6 for name, span in spans.items() if span is not rpc}
    expected = {"queue": 1, "batch": 3.7, "compute_input": 0.5, "compute_infer": 3, "compute_output": 0.2}
    assert took == pytest.approx(expected, abs=1e-3)
    assert before - 8_500_000 <= spans["batch"].start_time <= after - 7_500_000
    assert spans["queue"].end_time == spans["batch"].start_time == spans["compute_input"].start_time
    assert spans["compute_input"].end_time == spans["compute_infer"].start_time


def test_queue_and_batch_hang_on_the_rpc_and_the_computing_on_the_batch(exporter):
    answered(tracing(exporter), caller(SAMPLED), started=time.monotonic() - 0.005, batch_rows=8)

    spans = by_name(exporter)
    parents = {name: span.parent.span_id for name, span in spans.items()}
    rpc = spans["inference.GRPCInferenceService/ModelInfer"].context.span_id
    assert parents["queue"] == parents["batch"] == rpc
    computing = {parents[name] for name in ("compute_input", "compute_infer", "compute_output")}
    assert computing == {spans["batch"].context.span_id}
    assert len({span.context.span_id for span in spans.values()}) == 6
    assert {f"{span.context.trace_id:032x}" for span in spans.values()} == {TRACE}


def test_the_requests_of_one_batch_name_the_same_batch(exporter):
    traces, began = tracing(exporter), time.monotonic() - 0.005
    for start in (began, began, began + 0.001):
        answered(traces, caller(SAMPLED), started=start, batch_rows=8)

    about = [span.attributes for span in exporter.get_finished_spans() if span.name == "batch"]
    first, second, third = (attributes["sluice.batch.id"] for attributes in about)
    assert first == second != third
    assert {attributes["sluice.batch.rows"] for attributes in about} == {8}


def test_nothing_reaches_out_of_the_rpc(exporter):
    """A follower of an identical request has its leader's times, which began before it came."""
    answered(
        tracing(exporter), caller(SAMPLED), seconds=0.001, started=time.monotonic() - 1, queue=5.0, compute_infer=9
    )

    spans = by_name(exporter)
    rpc = spans["inference.GRPCInferenceService/ModelInfer"]
    for span in spans.values():
        assert rpc.start_time <= span.start_time <= span.end_time <= rpc.end_time


def test_a_caller_who_does_not_sample_is_not_traced_and_its_flag_goes_on(exporter):
    traces = tracing(exporter)

    outcome = answered(traces, caller(NOT_SAMPLED), started=time.monotonic(), batch_rows=1)

    assert exporter.get_finished_spans() == ()
    assert parse(outcome.request.traceparent)[::2] == (TRACE, False)


def test_a_caller_without_a_trace_begins_one(exporter):
    traces = tracing(exporter)

    first, second = (answered(traces, [("user-agent", "test")]) for _ in range(2))

    one, other = exporter.get_finished_spans()
    assert one.parent is other.parent is None
    assert one.context.trace_id != other.context.trace_id
    assert f"{one.context.trace_id:032x}" == parse(first.request.traceparent).trace_id
    assert first.request.traceparent != second.request.traceparent


def test_the_ratio_holds_for_callers_without_a_trace_and_no_others(exporter):
    traces = tracing(exporter, ParentBased(ALWAYS_OFF))

    answered(traces, [])
    answered(traces, caller(SAMPLED))

    assert [f"{span.context.trace_id:032x}" for span in exporter.get_finished_spans()] == [TRACE]


@pytest.mark.parametrize(
    ("code", "status"),
    [(StatusCode.INTERNAL, SpanStatus.ERROR), (StatusCode.UNAVAILABLE, SpanStatus.ERROR),
     (StatusCode.INVALID_ARGUMENT, SpanStatus.UNSET), (StatusCode.RESOURCE_EXHAUSTED, SpanStatus.UNSET)],
)  # fmt: skip
def test_a_refused_rpc_is_traced_with_its_code_and_only_our_faults_are_errors(exporter, code, status):
    outcome = Outcome(METHOD, code, 0.001, "ipv6:%5B::1%5D:5000", reason="why", metadata=caller(SAMPLED))

    tracing(exporter).rpc(outcome)

    (span,) = exporter.get_finished_spans()
    assert (span.status.status_code, f"{span.parent.span_id:016x}") == (status, CALLER)
    assert span.attributes["rpc.grpc.status_code"] == int(code)
    assert span.attributes["error.type"] == "why"
    assert span.attributes["network.peer.address"] == "::1"


def test_a_rare_rpc_is_the_span_that_its_handler_was_told_of(exporter):
    traces = tracing(exporter)
    own = traces.begin(caller(SAMPLED))

    traces.rpc(
        Outcome(
            "/sluice.v1.Jobs/Submit", StatusCode.OK, 0.001, "http:10.0.0.7", metadata=caller(SAMPLED), traceparent=own
        )
    )

    (span,) = exporter.get_finished_spans()
    assert (span.name, span_id(span)) == ("sluice.v1.Jobs/Submit", parse(own).span_id)
    assert span.attributes["rpc.system"] == "http"


def test_health_checks_are_not_traced(exporter):
    tracing(exporter).rpc(Outcome("/grpc.health.v1.Health/Check", StatusCode.OK, 0.001, "", metadata=caller(SAMPLED)))

    assert exporter.get_finished_spans() == ()


def work(outcome, *, traceparent=SAMPLED, waited_ms=250, claimed=0.020):
    request = InferRequest("churn", "", "id-1", (), 2, traceparent=traceparent)
    queued = time.time_ns() // 1_000_000 - waited_ms
    claim = Claim("churn-0123", request, 2, 1, f"{queued}-0", queued_ms=queued)
    return Work(claim, outcome, time.monotonic() - claimed)


def test_a_workers_spans_are_children_of_whoever_queued_the_request(exporter):
    timing = Timing(0.001, 0.0, 0.002, 0.0, 4, time.monotonic() - 0.010)

    tracing(exporter).worked(work(InferResponse("churn", "3", "id-1", (), timing)))

    spans = by_name(exporter)
    process, waited = spans["process churn"], spans["redis"]
    assert {f"{span.parent.span_id:016x}" for span in (process, waited)} == {CALLER}
    assert {spans[name].parent.span_id for name in ("queue", "batch")} == {process.context.span_id}
    assert {f"{span.context.trace_id:032x}" for span in spans.values()} == {TRACE}
    assert process.kind is SpanKind.CONSUMER
    assert process.end_time - process.start_time == pytest.approx(20_000_000, abs=10_000_000)
    assert waited.end_time == pytest.approx(process.start_time, abs=1_000_000)
    assert 225_000_000 <= waited.end_time - waited.start_time <= 240_000_000
    assert process.attributes["messaging.message.id"] == "churn-0123"
    assert (process.attributes["sluice.version"], process.attributes["sluice.attempt"]) == ("3", 2)


def test_a_redis_clock_ahead_of_ours_makes_no_time_run_backwards(exporter):
    tracing(exporter).worked(work(InferResponse("churn", "3", "id-1", ()), waited_ms=-60_000))

    waited = by_name(exporter)["redis"]
    assert waited.start_time == waited.end_time


@pytest.mark.parametrize(
    ("error", "status"), [(InferenceFailed("broke"), SpanStatus.ERROR), (Cancelled("left"), SpanStatus.UNSET)]
)
def test_work_that_failed_says_so(exporter, error, status):
    tracing(exporter).worked(work(error))

    span = by_name(exporter)["process churn"]
    assert (span.status.status_code, span.attributes["error.type"]) == (status, type(error).__name__)


def test_a_worker_respects_the_flag_that_came_through_redis(exporter):
    tracing(exporter).worked(work(InferResponse("churn", "3", "id-1", ()), traceparent=NOT_SAMPLED))

    assert exporter.get_finished_spans() == ()


def test_work_that_nobody_traced_is_a_trace_of_its_own(exporter):
    tracing(exporter).worked(work(InferResponse("churn", "3", "id-1", ()), traceparent=""))

    (span,) = exporter.get_finished_spans()
    assert (span.name, span.parent) == ("process churn", None)


class _Stuck:
    def __init__(self):
        self.released = threading.Event()

    def shutdown(self):
        self.released.wait(30)


def test_a_collector_that_does_not_answer_delays_the_end_no_longer_than_it_may(caplog):
    stuck = _Stuck()
    traces = OtelTracing(stuck, ALWAYS_ON, Resource({}))
    logging.getLogger("sluice").propagate = True

    began = time.monotonic()
    with caplog.at_level(logging.WARNING, "sluice"):
        traces.close(0.05)

    stuck.released.set()
    assert 0.05 <= time.monotonic() - began < 5
    assert [record.getMessage() for record in caplog.records] == ["traces_lost"]


def test_what_the_environment_says_of_the_service_wins(monkeypatch):
    monkeypatch.setenv("OTEL_SERVICE_NAME", "scoring")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")

    traces = open_tracing("http://127.0.0.1:1", {"service.name": "sluice", "sluice.role": "all"})
    traces.close(1)

    about = traces._resource.attributes
    assert (about["service.name"], about["sluice.role"], about["deployment.environment"]) == ("scoring", "all", "test")


@pytest.mark.parametrize(("ratio", "traced"), [("0", False), ("1", True)])
def test_the_sampler_is_the_one_the_environment_names(monkeypatch, ratio, traced):
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", ratio)

    traces = open_tracing("http://127.0.0.1:1", {})
    traces.close(1)

    assert parse(traces.begin([])).sampled is traced
    assert parse(traces.begin(caller(SAMPLED))).sampled


def without_the_library(*words):
    """Run `sluice` where OpenTelemetry is not installed."""
    code = "import sys; sys.modules['opentelemetry'] = None; from server.cli.main import main; sys.exit(main())"
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=60)


def test_a_server_that_does_not_trace_needs_no_library():
    done = without_the_library("serve", "--model-store", "/nonexistent", "--metrics-port", "0")

    assert done.returncode == 2
    assert "/nonexistent" in done.stderr.splitlines()[-1]
    assert "opentelemetry" not in done.stderr.lower()


def test_without_the_library_tracing_is_refused_in_one_sentence():
    done = without_the_library("serve", "--otlp-endpoint", "http://127.0.0.1:4318")

    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line == (
        "sluice serve: --otlp-endpoint: expected OpenTelemetry, which comes with the extra sluice[otel]; "
        "it is not installed"
    )


def test_a_variable_that_cannot_be_is_refused_in_one_sentence(monkeypatch):
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "1")

    with pytest.raises(InvalidSettings, match=r"^--otlp-endpoint: an OTEL_\* variable cannot be used: .*queue"):
        assembly.tracing(Settings(otlp_endpoint="http://127.0.0.1:4318"))
