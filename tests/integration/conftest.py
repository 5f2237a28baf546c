import shutil

import pytest

from tests.oip import Stub
from tests.redis_server import redis_server
from tests.server_process import ROOT, serve


@pytest.fixture(scope="module")
def redis():
    with redis_server() as running:
        yield running


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """One small model, so that several servers start quickly."""
    folder = tmp_path_factory.mktemp("store")
    shutil.copytree(ROOT / "model_store" / "churn", folder / "churn")
    return folder


@pytest.fixture(scope="module")
def server():
    with serve() as running:
        yield running


@pytest.fixture(scope="module")
def stub(server):
    with server.channel() as channel:
        yield Stub(channel)
