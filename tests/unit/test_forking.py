"""Session processes come from a zygote, and whatever becomes of it costs no model its service."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from server.sessions import spawn
from server.sessions.base import Instance
from server.sessions.forking import UNKNOWN_STATUS, Forks
from tests import models
from tests.instances import WAIT, answers, eventually, load, part, run, tensor

X = np.ones((1, 4), np.float32)


@pytest.fixture
def forks(monkeypatch: pytest.MonkeyPatch) -> Iterator[Forks]:
    """Return a zygote of this test's own."""
    own = Forks()
    monkeypatch.setattr(spawn, "FORKS", own)
    yield own
    own.close()


def sums(instance: Instance) -> list[bytes]:
    return answers(run(instance, part(tensor("a", "FP32", X), tensor("b", "FP32", X))))


def test_children_are_forked_and_say_who_they_are(tmp_path: Path, forks: Forks) -> None:
    (instance,) = load(tmp_path / "tiny", models.add()).instances
    child, zygote = psutil.Process(instance.pid), psutil.Process(forks.pid)

    assert (child.name(), zygote.name()) == ("sluice-session", "sluice-zygote")
    assert child.ppid() == zygote.pid
    assert zygote.num_threads() == 1
    assert child.cmdline() == zygote.cmdline(), "it was not forked, it was started"
    instance.close(0.0)
    assert eventually(lambda: not child.is_running())


def test_a_dead_zygote_costs_nothing_and_is_replaced_when_it_is_wanted(tmp_path: Path, forks: Forks) -> None:
    (before,) = load(tmp_path / "a", models.add()).instances
    dead = forks.pid
    os.kill(dead, signal.SIGKILL)

    assert sums(before) == [(X + X).tobytes()]
    (after,) = load(tmp_path / "b", models.add()).instances
    assert sums(after) == [(X + X).tobytes()]
    assert forks.pid != dead

    orphan = before.pid
    os.kill(orphan, signal.SIGKILL)  # its replacement comes from the new zygote
    assert eventually(lambda: before.available and before.pid != orphan)
    assert sums(before) == [(X + X).tobytes()]
    before.close(0.0)
    after.close(0.0)


def test_an_order_that_dies_with_the_zygote_is_given_to_the_next_one(
    tmp_path: Path, forks: Forks, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(tmp_path / "a", models.add()).instances[0].close(0.0)
    dead, order = forks.pid, forks._order

    def order_and_kill(area_limit: int, descriptors: list[int]) -> None:
        order(area_limit, descriptors)
        if forks.pid == dead:
            os.kill(dead, signal.SIGKILL)

    os.kill(dead, signal.SIGSTOP)  # it will not look at the order
    monkeypatch.setattr(forks, "_order", order_and_kill)
    (instance,) = load(tmp_path / "b", models.add()).instances

    assert sums(instance) == [(X + X).tobytes()]
    assert forks.pid != dead
    instance.close(0.0)


@pytest.mark.parametrize("zygote_dies", [False, True])
def test_how_a_child_ended_is_known_as_far_as_it_can_be(tmp_path: Path, forks: Forks, zygote_dies: bool) -> None:
    (instance,) = load(tmp_path / "tiny", models.add()).instances
    forked = instance._child.process
    assert forked.wait(0.0) is None
    if zygote_dies:
        os.kill(forks.pid, signal.SIGKILL)
        assert forked.wait(0.05) is None, "it is still running, whoever forked it"
    os.kill(forked.pid, signal.SIGSEGV)

    assert forked.wait(WAIT) == (UNKNOWN_STATUS if zygote_dies else -signal.SIGSEGV)
    instance.close(0.0)


def test_a_zygote_with_a_second_thread_does_not_fork_what_cannot_be_forked(
    tmp_path: Path, forks: Forks, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (instance,) = load(tmp_path / "tiny", models.add()).instances

    assert psutil.Process(forks.pid).num_threads() == 2
    assert "server.sessions.child" in psutil.Process(instance.pid).cmdline()
    assert sums(instance) == [(X + X).tobytes()]
    instance.close(0.0)


def test_a_child_holds_nothing_of_its_siblings(tmp_path: Path, forks: Forks) -> None:
    def descriptors(instance: Instance) -> int:
        return psutil.Process(instance.pid).num_fds()

    instances = [load(tmp_path / str(number), models.add()).instances[0] for number in range(3)]

    assert len({descriptors(instance) for instance in instances}) == 1
    for instance in instances:
        instance.close(0.0)
    assert eventually(lambda: psutil.Process(forks.pid).children() == [])
