"""Looks at a version's files before anything opens them: regular files only, no links out, one consistent version.

ONNX Runtime itself refuses external data outside the model's folder, through `..`, absolute paths and symbolic
links, but it does load a hard link to a file elsewhere. Never knows what the files mean.
"""

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from server.errors import ModelLoadFailed

MODEL_BYTES = 2 << 30
"""Protocol buffers end here; larger models keep their weights in external data."""

Signature = tuple[tuple[str, int, int, int], ...]


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A checked model file and the folder it may take external data from, which is always its own.

    Without a folder ONNX Runtime would look in the working directory of the process.
    """

    path: Path
    folder: str
    signature: Signature
    """Name, inode, size and modification time of every file of the version when it was checked."""

    def open(self) -> int:
        """Return a new descriptor of the model file.

        Raises:
            ModelLoadFailed: it is no regular file, or cannot be read.
        """
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise ModelLoadFailed(f"{self.path.name}: {error.strerror}") from error
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise ModelLoadFailed(f"{self.path.name}: expected a regular file")
        return fd

    def digest(self) -> str:
        """Return one SHA-256 over the names and contents of all regular files of the version. Raises OSError."""
        digest = hashlib.sha256()
        for name, *_ in self.signature:
            path = self.path.parent / name
            digest.update(repr(name).encode())
            if path.is_file():
                with path.open("rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    def check_unchanged(self) -> None:
        """Raise ModelLoadFailed if any file of the version has been touched since it was checked."""
        if _signature(self.path.parent) != self.signature:
            raise ModelLoadFailed("the version's files changed while it was being loaded; versions are immutable")


def check_files(model_file: Path) -> ModelFile:
    """Return the model file of a version directory, ready to open.

    Raises:
        ModelLoadFailed: a file is missing, empty, too large, not regular, or linked from elsewhere.
    """
    try:
        about = model_file.stat()
        signature = _signature(model_file.parent)
    except OSError as error:
        raise ModelLoadFailed(f"{model_file.name}: {error.strerror}") from error
    if not stat.S_ISREG(about.st_mode):
        raise ModelLoadFailed(f"{model_file.name}: expected a regular file")
    if not 0 < about.st_size <= MODEL_BYTES:
        raise ModelLoadFailed(f"{model_file.name}: expected 1 to {MODEL_BYTES} bytes, it has {about.st_size}")
    for name, *_ in signature:
        if name != model_file.name:
            _check_beside(model_file.parent / name)
    return ModelFile(model_file, str(model_file.parent.resolve()), signature)


def _check_beside(path: Path) -> None:
    """Refuse what external data must not be, whatever the model says about it."""
    about = path.lstat()
    if stat.S_ISREG(about.st_mode) and about.st_nlink != 1:
        raise ModelLoadFailed(f"{path.name}: expected a file of this version only, it has {about.st_nlink} hard links")
    if not stat.S_ISREG(about.st_mode) and not stat.S_ISLNK(about.st_mode):
        raise ModelLoadFailed(f"{path.name}: expected a regular file")


def _signature(directory: Path) -> Signature:
    """Return what identifies every file below a directory; symbolic links are not followed."""
    rows = []
    for folder, _, names in os.walk(directory):
        for name in names:
            path = Path(folder) / name
            about = path.lstat()
            rows.append((str(path.relative_to(directory)), about.st_ino, about.st_size, about.st_mtime_ns))
    return tuple(sorted(rows))
