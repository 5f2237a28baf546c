import pytest

from tests.oip import Stub
from tests.server_process import serve


@pytest.fixture(scope="module")
def server():
    with serve() as running:
        yield running


@pytest.fixture(scope="module")
def stub(server):
    with server.channel() as channel:
        yield Stub(channel)
