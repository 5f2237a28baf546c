import gzip
import io
import tarfile

import pytest

from trainer import fetch, sources
from trainer.__main__ import main
from trainer.errors import DataError
from trainer.sources import DataFile


def _archive(reviews: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, text in reviews.items():
            member = tarfile.TarInfo(f"aclImdb/{name}")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return buffer.getvalue()


def test_reviews_become_rows_ordered_by_number_then_label():
    archive = _archive(
        {
            "test/pos/10_8.txt": "ten",
            "test/pos/2_10.txt": 'a "quoted", two',
            "test/neg/2_1.txt": "bad\u0085two",
            "test/urls_pos.txt": "no review",
            "train/pos/0_9.txt": "another split",
        }
    )

    expected = 'id,label,rating,text\n2,0,1,bad\u0085two\n2,1,10,"a ""quoted"", two"\n10,1,8,ten\n'
    assert fetch.reviews_csv(archive, "test").decode() == expected


@pytest.mark.parametrize(
    ("archive", "message"),
    [(b"no archive", "cannot be read"), (_archive({"README": "x"}), "holds no reviews aclImdb/train/pos and neg")],
)
def test_an_archive_without_reviews_is_refused(archive, message):
    with pytest.raises(DataError, match=message):
        fetch.reviews_csv(archive, "train")


def test_a_download_that_is_not_the_published_file_is_not_kept(tmp_path):
    with pytest.raises(DataError, match=r"what came for set/a has sha256 .* nothing was kept"):
        fetch._ensure(tmp_path, DataFile("set/a", ("0" * 64,)), lambda: b"other")

    assert not list(tmp_path.iterdir())


def test_a_whole_file_is_not_downloaded_again(tmp_path, monkeypatch):
    digest = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"
    file = DataFile("set/a", (digest,))
    fetch._ensure(tmp_path, file, lambda: b"hello\n")

    fetch._ensure(tmp_path, file, lambda: pytest.fail("downloaded again"))

    assert sources.read(tmp_path, file, own=False)[1] == b"hello\n"


def test_a_download_reads_the_whole_answer(tmp_path):
    path = tmp_path / "file.gz"
    path.write_bytes(gzip.compress(bytes(range(256)) * 9000))

    assert fetch.download(path.as_uri()) == path.read_bytes()


def test_without_a_connection_fetching_is_one_clear_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fetch, "MNIST_MIRROR", "http://127.0.0.1:1/")

    assert main(["data", "--fetch", "--data-dir", str(tmp_path)]) == 2

    error = capsys.readouterr().err
    assert "http://127.0.0.1:1/train-images-idx3-ubyte.gz cannot be downloaded: [Errno 111]" in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())
