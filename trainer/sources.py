"""Which data files there are, where users get them, and what their bytes must be; knows no model.

A checksum is of the content, not of the compression: `train.csv` and `train.csv.gz` are the same file here, so a
user's own download is accepted in either form. The files themselves are never committed (docs/data.md).
"""

import gzip
import hashlib
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trainer.errors import DataError


@dataclass(frozen=True)
class DataFile:
    """One file of a data set.

    Attributes:
        path: below the data directory, without `.gz`.
        sha256: of the uncompressed content; more than one where several published forms are the same rows.
    """

    path: str
    sha256: tuple[str, ...]


@dataclass(frozen=True)
class DataSource:
    """A data set: its name, where it comes from, the command that fetches it, its files."""

    name: str
    origin: str
    files: tuple[DataFile, ...]


CHURN = DataSource(
    "Churn_Modelling",
    "https://www.kaggle.com/datasets/shrutimechlearn/churn-modelling",
    (
        DataFile(
            "churn/Churn_Modelling.csv",
            (
                "ee2a5c9d8daf3aed0d91c4d883a84ebb77d271447bebc0f0c80aafb0f288ceab",
                "3996cd1fa372e0db0cd9c0ebac35bbd4e8e3c65fb942bb010c826e7b1eeef0a0",  # the same rows with CRLF ends
            ),
        ),
    ),
)
MNIST = DataSource(
    "MNIST",
    "http://yann.lecun.com/exdb/mnist/",
    (
        DataFile(
            "mnist/train-images-idx3-ubyte", ("ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",)
        ),
        DataFile(
            "mnist/train-labels-idx1-ubyte", ("65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",)
        ),
        DataFile("mnist/t10k-images-idx3-ubyte", ("0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",)),
        DataFile("mnist/t10k-labels-idx1-ubyte", ("ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",)),
    ),
)
IMDB = DataSource(
    "Large Movie Review Dataset v1.0",
    "https://ai.stanford.edu/~amaas/data/sentiment/",
    (
        DataFile("imdb/train.csv", ("8042ac96cce5b43c470b54c51dbd216008795b70ef3b5f2492b89a3d729b220d",)),
        DataFile("imdb/test.csv", ("04f40c46d0ba583c57a93fc52a0e4ff266abdb6259bd689d4227af26bdc00d50",)),
    ),
)
SOURCES = {"churn": CHURN, "mnist": MNIST, "sentiment": IMDB}


def default_directory() -> Path:
    """Where the data is unless `--data-dir` says otherwise: `SLUICE_DATA_DIR`, else `data/` in the current folder."""
    return Path(os.environ.get("SLUICE_DATA_DIR") or "data")


def locate(directory: Path, file: DataFile) -> Path:
    """The file as it lies in `directory`, plain or gzipped.

    Raises:
        DataError: neither is there.
    """
    plain = directory / file.path
    for candidate in (plain, plain.with_name(plain.name + ".gz")):
        if candidate.is_file():
            return candidate
    raise DataError(f"{plain}[.gz] is missing; docs/data.md says where to get it, --data-dir where to look")


def content(path: Path) -> bytes:
    """The whole uncompressed content of a plain or gzipped file.

    Raises:
        DataError: it cannot be read, or the compressed data is damaged or cut short.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    return unzip(data, str(path)) if path.suffix == ".gz" else data


def unzip(data: bytes, what: str) -> bytes:
    """The content of gzipped bytes; `what` names them in the error.

    Raises:
        DataError: damaged or cut short.
    """
    try:
        return gzip.decompress(data)
    except (EOFError, OSError, zlib.error) as error:
        raise DataError(f"{what} is not a whole gzip file: {error}") from error


def read(directory: Path, file: DataFile, *, own: bool) -> tuple[Path, bytes]:
    """Locate a file, check its bytes and return them.

    Args:
        directory: the data directory.
        file: which file.
        own: the user says it is their own data of the same form, so any checksum is fine.

    Raises:
        DataError: missing, damaged, or not the published file while `own` is false.
    """
    path = locate(directory, file)
    data = content(path)
    digest = hashlib.sha256(data).hexdigest()
    if not own and digest not in file.sha256:
        raise DataError(
            f"{path} is not the published file: expected content sha256 {file.sha256[0]}, found {digest}; "
            "--own-data trains on your own rows"
        )
    return path, data


def fingerprints(directory: Path, source: DataSource) -> Iterator[dict[str, str | int | bool]]:
    """What every file of a data set was, for the card: path, checksum, size, whether it is the published one."""
    for file in source.files:
        data = content(locate(directory, file))
        digest = hashlib.sha256(data).hexdigest()
        yield {"path": file.path, "content_sha256": digest, "bytes": len(data), "published": digest in file.sha256}
