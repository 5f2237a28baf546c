"""Stands in for the loader and the scheduler, so that the coming and going of versions is tested step by step."""

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path

from server.errors import ModelLoadFailed, ModelNotReady
from server.repository import Options, Repository
from server.sessions.base import LoadedModel
from server.spec import ModelSpec, ModelVersion
from server.statistics import ModelStatistics
from server.store import Store

WAIT = 20.0
"""Seconds after which a test gives up on something that should have happened long ago."""


class FakeInstance:
    """An instance that remembers being closed."""

    def __init__(self, ledger: "Ledger") -> None:
        self._ledger = ledger
        self.closed = False
        ledger.instances.append(self)

    def close(self, grace: float) -> None:
        self.closed = True


class FakeScheduler:
    """A queue whose requests finish when the test says so."""

    def __init__(self, loaded: LoadedModel) -> None:
        self.spec = loaded.spec
        self.closed = False
        self._lock = threading.Lock()
        self._running = 0
        self._done: Callable[[], None] | None = None

    def submit(self) -> str:
        """Accept a request and return the version that will answer it."""
        with self._lock:
            if self._done is not None or self.closed:
                raise ModelNotReady("this version left service")
            self._running += 1
        return self.spec.version

    def finish(self) -> None:
        """Answer one request."""
        with self._lock:
            self._running -= 1
            done = self._done if self._running == 0 else None
        if done is not None:
            done()

    def drain(self, done: Callable[[], None]) -> None:
        with self._lock:
            assert self._done is None, "drained twice"
            self._done = done
            idle = self._running == 0
        if idle:
            done()

    def close(self) -> None:
        with self._lock:
            self.closed = True
            done = self._done if self._running else None
            self._running = 0
        if done is not None:
            done()

    def statistics(self) -> ModelStatistics:
        return ModelStatistics()


class Ledger:
    """A loader that loads nothing, and the account of what it was asked.

    `broken` maps (model, version) to the error it raises; `gates` to the event it waits for. `entered` is set each
    time a gated load begins.
    """

    def __init__(self) -> None:
        self.loads: list[tuple[str, str]] = []
        self.instances: list[FakeInstance] = []
        self.broken: dict[tuple[str, str], Exception] = {}
        self.gates: dict[tuple[str, str], threading.Event] = {}
        self.entered = threading.Event()
        self.loading = 0
        self.most_loading = 0
        self._lock = threading.Lock()

    def load(self, version: ModelVersion) -> LoadedModel:
        key = version.config.name, version.version
        with self._lock:
            self.loads.append(key)
            self.loading += 1
            self.most_loading = max(self.most_loading, self.loading)
        try:
            if key in self.gates:
                self.entered.set()
                assert self.gates[key].wait(WAIT)
            if key in self.broken:
                raise self.broken[key]
        finally:
            with self._lock:
                self.loading -= 1
        spec = ModelSpec(*key, "onnxruntime_onnx", (), (), version.config.max_batch_size or 0, version.config)
        return LoadedModel(spec, "CPUExecutionProvider", (FakeInstance(self),), (), 0.0, 0, {})

    def break_(self, name: str, version: int, reason: str = "it is broken") -> None:
        """Let a version fail to load."""
        self.broken[name, str(version)] = ModelLoadFailed(reason)

    def gate(self, name: str, version: int) -> threading.Event:
        """Hold the loads of a version back until the returned event is set."""
        return self.gates.setdefault((name, str(version)), threading.Event())

    def open_instances(self) -> int:
        return sum(not instance.closed for instance in self.instances)


class Watcher:
    """An observer that writes down what it was told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, ...]] = []

    def on_loaded(self, name: str, version: str) -> None:
        self.events.append(("loaded", name, version))

    def on_failed(self, name: str, version: str, reason: str) -> None:
        self.events.append(("failed", name, version))

    def on_unloaded(self, name: str, version: str) -> None:
        self.events.append(("unloaded", name, version))


class Bench:
    """A store on disk, a repository over it, and the fakes around it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ledger = Ledger()
        self.watcher = Watcher()
        root.mkdir()

    def put(self, name: str, *versions: int, config: str | None = None) -> None:
        """Write versions, each appearing at once, and a config."""
        for version in versions:
            partial = self.root / f".{name}-{version}"
            partial.mkdir()
            (partial / "model.onnx").write_bytes(b"model")
            (self.root / name).mkdir(exist_ok=True)
            partial.rename(self.root / name / str(version))
        if config is not None:
            (self.root / name).mkdir(exist_ok=True)
            (self.root / name / "config.pbtxt").write_text(config)

    def repository(
        self, control: str = "explicit", startup: tuple[str, ...] = ("*",), **changes: object
    ) -> Repository[FakeScheduler]:
        """Return a repository that has not started."""
        options = {"poll_seconds": 3600.0, "strict_readiness": True, "drain_timeout": WAIT, **changes}
        store = Store(self.root)
        return Repository(store, self.ledger, FakeScheduler, Options(control, startup, **options), [self.watcher])

    async def started(self, control: str = "explicit", **changes: object) -> Repository[FakeScheduler]:
        """Return a repository that has."""
        repository = self.repository(control, **changes)
        await repository.start()
        return repository


def table(repository: Repository[FakeScheduler]) -> dict[tuple[str, str], str]:
    """Return the index as (model, version) -> state."""
    return {(entry.name, entry.version): entry.state for entry in repository.index()}


def reason(repository: Repository[FakeScheduler], name: str, version: str) -> str:
    """Return why an entry of the index is as it is."""
    (found,) = [entry.reason for entry in repository.index() if (entry.name, entry.version) == (name, version)]
    return found


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop run until something holds."""
    async with asyncio.timeout(WAIT):
        while not condition():  # noqa: ASYNC110  (what is waited for has no event of its own)
            await asyncio.sleep(0.001)


async def entered(event: threading.Event) -> None:
    """Wait for an event of another thread."""
    assert await asyncio.to_thread(event.wait, WAIT)


def eventually(condition: Callable[[], bool]) -> None:
    """Wait until something holds that other processes bring about."""
    pause, deadline = threading.Event(), time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        pause.wait(0.01)
