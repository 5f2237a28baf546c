import shutil

import pytest

from server.sessions.files import check_files


@pytest.fixture
def version(tmp_path):
    folder = tmp_path / "1"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"graph")
    (folder / "weights.bin").write_bytes(b"weights")
    return folder


def digest(folder):
    return check_files(folder / "model.onnx").digest()


def test_copies_have_the_same_digest_wherever_and_whenever_they_were_made(version, tmp_path):
    shutil.copytree(version, tmp_path / "elsewhere", copy_function=shutil.copyfile)

    assert digest(version) == digest(tmp_path / "elsewhere")


@pytest.mark.parametrize("name", ["model.onnx", "weights.bin"])
def test_any_byte_of_any_file_counts(version, name):
    before = digest(version)
    content = (version / name).read_bytes()
    (version / name).write_bytes(content[:-1] + b"!")

    assert digest(version) != before


def test_names_count_and_no_content_can_pass_for_two_files(version):
    digests = {digest(version)}
    (version / "weights.bin").rename(version / "weights.dat")
    digests.add(digest(version))
    (version / "weights.dat").write_bytes(b"weigh")
    (version / "ts").write_bytes(b"ts")
    digests.add(digest(version))
    (version / "ts").unlink()
    digests.add(digest(version))

    assert len(digests) == 4
