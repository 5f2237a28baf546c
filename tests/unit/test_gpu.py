import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from server.app import App
from server.gpu import GpuReader
from server.local import LocalModels
from server.settings import Settings
from tests import nvml

ROOT = Path(__file__).resolve().parent.parent.parent

READ = """
import dataclasses, json, os, sys, threading
from server import log
from server.gpu import GpuReader

log.setup("json", "debug")
reader = GpuReader()
for state in sys.argv[1:]:
    path = os.environ["NVML_STUB"]
    with open(path + ".new", "w") as file:
        file.write(state)
    os.replace(path + ".new", path)  # never half-written: a driver that hangs looks at it all the time
    reader._patience = 60 if state not in ("hang", "half") else 0.5 if state == "half" else 0.1
    print(json.dumps(dataclasses.asdict(reader.read())))
    if state == "hang":
        assert sum(thread.name == "gpu" for thread in threading.enumerate()) == 1
"""
"""Reads once for each state that the GPUs are put into; in a process of its own, whose linker finds the stub."""


@pytest.fixture(scope="module")
def stub(tmp_path_factory):
    return nvml.build(tmp_path_factory.mktemp("nvml"))


def readings(environment, *states):
    """Return what was read in each state, and the events logged."""
    done = subprocess.run(
        [sys.executable, "-c", READ, *states], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()], [
        json.loads(line) for line in done.stderr.splitlines()
    ]


def uuids(reading):
    return [gpu["uuid"] for gpu in reading["gpus"]]


def test_every_gpu_tells_everything_in_base_units(stub):
    (reading,), events = readings(stub.environment(), "ok")

    assert reading["errors"] == 0
    assert events == []
    assert reading["gpus"] == [
        {
            "uuid": f"GPU-{number}",
            "utilization": pytest.approx(0.75 + number / 100),
            "memory_total": 80 << 30,
            "memory_used": 10 << 30,
            "power_usage": pytest.approx(250.5),
            "power_limit": pytest.approx(700),
            "energy": pytest.approx(123456789.012),
            "temperature": 40 + number,
        }
        for number in (0, 1)
    ]


def test_a_lost_gpu_is_counted_logged_once_and_leaves_the_other_its_numbers(stub):
    (before, lost, still, back), events = readings(stub.environment(), "ok", "lost", "lost", "ok")

    assert uuids(before) == uuids(back) == ["GPU-0", "GPU-1"]
    assert uuids(lost) == uuids(still) == ["GPU-0"]
    assert [reading["errors"] for reading in (before, lost, still, back)] == [0, 1, 2, 2]
    assert [(event["event"], event["why"]) for event in events] == [("gpu_metrics_failing", "GPU 1: GPU is lost")]


def test_trouble_that_comes_back_is_logged_again(stub):
    _, events = readings(stub.environment(), "lost", "ok", "lost")

    assert [event["event"] for event in events] == ["gpu_metrics_failing"] * 2


def test_one_question_without_an_answer_costs_one_value(stub):
    (reading,), events = readings(stub.environment(), "unknown")
    one, other = reading["gpus"]

    assert other["power_usage"] is None
    assert {**other, "power_usage": one["power_usage"]} == {
        **one, "uuid": "GPU-1", "utilization": pytest.approx(0.76), "temperature": 41,
    }  # fmt: skip
    assert reading["errors"] == 1
    assert events[0]["why"].startswith("GPU-1: ")


def test_what_a_gpu_cannot_tell_is_no_error(stub):
    (reading,), events = readings(stub.environment(), "old")

    assert [gpu["energy"] for gpu in reading["gpus"]] == [None, None]
    assert all(gpu["power_usage"] for gpu in reading["gpus"])
    assert reading["errors"] == 0
    assert events == []


def test_gpus_that_cannot_even_be_counted_are_an_error(stub):
    (reading,), events = readings(stub.environment(), "uncountable")

    assert reading == {"gpus": [], "errors": 1}
    assert len(events) == 1


def test_a_driver_that_hangs_holds_up_no_scrape_for_longer_than_the_patience_and_no_second_thread(stub):
    (first, second, after, later), events = readings(stub.environment(), "hang", "hang", "ok", "ok")

    assert first["gpus"] == second["gpus"] == []
    assert [reading["errors"] for reading in (first, second, later)] == [1, 2, 2]
    assert uuids(after) == uuids(later) == ["GPU-0", "GPU-1"]
    assert len({event["why"] for event in events}) == len(events) == 1


def test_half_a_reading_is_none(stub):
    (half, later), _ = readings(stub.environment(), "half", "ok")

    assert half == {"gpus": [], "errors": 1}
    assert uuids(later) == ["GPU-0", "GPU-1"]


def test_without_a_driver_there_is_nothing_to_tell_and_one_line_says_so_until_it_comes(stub):
    (first, second, third), events = readings(stub.environment(), "nodriver", "nodriver", "ok")

    assert first == second == {"gpus": [], "errors": None}
    assert uuids(third) == ["GPU-0", "GPU-1"]
    assert [(event["event"], event["level"]) for event in events] == [("gpu_metrics_off", "info")]


def test_without_the_library_there_is_nothing_to_tell(tmp_path, stub):
    missing = stub.environment() | {"LD_LIBRARY_PATH": str(tmp_path)}
    (first, second), events = readings(missing, "ok", "ok")

    assert first == second == {"gpus": [], "errors": None}
    assert [event["event"] for event in events] == ["gpu_metrics_off"]


def test_without_the_package_there_is_nothing_to_tell_and_only_debugging_hears_of_it(tmp_path):
    (tmp_path / "pynvml.py").write_text("raise ImportError('planted')\n")
    hidden = {**os.environ, "PYTHONPATH": str(tmp_path), "NVML_STUB": str(tmp_path / "state")}
    (first, second), events = readings(hidden, "ok", "ok")

    assert first == second == {"gpus": [], "errors": None}
    assert [(event["level"], event["why"]) for event in events] == [("debug", "nvidia-ml-py is not installed")]


async def test_only_a_process_with_sessions_that_may_use_a_gpu_looks_for_one(tmp_path):
    frontend = App(Settings(role="frontend", queue="redis://127.0.0.1:1/0"))
    models = [LocalModels(Settings(model_store=tmp_path, device=device), frontend) for device in ("auto", "cpu")]

    assert frontend._sources().gpus is None
    assert [getattr(one.gpus, "__func__", None) for one in models] == [GpuReader.read, None]
    for one in models:
        await one.close()
