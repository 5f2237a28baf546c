"""Frontends and workers as processes of their own, a real Redis between them, and any one of them killed."""

import json
import threading
from contextlib import ExitStack

import grpc
import numpy as np
import pytest

from tests import oip as wire
from tests.redis_server import redis_server
from tests.server_process import FREE_PORTS, serve, sluice

pytestmark = pytest.mark.redis


@pytest.fixture(scope="module")
def fleet(redis, store):
    with ExitStack() as stack:
        workers = [stack.enter_context(serve("--role", "worker", "--queue", redis.url, store=store)) for _ in range(2)]
        fronts = [stack.enter_context(serve("--role", "frontend", "--queue", redis.url, store=store)) for _ in range(2)]
        yield fronts, workers


def test_either_frontend_answers_with_what_the_workers_serve(fleet):
    fronts, _ = fleet
    answers = []
    for front in fronts:
        with front.channel() as channel:
            answers.append(wire.outputs(wire.Stub(channel).ModelInfer(wire.churn([wire.CUSTOMER])))["probability"])
        assert "churn" in front.ask("models", "list")

    np.testing.assert_array_equal(*answers)


def test_bad_requests_are_refused_by_the_frontend_itself(fleet):
    fronts, _ = fleet
    message = wire.churn([wire.CUSTOMER])
    message.inputs[0].datatype = "INT32"
    with fronts[0].channel() as channel, pytest.raises(grpc.RpcError) as refusal:
        wire.Stub(channel).ModelInfer(message)

    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_job_submitted_at_one_frontend_is_read_at_the_other(fleet, tmp_path):
    fronts, _ = fleet
    body = tmp_path / "body"
    body.write_bytes(wire.churn([wire.CUSTOMER]).SerializeToString())

    job = json.loads(fronts[0].ask("jobs", "submit", "churn", "--body", str(body), "--key", "k1", "--json"))
    again = json.loads(fronts[1].ask("jobs", "submit", "churn", "--body", str(body), "--key", "k1", "--json"))
    done = json.loads(fronts[1].ask("jobs", "result", job["id"], "--json"))

    assert again["id"] == job["id"]
    assert done["state"] == "DONE"
    assert 0 < float(done["outputs"]["probability"][0]) < 1


def test_a_file_of_customers_becomes_a_file_of_results_and_is_resumed_not_repeated(fleet, tmp_path):
    fronts, _ = fleet
    columns = [*wire.CHURN_NUMBERS, "Geography", "Gender", "Surname"]
    rows = [",".join([*map(str, wire.CUSTOMER.values()), "Spain", "Female", f"n{i}"]) for i in range(150)]
    (tmp_path / "in.csv").write_text("\n".join([",".join(columns), *rows]))
    out = tmp_path / "out.csv"
    out.write_text("row,probability\n1,done before\n")

    fronts[0].ask("jobs", "submit", "churn", "--csv", str(tmp_path / "in.csv"), "--out", str(out))

    lines = out.read_text().splitlines()
    assert lines[1] == "1,done before"
    assert sorted(int(line.split(",")[0]) for line in lines[1:]) == list(range(1, 151))


def test_metrics_tell_of_jobs_and_redis_on_a_frontend(fleet, tmp_path):
    fronts, workers = fleet
    body = tmp_path / "body"
    body.write_bytes(wire.churn([wire.CUSTOMER]).SerializeToString())
    fronts[0].ask("jobs", "submit", "churn", "--body", str(body))

    front, worker = fronts[0].scrape(), workers[0].scrape()

    assert front["sluice_redis_available"] == 1
    assert front["sluice_redis_durable"] == 1
    assert any(name.startswith("sluice_jobs_total") for name in front)
    assert any(name.startswith("sluice_model_loaded") for name in worker)


def test_killing_a_worker_under_load_costs_retried_latency_and_no_wrong_answer(redis, fleet, store):
    fronts, _ = fleet
    with serve("--role", "worker", "--queue", redis.url, store=store) as victim, fronts[0].channel() as channel:
        stub = wire.Stub(channel)
        expected = wire.outputs(stub.ModelInfer(wire.churn([wire.CUSTOMER])))["probability"].item()
        places, calls = threading.Semaphore(32), []
        for i in range(600):
            assert places.acquire(timeout=60)
            if i == 200:
                victim.process.kill()
            call = stub.future("ModelInfer", wire.churn([wire.CUSTOMER], id=str(i)), timeout=60.0)
            call.add_done_callback(lambda _: places.release())
            calls.append(call)

        outcomes = [call.exception() for call in calls]
        values = [wire.outputs(call.result())["probability"].item() for call in calls if call.exception() is None]

    assert {error.code().name for error in outcomes if error is not None} <= {"UNAVAILABLE"}
    np.testing.assert_allclose(values, expected, atol=1e-5)
    assert sum(error is None for error in outcomes) >= 500


def test_sigterm_ends_every_role_cleanly(redis, store):
    with serve("--role", "worker", "--queue", redis.url, store=store) as worker:
        assert worker.stop() == 0
    with serve("--role", "frontend", "--queue", redis.url, store=store) as front:
        assert front.stop() == 0
    with serve("--queue", redis.url, store=store) as both, both.channel() as channel:
        assert wire.outputs(wire.Stub(channel).ModelInfer(wire.churn([wire.CUSTOMER])))["probability"].shape == (1, 1)
        assert both.stop() == 0


def test_a_redis_that_would_lose_jobs_is_refused_with_what_to_change(store):
    with redis_server("--appendonly", "no") as volatile:
        done = sluice("serve", *FREE_PORTS, "--queue", volatile.url, "--model-store", str(store))
        with serve("--queue", volatile.url, "--allow-volatile", store=store) as server:
            durable = server.scrape()["sluice_redis_durable"]

    assert done.returncode == 2
    assert "appendonly" in done.stderr.splitlines()[-1]
    assert durable == 0


def test_no_redis_at_all_is_one_clear_line(store):
    done = sluice("serve", *FREE_PORTS, "--queue", "redis://127.0.0.1:1/0", "--model-store", str(store))

    assert done.returncode == 2
    assert "redis://127.0.0.1:1/0" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
