"""Every metric this server exports, in one table: docs/metrics.md is generated from it, tests hold a scrape against it.

This module must never know where the numbers come from.
"""

from dataclasses import dataclass

MODEL = ("model", "version")
GPU = ("gpu_uuid",)


@dataclass(frozen=True, slots=True)
class Family:
    """One metric as the documentation lists it."""

    name: str
    kind: str
    labels: tuple[str, ...]
    help: str


FAMILIES: tuple[Family, ...] = (
    Family("sluice_requests_total", "counter", (*MODEL, "method", "code"), "Finished RPCs by gRPC status code."),
    Family("sluice_request_duration_seconds", "histogram", (*MODEL, "method"), "Bytes in to bytes out."),
    Family("sluice_queue_duration_seconds", "histogram", MODEL, "From accepted to the start of the batch."),
    Family("sluice_compute_duration_seconds", "histogram", MODEL, "ONNX Runtime's part of a batch."),
    Family("sluice_batch_rows", "histogram", MODEL, "Rows that ran together."),
    Family("sluice_batches_total", "counter", MODEL, "Batches executed."),
    Family("sluice_rows_total", "counter", MODEL, "Rows inferred."),
    Family("sluice_padded_rows_total", "counter", MODEL, "Rows of filler that ran beside them."),
    Family("sluice_sized_bytes_total", "counter", MODEL, "Bytes of inputs of varying length that ran."),
    Family("sluice_padding_bytes_total", "counter", MODEL, "Bytes by which batch-mates of theirs were longer."),
    Family("sluice_retried_rows_total", "counter", MODEL, "Rows run again after their batch failed or its child died."),
    Family("sluice_rejected_total", "counter", (*MODEL, "reason"), "Requests refused at the entrance."),
    Family("sluice_dropped_total", "counter", (*MODEL, "reason"), "Requests given up after they were queued."),
    Family("sluice_batch_cost_seconds", "gauge", (*MODEL, "rows"), "What a batch of so many rows is expected to take."),
    Family("sluice_batch_max_rows", "gauge", MODEL, "Most rows a batch may have: as configured, or the curve's knee."),
    Family("sluice_cache_hits_total", "counter", MODEL, "Answers from the response cache."),
    Family("sluice_cache_misses_total", "counter", MODEL, "Look-ups that found nothing there."),
    Family("sluice_shared_cache_total", "counter", ("operation", "result"), "Look-ups (get) and answers told (put)."),
    Family("sluice_shared_cache_available", "gauge", (), "1 while the Redis of the response cache answers."),
    Family("sluice_queue_depth", "gauge", MODEL, "Requests waiting."),
    Family("sluice_queue_oldest_age_seconds", "gauge", MODEL, "Age of the oldest waiting request."),
    Family("sluice_inflight", "gauge", (), "RPCs accepted and not yet answered."),
    Family(
        "sluice_model_loaded",
        "gauge",
        (*MODEL, "provider", "precision"),
        "1 for each version in service, with what runs it and which of its files, fp32 or fp16.",
    ),
    Family("sluice_model_load_seconds", "gauge", MODEL, "How long bringing the version into service took."),
    Family(
        "sluice_model_load_failures_total", "counter", ("model",), "Versions that could not be brought into service."
    ),
    Family("sluice_session_restarts_total", "counter", MODEL, "Session children replaced after they died."),
    Family("sluice_jobs_total", "counter", ("model", "state"), "What became of durable jobs, by event."),
    Family("sluice_jobs_depth", "gauge", ("model", "lane"), "Unfinished durable jobs."),
    Family("sluice_jobs_running", "gauge", ("model", "lane"), "Durable jobs that a worker holds."),
    Family("sluice_jobs_oldest_age_seconds", "gauge", ("model", "lane"), "Age of the oldest unfinished durable job."),
    Family("sluice_jobs_dead", "gauge", ("model",), "Durable jobs that used up their attempts."),
    Family("sluice_jobs_bytes", "gauge", ("model",), "Bytes of the requests of unfinished durable jobs."),
    Family("sluice_redis_available", "gauge", (), "1 while Redis answers."),
    Family("sluice_redis_durable", "gauge", (), "0 where Redis may lose what it acknowledged (--allow-volatile)."),
    Family("sluice_redis_data_losses_total", "counter", (), "How often Redis came back without its data."),
    Family("sluice_gpu_temperature_celsius", "gauge", GPU, "Temperature of the GPU's core."),
    Family("sluice_gpu_read_errors_total", "counter", (), "Questions about GPUs that the driver left unanswered."),
    Family("sluice_frontend_up", "gauge", ("frontend",), "1 while this process of --frontends takes calls."),
    Family("sluice_frontend_requests_total", "counter", ("frontend",), "Finished RPCs by the process that took them."),
    Family("sluice_frontend_restarts_total", "counter", ("frontend",), "Frontend processes replaced after they died."),
    Family("sluice_build_info", "gauge", ("version", "transport"), "1, with what is running as labels."),
    Family("nv_inference_request_success", "untyped", MODEL, "Triton's name for successful requests."),
    Family("nv_inference_request_failure", "untyped", MODEL, "Triton's name for failed requests."),
    Family("nv_inference_count", "untyped", MODEL, "Triton's name for sluice_rows_total."),
    Family("nv_inference_exec_count", "untyped", MODEL, "Triton's name for sluice_batches_total."),
    Family("nv_inference_request_duration_us", "untyped", MODEL, "Cumulative, as Triton counts it."),
    Family("nv_inference_queue_duration_us", "untyped", MODEL, "Cumulative, as Triton counts it."),
    Family("nv_inference_compute_input_duration_us", "untyped", MODEL, "Cumulative, as Triton counts it."),
    Family("nv_inference_compute_infer_duration_us", "untyped", MODEL, "Cumulative, as Triton counts it."),
    Family("nv_inference_compute_output_duration_us", "untyped", MODEL, "Cumulative, as Triton counts it."),
    Family("nv_inference_pending_request_count", "untyped", MODEL, "Triton's name for sluice_queue_depth."),
    Family("nv_cache_num_hits_per_model", "untyped", MODEL, "Triton's name for sluice_cache_hits_total."),
    Family("nv_cache_num_misses_per_model", "untyped", MODEL, "Triton's name for sluice_cache_misses_total."),
    Family("nv_cache_hit_duration_per_model", "untyped", MODEL, "Microseconds of hits, cumulative."),
    Family("nv_cache_miss_duration_per_model", "untyped", MODEL, "Microseconds of look-ups without one, cumulative."),
    Family("nv_gpu_utilization", "gauge", GPU, "Share of the time in which a kernel ran, 0 to 1."),
    Family("nv_gpu_memory_total_bytes", "gauge", GPU, "Memory of the GPU."),
    Family("nv_gpu_memory_used_bytes", "gauge", GPU, "Memory of the GPU in use, by any process."),
    Family("nv_gpu_power_usage", "gauge", GPU, "Watts drawn now."),
    Family("nv_gpu_power_limit", "gauge", GPU, "Watts the GPU may draw."),
    Family("nv_energy_consumption", "untyped", GPU, "Joules used since the driver was loaded; only grows."),
)
