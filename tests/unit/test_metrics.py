import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from server.families import FAMILIES
from server.gpu import Gpu, GpuReading
from server.metrics import Metrics, ModelSnapshot, Sources
from server.queues.base import QueueStatistics
from server.statistics import ModelStatistics


@pytest.fixture
def statistics():
    return ModelStatistics()


@pytest.fixture
def metrics(statistics):
    metrics = Metrics("1.2.3")
    metrics.transport = "lean"
    metrics.read_from(
        Sources(
            models=lambda: [ModelSnapshot("churn", "1", "CPUExecutionProvider", 0.5, 2, statistics)],
            queues=lambda: {("churn", "1"): QueueStatistics(3, 5, 1, 0.25, 100)},
            inflight=lambda: 7,
            load_failures=lambda: {"broken": 4},
        )
    )
    return metrics


def samples(metrics):
    families = text_string_to_metric_families(metrics.render()[1].decode())
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value for family in families for sample in family.samples
    }


def test_requests_are_counted_by_code_and_timed(metrics):
    metrics.requests.count("churn", "1", "ModelInfer", "OK", 0.002)
    metrics.requests.count("churn", "1", "ModelInfer", "OK", 0.0025)
    metrics.requests.count("churn", "1", "ModelInfer", "INVALID_ARGUMENT", 20.0)

    read = samples(metrics)

    assert read["sluice_requests_total", "1", "ModelInfer", "OK", "churn"] == 2
    assert read["sluice_requests_total", "1", "INVALID_ARGUMENT", "ModelInfer", "churn"] == 1
    assert read["sluice_request_duration_seconds_bucket", "0.0025", "1", "ModelInfer", "churn"] == 2
    assert read["sluice_request_duration_seconds_bucket", "+Inf", "1", "ModelInfer", "churn"] == 3
    assert read["sluice_request_duration_seconds_sum", "1", "ModelInfer", "churn"] == pytest.approx(20.0045)


def test_a_scrape_reads_what_the_parts_count_themselves(metrics, statistics):
    statistics.inference_count, statistics.execution_count, statistics.padded_rows = 12, 3, 1
    statistics.rejected["queue_full"] = 9
    statistics.dropped["expired"] = 8
    statistics.success.add(0.5, 12)
    statistics.batch_rows.observe(4)

    read = samples(metrics)

    assert read["sluice_rows_total", "1", "churn"] == 12
    assert read["sluice_batches_total", "1", "churn"] == 3
    assert read["sluice_padded_rows_total", "1", "churn"] == 1
    assert read["sluice_rejected_total", "1", "churn", "queue_full"] == 9
    assert read["sluice_dropped_total", "1", "churn", "expired"] == 8
    assert read["sluice_batch_rows_bucket", "1", "4.0", "churn"] == 1
    assert read["sluice_queue_depth", "1", "churn"] == 3
    assert read["sluice_queue_oldest_age_seconds", "1", "churn"] == 0.25
    assert read[("sluice_inflight",)] == 7
    assert read["sluice_model_loaded", "1", "CPUExecutionProvider", "churn", "fp32"] == 1
    assert read["sluice_model_load_failures_total", "broken"] == 4
    assert read["sluice_session_restarts_total", "1", "churn"] == 2
    assert read["nv_inference_count", "1", "churn"] == 12
    assert read["nv_inference_request_duration_us", "1", "churn"] == 500_000


def bare(models=list, **more):
    metrics = Metrics("1.2.3")
    metrics.read_from(Sources(models=models, queues=dict, inflight=int, load_failures=dict, **more))
    return metrics


def test_the_cost_curve_has_a_sample_for_each_measured_size():
    curve = ((1, 0.001), (2, 0.0015), (16, 0.004))
    model = ModelSnapshot("churn", "7", "CPUExecutionProvider", 0.5, 2, ModelStatistics(), curve, 8)
    read = samples(bare(lambda: [model]))

    assert {key[1:]: value for key, value in read.items() if key[0] == "sluice_batch_cost_seconds"} == {
        ("1", "7", "churn"): 0.001,
        ("2", "7", "churn"): 0.0015,
        ("16", "7", "churn"): 0.004,
    }
    assert read["sluice_batch_max_rows", "7", "churn"] == 8


def test_gpus_go_by_tritons_names_and_what_one_cannot_tell_is_missing():
    full = Gpu("GPU-a", 0.5, 80, 20, 250.5, 700.0, 1e6, 41)
    read = samples(bare(gpus=lambda: GpuReading((full, Gpu("GPU-b", memory_used=30)), errors=3)))

    assert {key: value for key, value in read.items() if "GPU-a" in key} == {
        ("nv_gpu_utilization", "GPU-a"): 0.5,
        ("nv_gpu_memory_total_bytes", "GPU-a"): 80,
        ("nv_gpu_memory_used_bytes", "GPU-a"): 20,
        ("nv_gpu_power_usage", "GPU-a"): 250.5,
        ("nv_gpu_power_limit", "GPU-a"): 700,
        ("nv_energy_consumption", "GPU-a"): 1e6,
        ("sluice_gpu_temperature_celsius", "GPU-a"): 41,
    }
    assert {key: value for key, value in read.items() if "GPU-b" in key} == {("nv_gpu_memory_used_bytes", "GPU-b"): 30}
    assert read["sluice_gpu_read_errors_total",] == 3


def test_where_no_gpu_can_be_read_nothing_is_said_of_any():
    for read in (samples(bare()), samples(bare(gpus=GpuReading))):
        assert not [key for key in read if "gpu" in key[0] or "energy" in key[0]]


def test_everything_exported_is_in_the_table_with_its_labels(metrics, statistics):
    statistics.rejected["queue_full"] = 1
    metrics.requests.count("churn", "1", "ModelInfer", "OK", 0.002)
    documented = {family.name.removesuffix("_total"): set(family.labels) for family in FAMILIES}

    for family in text_string_to_metric_families(metrics.render()[1].decode()):
        if family.name.startswith(("sluice_", "nv_")):
            for sample in family.samples:
                assert set(sample.labels) - {"le"} == documented[family.name]


OPENMETRICS = "application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"


def exemplified(metrics):
    """Two buckets, of which one has an example."""
    metrics.requests.count("churn", "1", "ModelInfer", "OK", 0.002)
    metrics.requests.exemplify(("churn", "1", "ModelInfer"), 0.002, 'id "1"\n', "4bf92f3577b34da6a3ce929d0e0e4736")
    metrics.requests.count("churn", "1", "ModelInfer", "OK", 0.2)


def test_openmetrics_shows_the_example_of_a_bucket_and_is_otherwise_the_same_page(metrics):
    exemplified(metrics)
    plain = {k: v for k, v in samples(metrics).items() if k[0].startswith(("sluice_", "nv_"))}

    content_type, page = metrics.render(OPENMETRICS)

    read = [sample for family in parse_openmetrics(page.decode()) for sample in family.samples]
    found = {s.labels["le"]: s.exemplar for s in read if s.name == "sluice_request_duration_seconds_bucket"}
    example = found.pop("0.0025")
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    assert example.labels == {"request_id": 'id "1"\n', "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736"}
    assert example.value == 0.002
    assert float(example.timestamp) > 1.7e9
    assert set(found.values()) == {None}
    ours = [sample for sample in read if sample.name.startswith(("sluice_", "nv_"))]
    assert {(sample.name, *sorted(sample.labels.values())): sample.value for sample in ours} == plain


@pytest.mark.parametrize("accept", ["", "*/*", "text/plain;version=0.0.4", "text/html,application/xhtml+xml"])
def test_the_text_format_has_no_exemplars(metrics, accept):
    exemplified(metrics)

    content_type, page = metrics.render(accept)

    assert content_type == "text/plain; version=0.0.4; charset=utf-8"
    assert b"request_id" not in page
    assert b"# EOF" not in page


def test_names_follow_prometheus_rules():
    for family in FAMILIES:
        assert (family.kind == "counter") == family.name.endswith("_total")
        assert family.help.endswith(".")
