"""A real server on a machine whose driver is a stand-in: GPUs on /metrics, one of them lost between two scrapes."""

import pytest

from tests import models, nvml
from tests.server_process import serve

NAMES = (
    "nv_gpu_utilization",
    "nv_gpu_memory_total_bytes",
    "nv_gpu_memory_used_bytes",
    "nv_gpu_power_usage",
    "nv_gpu_power_limit",
    "nv_energy_consumption",
    "sluice_gpu_temperature_celsius",
)


@pytest.fixture
def stub(tmp_path):
    return nvml.build(tmp_path)


@pytest.fixture
def store(tmp_path):
    models.write_version(tmp_path / "store" / "adder" / "1", models.add())
    return tmp_path / "store"


def gpus(page):
    """Return which GPUs have each metric."""
    found = {}
    for name in page:
        metric, _, labels = name.partition("{")
        if labels.startswith("gpu_uuid="):
            found.setdefault(metric, set()).add(labels.split('"')[1])
    return found


def test_gpus_come_and_go_on_the_metrics_page_and_nothing_else_does(stub, store):
    with serve("--isolation", "none", store=store, env=stub.environment()) as server:
        both = server.scrape()
        stub.state.write_text("lost")
        lost = server.scrape()
        stub.state.write_text("ok")
        again = server.scrape()

    assert gpus(both) == {name: {"GPU-0", "GPU-1"} for name in NAMES}
    assert both['nv_gpu_utilization{gpu_uuid="GPU-1"}'] == pytest.approx(0.76)
    assert gpus(lost) == {name: {"GPU-0"} for name in NAMES}
    assert lost["sluice_gpu_read_errors_total"] == 1
    assert {name for name in both if "gpu" not in name} <= set(lost)
    assert gpus(again) == gpus(both)
    assert sum('"gpu_metrics_failing"' in line for line in server.log) == 1


def test_the_cost_curve_of_a_served_model_rises_up_to_its_largest_batch(store):
    with serve("--isolation", "none", "--max-batch-size", "8", "--device", "cpu", store=store) as server:
        page = server.scrape()
    labels = [f'{{model="adder",rows="{rows}",version="1"}}' for rows in (1, 2, 4, 8)]
    curve = [page[f"sluice_batch_cost_seconds{each}"] for each in labels]

    assert 0 < curve[0] <= curve[1] <= curve[2] <= curve[3] < 10
    assert sum("sluice_batch_cost_seconds" in name for name in page if name[0] != "#") == 4
    assert page['sluice_batch_max_rows{model="adder",version="1"}'] in (1, 2, 4, 8)
    assert gpus(page) == {}
