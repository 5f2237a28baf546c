"""Every metric of families.py, read from the parts' own counters when Prometheus asks.

Nothing is counted twice and nothing is kept here by hand but the per-request counts: a scrape walks the snapshots that
schedulers and sessions keep anyway, so the hot path pays for one dictionary look-up and one bisect a request.
Label values come from loaded models and fixed lists only; a client cannot create one.
This module is the home of prometheus_client and must never know gRPC, Redis or ONNX Runtime.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import Exemplar, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString
from typing_extensions import override

from server.answers import SharedStatistics
from server.counts import Counted, Durations, Example, RequestCounts
from server.families import FAMILIES
from server.gpu import GpuReading
from server.jobs import JobStatistics
from server.queues.base import QueueStatistics
from server.statistics import Histogram, ModelStatistics


@dataclass(frozen=True, slots=True)
class ModelSnapshot:
    """One version in service as the metrics see it."""

    name: str
    version: str
    provider: str
    load_seconds: float
    restarts: int
    statistics: ModelStatistics
    cost_points: tuple[tuple[int, float], ...] = ()
    """Rows and seconds: the cost curve at its measured sizes."""
    max_batch_rows: int = 1
    precision: str = "fp32"


@dataclass(frozen=True, slots=True)
class FrontendSnapshot:
    """One of the processes that take calls, where there are several."""

    number: int
    up: bool
    restarts: int
    requests: int


@dataclass(frozen=True, slots=True)
class Sources:
    """Where a scrape reads from; every function is cheap and may be called from the metrics thread."""

    models: Callable[[], Iterable[ModelSnapshot]]
    queues: Callable[[], Mapping[tuple[str, str], QueueStatistics]]
    inflight: Callable[[], int]
    load_failures: Callable[[], Mapping[str, int]]
    jobs: Callable[[], JobStatistics] | None = None
    """None where there is no Redis."""
    gpus: Callable[[], GpuReading] | None = None
    """None where no GPU is to be touched."""
    cache: Callable[[], SharedStatistics] | None = None
    """None where the response cache is not shared."""
    requests: Callable[[], Counted] | None = None
    """Counts of every process that takes calls, where this is not the only one."""
    frontends: Callable[[], Iterable[FrontendSnapshot]] | None = None
    """Those processes, likewise; asked after `requests`."""


class Metrics:
    """The registry of one server and its text."""

    def __init__(self, version: str) -> None:
        self.requests = RequestCounts()
        self.transport = ""
        self.version = version
        self._registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    def read_from(self, sources: Sources) -> None:
        """Export what these sources tell, from the next scrape on."""
        self._registry.register(_ServerCollector(self, sources))

    def render(self, accept: str = "") -> tuple[str, bytes]:
        """Return the content type and the text of the exposition: OpenMetrics where `accept` asks for it.

        Only OpenMetrics has exemplars; everything else is the same in both.
        """
        encode, content_type = choose_encoder(accept)
        return content_type, encode(self._registry)


class _Page:
    """The families of one scrape, filled sample by sample."""

    def __init__(self) -> None:
        self._metrics = {
            family.name: (family, Metric(family.name.removesuffix("_total"), family.help, family.kind))
            for family in FAMILIES
        }

    def add(self, name: str, labels: tuple[str, ...], value: float) -> None:
        family, metric = self._metrics[name]
        metric.add_sample(name, dict(zip(family.labels, labels, strict=True)), value)

    def add_histogram(self, name: str, labels: tuple[str, ...], histogram: Histogram) -> None:
        family, metric = self._metrics[name]
        named = dict(zip(family.labels, labels, strict=True))
        total = 0
        examples = histogram.examples if isinstance(histogram, Durations) else [None] * len(histogram.counts)
        bounds = (*histogram.bounds, float("inf"))
        for bound, count, example in zip(bounds, histogram.counts, examples, strict=True):
            total += count
            labels_of_bucket = {**named, "le": floatToGoString(bound)}  # type: ignore[no-untyped-call]
            metric.add_sample(f"{name}_bucket", labels_of_bucket, total, exemplar=_exemplar(example))
        metric.add_sample(f"{name}_count", named, total)
        metric.add_sample(f"{name}_sum", named, histogram.sum)

    def metrics(self) -> Iterator[Metric]:
        return (metric for _, metric in self._metrics.values() if metric.samples)


def _exemplar(example: Example | None) -> Exemplar | None:
    if example is None:
        return None
    labels = {"request_id": example.request_id, "trace_id": example.trace_id}
    return Exemplar({name: value for name, value in labels.items() if value}, example.seconds, example.at)


class _ServerCollector(Collector):
    def __init__(self, metrics: Metrics, sources: Sources) -> None:
        self._owner = metrics
        self._sources = sources

    @override
    def collect(self) -> Iterator[Metric]:
        page = _Page()
        page.add("sluice_build_info", (self._owner.version, self._owner.transport), 1)
        page.add("sluice_inflight", (), self._sources.inflight())
        codes, seconds = (self._sources.requests or self._owner.requests.snapshot)()
        for labels, count in codes.items():
            page.add("sluice_requests_total", labels, count)
        for key, histogram in seconds.items():
            page.add_histogram("sluice_request_duration_seconds", key, histogram)
        for model, count in self._sources.load_failures().items():
            page.add("sluice_model_load_failures_total", (model,), count)
        for key2, queue in self._sources.queues().items():
            page.add("sluice_queue_depth", key2, queue.depth)
            page.add("nv_inference_pending_request_count", key2, queue.depth)
            page.add("sluice_queue_oldest_age_seconds", key2, queue.oldest_age)
        for snapshot in self._sources.models():
            _add_model(page, snapshot)
        _add_optional(page, self._sources)
        return page.metrics()


def _add_optional(page: _Page, sources: Sources) -> None:
    if sources.jobs is not None:
        _add_jobs(page, sources.jobs())
    if sources.gpus is not None:
        _add_gpus(page, sources.gpus())
    if sources.cache is not None:
        _add_shared(page, sources.cache())
    if sources.frontends is not None:
        _add_frontends(page, sources.frontends())


def _add_model(page: _Page, model: ModelSnapshot) -> None:
    key, counted = (model.name, model.version), model.statistics
    page.add("sluice_model_loaded", (*key, model.provider, model.precision), 1)
    page.add("sluice_model_load_seconds", key, model.load_seconds)
    page.add("sluice_session_restarts_total", key, model.restarts)
    page.add_histogram("sluice_queue_duration_seconds", key, counted.queue_seconds)
    page.add_histogram("sluice_compute_duration_seconds", key, counted.compute_seconds)
    page.add_histogram("sluice_batch_rows", key, counted.batch_rows)
    page.add("sluice_batches_total", key, counted.execution_count)
    page.add("sluice_rows_total", key, counted.inference_count)
    page.add("sluice_padded_rows_total", key, counted.padded_rows)
    page.add("sluice_sized_bytes_total", key, counted.sized_bytes)
    page.add("sluice_padding_bytes_total", key, counted.padded_bytes)
    page.add("sluice_retried_rows_total", key, counted.retried_rows)
    page.add("sluice_batch_max_rows", key, model.max_batch_rows)
    for rows, seconds in model.cost_points:
        page.add("sluice_batch_cost_seconds", (*key, str(rows)), seconds)
    page.add("sluice_cache_hits_total", key, counted.cache_hit.count)
    page.add("sluice_cache_misses_total", key, counted.cache_miss.count)
    for reason, count in counted.rejected.items():
        page.add("sluice_rejected_total", (*key, reason), count)
    for reason, count in counted.dropped.items():
        page.add("sluice_dropped_total", (*key, reason), count)
    _add_triton_names(page, key, counted)


def _add_jobs(page: _Page, jobs: JobStatistics) -> None:
    page.add("sluice_redis_available", (), int(jobs.available))
    page.add("sluice_redis_durable", (), int(jobs.durable))
    page.add("sluice_redis_data_losses_total", (), jobs.data_losses)
    for (model, state), count in jobs.totals.items():
        page.add("sluice_jobs_total", (model, state), count)
    for lane in jobs.lanes:
        key = (lane.model_name, lane.lane)
        page.add("sluice_jobs_depth", key, lane.depth)
        page.add("sluice_jobs_running", key, lane.running)
        page.add("sluice_jobs_oldest_age_seconds", key, lane.oldest_age)
    for model, count in jobs.dead.items():
        page.add("sluice_jobs_dead", (model,), count)
    for model, size in jobs.bytes.items():
        page.add("sluice_jobs_bytes", (model,), size)


def _add_frontends(page: _Page, frontends: Iterable[FrontendSnapshot]) -> None:
    for frontend in frontends:
        key = (str(frontend.number),)
        page.add("sluice_frontend_up", key, int(frontend.up))
        page.add("sluice_frontend_requests_total", key, frontend.requests)
        page.add("sluice_frontend_restarts_total", key, frontend.restarts)


def _add_shared(page: _Page, shared: SharedStatistics) -> None:
    page.add("sluice_shared_cache_available", (), int(shared.available))
    for key, count in shared.counts.items():
        page.add("sluice_shared_cache_total", key, count)


def _add_gpus(page: _Page, reading: GpuReading) -> None:
    if reading.errors is not None:
        page.add("sluice_gpu_read_errors_total", (), reading.errors)
    for gpu in reading.gpus:
        for name, value in (
            ("nv_gpu_utilization", gpu.utilization),
            ("nv_gpu_memory_total_bytes", gpu.memory_total),
            ("nv_gpu_memory_used_bytes", gpu.memory_used),
            ("nv_gpu_power_usage", gpu.power_usage),
            ("nv_gpu_power_limit", gpu.power_limit),
            ("nv_energy_consumption", gpu.energy),
            ("sluice_gpu_temperature_celsius", gpu.temperature),
        ):
            if value is not None:
                page.add(name, (gpu.uuid,), value)


def _add_triton_names(page: _Page, key: tuple[str, str], counted: ModelStatistics) -> None:
    page.add("nv_inference_request_success", key, counted.success.count)
    page.add("nv_inference_request_failure", key, counted.fail.count)
    page.add("nv_inference_count", key, counted.inference_count)
    page.add("nv_inference_exec_count", key, counted.execution_count)
    page.add("nv_inference_request_duration_us", key, counted.success.ns // 1000)
    page.add("nv_inference_queue_duration_us", key, counted.queue.ns // 1000)
    page.add("nv_inference_compute_input_duration_us", key, counted.compute_input.ns // 1000)
    page.add("nv_inference_compute_infer_duration_us", key, counted.compute_infer.ns // 1000)
    page.add("nv_inference_compute_output_duration_us", key, counted.compute_output.ns // 1000)
    page.add("nv_cache_num_hits_per_model", key, counted.cache_hit.count)
    page.add("nv_cache_num_misses_per_model", key, counted.cache_miss.count)
    page.add("nv_cache_hit_duration_per_model", key, counted.cache_hit.ns // 1000)
    page.add("nv_cache_miss_duration_per_model", key, counted.cache_miss.ns // 1000)
