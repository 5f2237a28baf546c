import os
import subprocess
import sys

import pytest

from server.transports.base import TransportOptions
from server.transports.choose import choose


@pytest.mark.parametrize(("name", "built"), [("auto", "lean"), ("lean", "lean"), ("aio", "aio")])
def test_the_transport_asked_for_is_built(name, built, monkeypatch):
    monkeypatch.setenv("GRPC_VERBOSITY", "DEBUG")

    assert choose(name, {}, TransportOptions()).name == built
    assert os.environ["GRPC_VERBOSITY"] == "DEBUG"


def test_the_lean_transport_does_without_grpc():
    program = (
        "import sys; from server.transports.base import TransportOptions; from server.transports.choose import choose;"
        "choose('lean', {}, TransportOptions()); sys.exit('grpc' in sys.modules)"
    )

    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
