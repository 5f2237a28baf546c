"""Generate server/pb from protos/: `python protos/generate.py [--check]`.

The generated modules are committed, so that installing the server needs no compiler; `--check` (part of `make lint`)
regenerates them elsewhere and fails when what is committed differs. No grpc stubs: the server takes raw bytes and the
clients name the method's path, so neither needs them.
"""

# ruff: noqa: INP001 - a script beside its sources, not a package

import argparse
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "protos"
PACKAGE = "server/pb"
INIT = '"""Generated from protos/ by protos/generate.py; edit those instead."""\n'


def generate(target: Path) -> None:
    """Write the modules of every .proto file below `target`/server/pb.

    The form -Iserver/pb=protos makes the imports in them absolute (`from server.pb import ...`).
    """
    package = target / PACKAGE
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").write_text(INIT)
    names = [f"{PACKAGE}/{source.name}" for source in sorted(SOURCES.glob("*.proto"))]
    include = files("grpc_tools") / "_proto"
    code = protoc.main(
        ["protoc", f"-I{PACKAGE}={SOURCES}", f"-I{include}", f"--python_out={target}", f"--pyi_out={target}", *names]
    )
    if code != 0:
        sys.exit(code)


def drift(fresh: Path, committed: Path) -> list[str]:
    """Return the names of modules that differ, are missing or have no source any more."""
    names = {path.name for folder in (fresh, committed) for path in folder.glob("*.py*") if path.is_file()}
    return sorted(name for name in names if _content(fresh / name) != _content(committed / name))


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def main() -> int:
    """Generate, or with --check compare. Returns 0, or exits with one line that names what differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing, fail when server/pb is out of date")
    if not parser.parse_args().check:
        generate(ROOT)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        stale = drift(Path(folder) / PACKAGE, ROOT / PACKAGE)
    if stale:
        sys.exit(f"server/pb differs from protos/: {', '.join(stale)}; run `make protos`")
    return 0


if __name__ == "__main__":
    sys.exit(main())
