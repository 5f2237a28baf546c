"""Several frontend processes on one port before a Redis queue: each has its own way to Redis."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from server.pb import open_inference_pb2 as oip
from tests import oip as wire
from tests.redis_server import redis_server
from tests.server_process import ROOT, serve

pytestmark = pytest.mark.redis


@pytest.fixture(scope="module")
def redis():
    with redis_server() as running:
        yield running


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    shutil.copytree(ROOT / "model_store" / "churn", folder / "churn")
    return folder


def sluice(server, *words):
    done = subprocess.run(
        [sys.executable, "-m", "server", "jobs", *words, "--json", "--server", server.grpc],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)


@pytest.mark.parametrize("role", ["all", "frontend"])
def test_online_requests_and_jobs_pass_through_any_of_them(redis, store, role, tmp_path):
    body = tmp_path / "body"
    body.write_bytes(wire.churn([wire.CUSTOMER]).SerializeToString())
    with (
        serve("--role", "worker", "--queue", redis.url, store=store),
        serve("--role", role, "--queue", redis.url, "--frontends", "2", store=store) as server,
    ):
        answers, indexes = [], []
        for _ in range(12):  # connections, of which each frontend gets some
            with server.channel() as channel:
                stub = wire.Stub(channel)
                answers.append(wire.outputs(stub.ModelInfer(wire.churn([wire.CUSTOMER])))["probability"].item())
                indexes.append(stub.RepositoryIndex(oip.RepositoryIndexRequest(ready=True)))
        job = sluice(server, "submit", "churn", "--body", str(body))
        result = sluice(server, "result", job["id"])
        page = server.scrape()
        status = server.stop()

    np.testing.assert_allclose(answers, answers[0], atol=1e-5)
    assert {model.name for index in indexes for model in index.models} == {"churn"}
    assert result["state"] == "DONE"
    assert page["sluice_redis_available"] == 1
    assert sum(page[f'sluice_frontend_requests_total{{frontend="{number}"}}'] for number in range(2)) >= 14
    assert status == 0
