"""A stand-in for NVIDIA's driver: nvml_stub.c, built into the libnvidia-ml.so.1 that the real pynvml then loads."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent / "nvml_stub.c"


@dataclass(frozen=True)
class Stub:
    """Where the library lies and the file that says how its GPUs are; see nvml_stub.c for the words."""

    folder: Path

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def environment(self) -> dict[str, str]:
        """Return the environment of a process that finds this library first."""
        return {**os.environ, "LD_LIBRARY_PATH": str(self.folder), "NVML_STUB": str(self.state)}


def build(folder: Path) -> Stub:
    """Compile into `folder`; skips the test where there is no C compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler is installed")
    pytest.importorskip("pynvml")
    library = folder / "libnvidia-ml.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-Wall", "-Werror", "-o", library, SOURCE], check=True)
    stub = Stub(folder)
    stub.state.write_text("ok")
    return stub
