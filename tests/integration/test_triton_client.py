"""An unmodified `tritonclient[grpc]`, in a virtual environment of its own, against a real server."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.server_process import ROOT, serve

ENVIRONMENT = Path(os.environ.get("TRITON_CLIENT_VENV", ROOT / ".venv-triton"))


@pytest.mark.slow
def test_an_unmodified_triton_client_finds_what_it_expects():
    python = ENVIRONMENT / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", ENVIRONMENT], check=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "tritonclient[grpc]==2.73.0", "numpy"], check=True)

    with serve("--model-control", "explicit", "--load-model", "churn,mnist,sentiment") as server:
        done = subprocess.run(
            [python, ROOT / "tests/conformance/triton_client.py", server.grpc],
            capture_output=True, text=True, timeout=240,
        )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.rstrip().endswith("0 failed")
