import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.server_process import ROOT, serve


def traffic(*words):
    done = subprocess.run(
        [sys.executable, "-m", "deploy.traffic", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return done.returncode, json.loads(done.stdout)


@pytest.mark.skipif(not (Path(ROOT) / "model_store/sentiment/1/model.onnx").exists(), reason="needs the shipped models")
def test_every_call_of_the_made_up_traffic_ends_as_it_should():
    with serve() as server:
        code, summary = traffic("--server", server.grpc, "--seconds", "2", "--rate", "150")

    assert code == 0
    assert summary["as expected"] == summary["sent"] >= 200


def test_without_a_server_it_says_so():
    code, summary = traffic("--server", "127.0.0.1:1", "--seconds", "0.2", "--rate", "50", "--deadline", "0.2")

    assert code == 1
    assert summary["DEADLINE_EXCEEDED"] == summary["sent"] > 0
