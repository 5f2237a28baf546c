"""The model store on disk: which versions there are, and how a new one appears whole or not at all.

    <store>/<model>/config.pbtxt             Triton's text format; written once, changed only by `promote`
    <store>/<model>/labels.txt               class names, one a line
    <store>/<model>/<version>/model.onnx     and card.json, golden.npz, README.md, report/*.png
    <store>/<model>/.incoming-*/             a version being written; renamed to <version> when whole

A version directory is immutable. The server reads the same layout; it never imports this.
"""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainer.errors import StoreError, UsageError


def versions(store: Path, model: str) -> list[int]:
    """The versions of a model, lowest first."""
    folder = store / model
    if not folder.is_dir():
        return []
    return sorted(int(entry.name) for entry in folder.iterdir() if entry.name.isdecimal() and entry.is_dir())


def version_directory(store: Path, model: str, version: int | None) -> Path:
    """The directory of a version, the latest when none is given.

    Raises:
        UsageError: there is no such version.
    """
    known = versions(store, model)
    if not known or (version is not None and version not in known):
        wanted = "any version" if version is None else f"version {version}"
        raise UsageError(f"{store / model} does not have {wanted}; it has {known or 'none'}")
    return store / model / str(known[-1] if version is None else version)


def check_writable(store: Path, model: str, version: int | None) -> None:
    """Find out before an hour of training, not after, that the new version has no place; leaves nothing behind.

    Raises:
        StoreError: as `new_version` would.
    """
    _target(store, model, version)
    folder = next(parent for parent in (store / model, *(store / model).absolute().parents) if parent.exists())
    with writable(store), tempfile.TemporaryFile(dir=folder):
        return


def _target(store: Path, model: str, version: int | None) -> Path:
    """Where the version will be.

    Raises:
        StoreError: it exists.
    """
    number = version if version is not None else max(versions(store, model), default=0) + 1
    target = store / model / str(number)
    if target.exists():
        raise StoreError(f"{target} exists and a version never changes; leave --version out for the next number")
    return target


@contextmanager
def new_version(store: Path, model: str, version: int | None = None) -> Iterator[tuple[Path, int]]:
    """A hidden directory to fill; it becomes the next (or the given) version when the block ends without an error.

    Yields:
        The directory and the version number it will get.

    Raises:
        StoreError: the version exists, or the store cannot be written; nothing is left behind.
    """
    target = _target(store, model, version)
    incoming: Path | None = None
    try:
        with writable(store):
            target.parent.mkdir(parents=True, exist_ok=True)
            incoming = Path(tempfile.mkdtemp(prefix=".incoming-", dir=target.parent))
            incoming.chmod(0o755)
            yield incoming, int(target.name)
            _sync(incoming)
            incoming.rename(target)
            _sync_entry(target.parent)
    finally:
        if incoming is not None:
            shutil.rmtree(incoming, ignore_errors=True)


@contextmanager
def writable(store: Path) -> Iterator[None]:
    """Turn a failure to write into one clear sentence.

    Raises:
        StoreError: permission denied, disk full, read-only and so on.
    """
    try:
        yield
    except OSError as error:
        full = "; free some space" if error.errno == errno.ENOSPC else ""
        raise StoreError(f"{store} cannot be written: {error.strerror or error}{full}") from error


def replace_text(path: Path, text: str) -> None:
    """Write a small text file as `replace_bytes` does."""
    replace_bytes(path, text.encode())


def replace_bytes(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees the old or the new content, never a part.

    Raises:
        StoreError: it cannot be written.
    """
    with writable(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, partial = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(partial).chmod(0o644)
            Path(partial).rename(path)
        finally:
            Path(partial).unlink(missing_ok=True)


def _sync(directory: Path) -> None:
    """Put every file below `directory`, and the directory entries themselves, on disk."""
    for path in [*directory.rglob("*"), directory]:
        _sync_entry(path)


def _sync_entry(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
