"""Several frontend processes on one port before a Redis queue: each has its own way to Redis."""

import json

import numpy as np
import pytest

from server.pb import open_inference_pb2 as oip
from tests import oip as wire
from tests.server_process import serve

pytestmark = pytest.mark.redis


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
        job = json.loads(server.ask("jobs", "submit", "churn", "--body", str(body), "--json"))
        result = json.loads(server.ask("jobs", "result", job["id"], "--json"))
        page = server.scrape()
        status = server.stop()

    np.testing.assert_allclose(answers, answers[0], atol=1e-5)
    assert {model.name for index in indexes for model in index.models} == {"churn"}
    assert result["state"] == "DONE"
    assert page["sluice_redis_available"] == 1
    assert sum(page[f'sluice_frontend_requests_total{{frontend="{number}"}}'] for number in range(2)) >= 14
    assert status == 0
