import errno
import os
from pathlib import Path

import pytest

from trainer import modelconfig, store
from trainer.errors import StoreError, UsageError


def _publish(folder: Path, model: str = "m", version: int | None = None) -> int:
    with store.new_version(folder, model, version) as (directory, number):
        (directory / "model.onnx").write_bytes(b"x")
    return number


def _fail(folder: Path, failure: BaseException | type[BaseException]) -> None:
    with store.new_version(folder, "m") as (directory, _):
        (directory / "model.onnx").write_bytes(b"half")
        raise failure


def test_versions_count_up_and_gaps_are_left(tmp_path):
    assert [_publish(tmp_path), _publish(tmp_path), _publish(tmp_path, version=7), _publish(tmp_path)] == [1, 2, 7, 8]
    assert store.versions(tmp_path, "m") == [1, 2, 7, 8]


def test_other_folders_are_no_versions(tmp_path):
    for name in (".incoming-x", "notes", "1a", "01x"):
        (tmp_path / "m" / name).mkdir(parents=True)
    (tmp_path / "m" / "3").write_text("a file")

    assert store.versions(tmp_path, "m") == []


def test_a_version_never_changes(tmp_path):
    _publish(tmp_path)

    with pytest.raises(StoreError, match="1 exists and a version never changes"):
        _publish(tmp_path, version=1)


@pytest.mark.parametrize("failure", [KeyboardInterrupt, RuntimeError])
def test_nothing_is_left_of_a_version_that_failed(tmp_path, failure):
    with pytest.raises(failure):
        _fail(tmp_path, failure)

    assert list((tmp_path / "m").iterdir()) == []


def test_a_version_is_invisible_until_it_is_whole(tmp_path):
    with store.new_version(tmp_path, "m") as (directory, _):
        assert directory.name.startswith(".")
        assert store.versions(tmp_path, "m") == []

    assert [path.name for path in (tmp_path / "m").iterdir()] == ["1"]


def test_a_full_disk_is_one_clear_sentence_and_leaves_nothing(tmp_path):
    with pytest.raises(StoreError, match="cannot be written: No space left on device; free some space"):
        _fail(tmp_path, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))

    assert list((tmp_path / "m").iterdir()) == []


def test_a_store_that_is_a_file_is_refused_before_training(tmp_path):
    (tmp_path / "store").write_text("not a folder")

    with pytest.raises(StoreError, match="store cannot be written: Not a directory"):
        store.check_writable(tmp_path / "store", "m", None)


def test_checking_a_store_leaves_nothing(tmp_path):
    store.check_writable(tmp_path / "new", "m", None)

    assert list(tmp_path.iterdir()) == []


def test_an_unknown_version_names_the_known_ones(tmp_path):
    _publish(tmp_path)

    with pytest.raises(UsageError, match=r"does not have version 5; it has \[1\]"):
        store.version_directory(tmp_path, "m", 5)


def test_a_small_file_is_replaced_whole(tmp_path, monkeypatch):
    path = tmp_path / "config.pbtxt"
    store.replace_text(path, "old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.EIO, "no")))

    with pytest.raises(StoreError):
        store.replace_text(path, "new")

    assert path.read_text() == "old"
    assert [found.name for found in tmp_path.iterdir()] == ["config.pbtxt"]


def test_a_new_model_gets_its_configuration_and_labels(tmp_path):
    modelconfig.prepare(tmp_path, "m", ("no", "yes"))

    text = (tmp_path / "m" / "config.pbtxt").read_text()
    assert 'name: "m"\nbackend: "onnxruntime"\ndynamic_batching { }\n' in text
    assert 'dims: [ 2 ] label_filename: "labels.txt"' in text
    assert (tmp_path / "m" / "labels.txt").read_text() == "no\nyes\n"


def test_a_second_version_does_not_serve_by_appearing(tmp_path):
    modelconfig.prepare(tmp_path, "m", ())
    _publish(tmp_path)
    assert modelconfig.serving_version(tmp_path, "m") == 1

    modelconfig.prepare(tmp_path, "m", ())
    _publish(tmp_path)

    assert modelconfig.serving_version(tmp_path, "m") == 1


def test_a_pin_moves_and_the_rest_of_the_configuration_stays(tmp_path):
    modelconfig.prepare(tmp_path, "m", ())
    before = (tmp_path / "m" / "config.pbtxt").read_text()
    for version in (3, 12):
        modelconfig.pin(tmp_path, "m", version)

    assert (
        before + "version_policy: { specific: { versions: [ 12 ] } }\n" == (tmp_path / "m" / "config.pbtxt").read_text()
    )


def test_a_person_s_own_configuration_is_kept(tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.pbtxt").write_text(
        'name: "m"\nmax_batch_size: 8\nversion_policy { specific { versions: [2] } }\n'
    )
    modelconfig.prepare(tmp_path, "m", ("a", "b"))

    assert modelconfig.serving_version(tmp_path, "m") == 2
    assert not (tmp_path / "m" / "labels.txt").exists()
