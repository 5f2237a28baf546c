import pytest

from tests.http2.host import hosted


@pytest.fixture(scope="module")
def _shared():
    with hosted() as host:
        yield host


@pytest.fixture
def host(_shared):
    """A server of our own transport, whose honest caller is served whatever a test did."""
    yield _shared
    _shared.check()


@pytest.fixture
def peer(host):
    """A connection to it."""
    with host.connect() as peer:
        yield peer
