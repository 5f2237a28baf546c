"""Model files that mean harm, or were damaged: each is refused with a reason, and nothing of ours suffers."""

import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from server.errors import ModelLoadFailed
from server.sessions.plans import Report
from server.sessions.spawn import SessionChild
from server.spec import InstanceGroup, ModelConfig
from tests import models
from tests.instances import OPTIONS, answers, load_version, part, run, tensor
from tests.models import write_version

FLOATS = b"\x00\x00\x80\x3f" * 2


def refused(path: Path, **changes: object) -> str:
    """Load a version and return why it was refused; any path of ours in the reason is a failure of its own."""
    with pytest.raises(ModelLoadFailed) as caught:
        load_version(path, replace(OPTIONS, **changes)).instances[0].close(0)
    reason = str(caught.value)
    assert str(path.parent) not in reason
    assert "/onnxruntime_src" not in reason
    return reason


def open_files() -> int:
    return psutil.Process().num_fds()


@pytest.fixture
def version(tmp_path: Path) -> Callable[[bytes], Path]:
    """Return a function that writes version 1, with secrets outside its folder to reach for."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "secret.bin").write_bytes(FLOATS)
    (tmp_path / "tiny" / "secret.bin").parent.mkdir()
    (tmp_path / "tiny" / "secret.bin").write_bytes(FLOATS)
    return lambda data: write_version(tmp_path / "tiny" / "1", data)


FILES = {
    "random": os.urandom(4096),
    "elf": b"\x7fELF" + bytes(4096),
    "half": models.add()[: len(models.add()) // 2],
    "tenth": models.add()[: len(models.add()) // 10],
    "without its last bytes": models.matrix_chain(64, 2)[:-9],
    "trailing junk": models.add() + b"\xff" * 64,
    "opset 999": models.of_opset(999),
    "cycle": models.circular(),
    "unknown domain": models.of_unknown_domain(),
    "4 TiB initializer": models.claiming_dims(1 << 40),
    "overflowing initializer": models.claiming_dims(1 << 62, 4),
    "negative dimension": models.claiming_dims(-8),
    "ort format": b"\x1c\x00\x00\x00ORTM" + bytes(512),
}


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_or_hostile_file_is_refused(version: Callable[[bytes], Path], name: str) -> None:
    assert refused(version(FILES[name]))


def test_an_empty_file_is_refused_before_it_is_opened(version: Callable[[bytes], Path]) -> None:
    assert "it has 0" in refused(version(b""))


OUTSIDE = [
    "../secret.bin",
    "../../out/secret.bin",
    "sub/../../secret.bin",
    "/etc/passwd",
    "/proc/self/environ",
    "/dev/zero",
    "*/_ORT_MEM_ADDR_/*",
]


@pytest.mark.parametrize("location", OUTSIDE)
def test_external_data_outside_the_version_is_refused(version: Callable[[bytes], Path], location: str) -> None:
    assert refused(version(models.with_external_data(location, 0, 8)))


def test_external_data_is_not_looked_for_in_the_working_directory(
    version: Callable[[bytes], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path / "out")

    assert refused(version(models.with_external_data("secret.bin", 0, 8)))


CLAIMS = [(-8, 8), (8, 8), (1 << 40, 8), (0, 1 << 40), (0, 4), (4, 8)]


@pytest.mark.parametrize(("offset", "length"), CLAIMS)
def test_external_data_that_is_not_there_is_refused(version: Callable[[bytes], Path], offset: int, length: int) -> None:
    path = version(models.with_external_data("w.bin", offset, length))
    (path.parent / "w.bin").write_bytes(FLOATS)

    assert refused(path)


def test_external_data_of_its_own_is_served(version: Callable[[bytes], Path]) -> None:
    path = version(models.with_external_data("w.bin", 0, 8))
    (path.parent / "w.bin").write_bytes(FLOATS)

    (instance,) = load_version(path).instances
    outcome = run(instance, part(tensor("x", "FP32", np.ones((1, 2), np.float32))))
    instance.close(0)

    assert [np.float32([2, 2]).tobytes()] == answers(outcome)


def test_a_hard_link_to_a_file_elsewhere_is_refused(version: Callable[[bytes], Path], tmp_path: Path) -> None:
    path = version(models.with_external_data("w.bin", 0, 8))
    os.link(tmp_path / "out" / "secret.bin", path.parent / "w.bin")

    assert "2 hard links" in refused(path)


def test_a_symbolic_link_out_of_the_version_is_refused(version: Callable[[bytes], Path], tmp_path: Path) -> None:
    path = version(models.with_external_data("w.bin", 0, 8))
    (path.parent / "w.bin").symlink_to(tmp_path / "out" / "secret.bin")

    assert refused(path)


@pytest.mark.parametrize("name", ["model.onnx", "w.bin"])
def test_a_pipe_is_refused_before_it_is_opened(version: Callable[[bytes], Path], name: str) -> None:
    path = version(models.with_external_data("w.bin", 0, 8))
    (path.parent / name).unlink(missing_ok=True)
    os.mkfifo(path.parent / name)

    assert "expected a regular file" in refused(path)


def test_a_device_is_refused_before_it_is_opened(version: Callable[[bytes], Path]) -> None:
    path = version(models.add())
    path.unlink()
    path.symlink_to("/dev/zero")

    assert "expected a regular file" in refused(path)


def test_a_directory_and_nothing_at_all_are_refused(version: Callable[[bytes], Path]) -> None:
    path = version(models.add())
    path.unlink()

    assert "No such file" in refused(path)
    path.mkdir()
    assert "expected a regular file" in refused(path)


def test_an_unreadable_file_is_refused(version: Callable[[bytes], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = version(models.add())
    path.chmod(0)
    if os.access(path, os.R_OK):  # root reads everything, so the refusal is staged
        opened = os.open

        def deny(file: str, *arguments: int) -> int:
            if file == path:
                raise PermissionError(13, "Permission denied")
            return opened(file, *arguments)

        monkeypatch.setattr(os, "open", deny)

    assert "Permission denied" in refused(path)


def test_custom_operator_libraries_are_refused(version: Callable[[bytes], Path]) -> None:
    config = ModelConfig("tiny", ignored=("model_operations",))
    with pytest.raises(ModelLoadFailed, match="custom operator libraries"):
        load_version(version(models.add()), config=config)


def test_a_model_that_does_not_match_its_card_is_refused(version: Callable[[bytes], Path]) -> None:
    path = version(models.add())
    (path.parent / "card.json").write_text('{"sha256": "' + "0" * 64 + '"}')

    assert "expected sha256 0000" in refused(path)


@pytest.mark.parametrize("card", ["", "[" * 100_000, '{"sha256": 5}', "\x00"])
def test_a_broken_card_is_refused(version: Callable[[bytes], Path], card: str) -> None:
    path = version(models.add())
    (path.parent / "card.json").write_text(card)

    assert "card.json" in refused(path)


def test_opening_is_bounded_in_time(version: Callable[[bytes], Path]) -> None:
    assert "took longer than 0.001 s" in refused(version(models.add()), load_timeout=0.001)


def test_a_model_that_unfolds_to_more_than_the_memory_limit_is_refused(version: Callable[[bytes], Path]) -> None:
    path = version(models.of_constant(1 << 29))  # two gibibytes, which opening gives up on and running needs

    assert "allocate memory" in refused(path, memory_limit_bytes=1 << 30)


@pytest.fixture
def during(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Return a function that has something happen between the check of the files and the opening of the model."""

    def arrange(event: Callable[[], object]) -> None:
        opening = SessionChild.load

        def load(child: SessionChild) -> Report:
            event()
            return opening(child)

        monkeypatch.setattr(SessionChild, "load", load)

    return arrange


@pytest.mark.parametrize("isolation", ["process", "none"])
def test_a_file_replaced_in_place_while_it_loads_is_refused(
    version: Callable[[bytes], Path], during: Callable[[Callable[[], object]], None], isolation: str
) -> None:
    path = version(models.matrix_chain(64, 4))
    during(lambda: path.write_bytes(models.add()))

    assert "versions are immutable" in refused(path, isolation=isolation)


def test_a_directory_that_vanishes_while_it_loads_is_refused(
    version: Callable[[bytes], Path], during: Callable[[Callable[[], object]], None]
) -> None:
    path = version(models.add())
    during(lambda: shutil.rmtree(path.parent))

    assert "versions are immutable" in refused(path)


def test_instances_of_one_version_must_be_of_one_file(
    version: Callable[[bytes], Path], during: Callable[[Callable[[], object]], None]
) -> None:
    path = version(models.add())
    changes = iter([lambda: None, lambda: path.write_bytes(models.identity("FP32"))])
    during(lambda: next(changes)())  # noqa: PLW0108  (another one each time)
    config = ModelConfig("tiny", instance_groups=(InstanceGroup(count=2),))

    with pytest.raises(ModelLoadFailed, match="versions are immutable"):
        load_version(path, config=config)


def test_nothing_is_left_of_a_refused_version(version: Callable[[bytes], Path]) -> None:
    path = version(models.of_opset(999))
    refused(path)
    before = (open_files(), {thread.name for thread in threading.enumerate()}, psutil.Process().children())
    refused(path)

    assert before == (open_files(), {thread.name for thread in threading.enumerate()}, psutil.Process().children())
