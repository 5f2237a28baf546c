"""Download the public data sets, check every byte, and bring them into the form the readers take.

MNIST comes as the four published files. The reviews come as an archive of one file a review, which is turned into
`train.csv` and `test.csv`. The customers need a Kaggle account, so they are the user's own step (docs/data.md).
Nothing is downloaded unless this is asked for, and never at serve time.
"""

import csv
import hashlib
import io
import tarfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from tqdm import tqdm

from trainer import sources, store
from trainer.errors import DataError
from trainer.sources import CHURN, IMDB, MNIST, DataFile

MNIST_MIRROR = "https://ossci-datasets.s3.amazonaws.com/mnist/"  # the copy torchvision uses
IMDB_ARCHIVE = "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz"
CHUNK = 1 << 20  # bytes
PATIENCE = 30.0  # seconds without a byte before giving up


def fetch(directory: Path) -> None:
    """Get what is missing of MNIST and the reviews; files that are here and whole are left alone.

    Raises:
        DataError: no connection, or other bytes than the published ones; what was whole stays.
    """
    for file in MNIST.files:
        _ensure(directory, file, lambda file=file: _unzip(download(MNIST_MIRROR + Path(file.path).name + ".gz")))  # type: ignore[misc]
    if any(_missing(directory, file) for file in IMDB.files):
        archive = download(IMDB_ARCHIVE)
        for file in IMDB.files:
            _ensure(directory, file, lambda file=file: reviews_csv(archive, Path(file.path).stem))  # type: ignore[misc]
    if _missing(directory, CHURN.files[0]):
        raise DataError(f"{CHURN.files[0].path} needs a Kaggle account: {CHURN.origin}; docs/data.md has the command")


def _missing(directory: Path, file: DataFile) -> bool:
    try:
        sources.read(directory, file, own=False)
    except DataError:
        return True
    return False


def _ensure(directory: Path, file: DataFile, make: Callable[[], bytes]) -> None:
    if not _missing(directory, file):
        return
    data = make()
    digest = hashlib.sha256(data).hexdigest()
    if digest not in file.sha256:
        raise DataError(f"what came for {file.path} has sha256 {digest}, expected {file.sha256[0]}; nothing was kept")
    store.replace_bytes(directory / file.path, data)


def download(url: str) -> bytes:
    """The bytes behind a URL, with a progress bar.

    Raises:
        DataError: it cannot be reached or breaks off.
    """
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:  # noqa: S310 - only the constants above come here
            total = int(answer.headers.get("Content-Length") or 0) or None
            parts = []
            with tqdm(total=total, unit="B", unit_scale=True, desc=url.rsplit("/", 1)[-1], leave=False) as bar:
                while chunk := answer.read(CHUNK):
                    parts.append(chunk)
                    bar.update(len(chunk))
    except (OSError, ValueError) as error:
        raise DataError(f"{url} cannot be downloaded: {getattr(error, 'reason', error)}") from error
    return b"".join(parts)


def _unzip(data: bytes) -> bytes:
    return sources.unzip(data, "the download")


def reviews_csv(archive: bytes, split: str) -> bytes:
    """The reviews `<split>/<pos|neg>/<id>_<rating>.txt` of the archive as one CSV, ordered by id, then label.

    Raises:
        DataError: the archive is damaged or holds no such reviews.
    """
    try:
        rows = sorted(_reviews(archive, split))
    except (tarfile.TarError, EOFError, OSError, UnicodeDecodeError) as error:
        raise DataError(f"the review archive cannot be read: {error}") from error
    if not rows:
        raise DataError(f"the review archive holds no reviews aclImdb/{split}/pos and neg")
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([("id", "label", "rating", "text"), *rows])
    return text.getvalue().encode()


def _reviews(archive: bytes, split: str) -> Iterator[tuple[int, int, int, str]]:
    labels = {"neg": 0, "pos": 1}
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as members:
        for member in members:
            parts = Path(member.name).parts
            if len(parts) == 4 and parts[1] == split and parts[2] in labels and (file := members.extractfile(member)):
                number, _, rating = Path(parts[3]).stem.partition("_")
                yield int(number), labels[parts[2]], int(rating), file.read().decode("utf-8")
