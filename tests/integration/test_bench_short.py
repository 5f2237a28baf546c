"""The benchmarks work: the suite from end to end, the load scripts, and a generator that tells the truth."""

import json
import shutil
import subprocess
import sys
import threading
import time

import pytest

from bench import without_metrics
from bench.bodies import MODELS, body
from bench.targets import ECHO, INFER, ROOT, echo, sluice, started
from server.load.generator import OK, Generator
from server.load.outcome import poisson
from tests.management import eventually

needs_h2load = pytest.mark.skipif(shutil.which("h2load") is None, reason="h2load is not installed (nghttp2-client)")


@pytest.fixture(scope="module")
def echo_target():
    with started("echo", echo(), ECHO) as target:
        yield target


@needs_h2load
def test_a_short_run_of_the_suite_measures_everybody_and_judges(tmp_path):
    found = tmp_path / "found.json"
    command = [sys.executable, "-m", "bench.suite", "--quick", "--json", str(found), "--plots", str(tmp_path)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    results = json.loads(found.read_text())

    assert ran.returncode in (0, 1), ran.stderr
    assert (ran.returncode == 1) == ("BROKEN" in ran.stdout), ran.stdout
    assert set(results["closed"]["churn"]) == {"sluice", "naive-aio", "thread-pool", "echo", "core-echo"}
    assert results["closed"]["churn"]["sluice"]["256"][0]["batch_rows"] > 1
    assert results["open"]["mnist"]["naive-aio"]["same"][0]["goodput"] > 0
    assert {path.name for path in tmp_path.glob("*.png")} == {"bench-cost.png", "bench-overload.png"}


@needs_h2load
def test_large_requests_are_measured_beside_the_bare_transport():
    command = [sys.executable, "-m", "bench.large", "--rounds", "1", "--seconds", "0.2", "--bar", "0.2"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)

    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert [line.split(":")[0] for line in ran.stdout.splitlines()] == ["held   1 MB requests", "held   16 MB requests"]


def gpu_bench(*flags):
    command = [sys.executable, "-m", "bench.gpu", "--models", "mnist", "--rounds", "1", "--seconds", "0.2", *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_what_measures_a_gpu_works_on_the_cpu_and_binds_nobody_there(tmp_path):
    found = tmp_path / "found.json"
    ran = gpu_bench("--device", "cpu", "--frontends", "2", "--clients", "2", "--json", str(found))
    (measured,) = json.loads(found.read_text())["models"]["mnist"]["rounds"]

    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert measured["rows_per_second"] > 0
    assert measured["share"] == pytest.approx(measured["rows_per_second"] / measured["bare_rows_per_second"])
    assert 0 < measured["p50_ms"] <= measured["p99_ms"]
    assert "fp16 accuracy 0.99" in ran.stdout


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="a GPU is here")
def test_where_no_gpu_answers_the_measurement_says_so():
    ran = gpu_bench()

    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith("expected ONNX Runtime to run on cuda, it runs on ")


@pytest.mark.parametrize("script", ["overload", "session_kill", "swap"])
def test_a_load_script_holds_what_must_never_break(script):
    command = [sys.executable, "-m", f"tests.load.{script}", "--relaxed", "--seconds", "3"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)

    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.splitlines()[-1] == "seed 7: held"


def test_every_call_of_a_closed_loop_comes_back_as_it_was_sent(echo_target):
    seen = []
    generator = Generator(echo_target.address, ECHO, b"a message", connections=2)
    outcome = generator.closed_loop(16, 0.3, check=lambda *answer: seen.append(answer))
    generator.close()

    assert outcome.codes == {0: outcome.sent}
    assert outcome.sent > 16
    assert set(seen) == {(0, b"a message")}


def test_a_message_of_many_frames_and_windows_arrives_whole(echo_target):
    large, answers = bytes(range(256)) * 128, set()
    generator = Generator(echo_target.address, ECHO, large, connections=1)
    outcome = generator.closed_loop(8, 0.3, check=lambda _, answer: answers.add(answer == large))
    generator.close()

    assert set(outcome.codes) == {0}
    assert answers == {True}


def test_a_refused_call_is_told_from_an_answered_one(echo_target):
    generator = Generator(echo_target.address, INFER, b"", connections=1)
    outcome = generator.open_loop([0.0, 0.01, 0.02])
    generator.close()

    assert outcome.codes == {12: 3}
    assert outcome.latencies == []


def test_a_server_that_stalls_is_not_forgiven(echo_target):
    """A stall in the middle counts against every call meant to be sent during it, not only against one."""
    rate, stall = 400.0, 0.4
    resume = threading.Timer(stall, echo_target.process.resume)

    def suspend(*_):
        if resume.ident is None:
            echo_target.process.suspend()
            resume.start()

    generator = Generator(echo_target.address, ECHO, b"", deadline=5.0)
    began = time.monotonic()
    outcome = generator.open_loop(poisson(rate, 1.0, 7), check=suspend)
    generator.close()
    slow = sum(latency > stall / 4 for latency in outcome.latencies)

    assert time.monotonic() - began < 5
    assert outcome.codes == {0: outcome.sent}
    assert slow > 0.5 * rate * stall * 3 / 4


def test_a_call_without_an_answer_ends_at_its_deadline(echo_target):
    generator = Generator(echo_target.address, ECHO, b"", deadline=0.1)
    try:
        outcome = generator.open_loop([0.0, 0.3, 0.31], check=lambda *_: echo_target.process.suspend())
    finally:
        echo_target.process.resume()
        generator.close()

    assert outcome.codes == {0: 1, 4: 2}


@pytest.mark.parametrize("model", MODELS)
def test_bodies_are_small_enough_for_one_frame(model):
    assert 50 < len(body(model)) < 16384


def growth(target):
    """Make some calls and return by how many the server's counter has grown since."""
    before = target.scrape("churn")["requests"]
    generator = Generator(target.address, INFER, body("churn"), connections=1)
    assert generator.open_loop([0.0] * 20).codes == {OK: 20}
    generator.close()
    return target.scrape("churn")["requests"] - before


def test_metrics_are_taken_out_and_put_back_in_one_process():
    with started("switched", sluice(ROOT / "model_store", module="bench.without_metrics")) as target:
        assert growth(target) > 0
        target.process.send_signal(without_metrics.OFF)
        eventually(lambda: growth(target) == 0)
        target.process.send_signal(without_metrics.ON)
        eventually(lambda: growth(target) > 0)
