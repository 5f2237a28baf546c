"""No session process outlives its server, however that ends and whatever is running."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.instances import WAIT, eventually

ROOT = Path(__file__).parents[2]

SERVER = """
import sys
from pathlib import Path
import numpy as np
from tests import models
from tests.instances import Heard, load, part, tensor

(instance,) = load(Path(sys.argv[1]) / "tiny", models.loop()).instances
if sys.argv[2] == "busy":
    instance.run([part(tensor("trips", "INT64", np.array([[1 << 40]])))], 1000.0, Heard())
print(instance.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("state", ["idle", "busy"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_session_processes_end_with_the_server(tmp_path: Path, state: str, number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SERVER, str(tmp_path), state],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    ) as server:
        assert server.stdout is not None
        child = psutil.Process(int(server.stdout.readline()))
        server.send_signal(number)
        server.wait(WAIT)

        assert eventually(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
