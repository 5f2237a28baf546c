"""Worker processes that are replaced when they die, and killed when told to."""

import random
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


class Fleet:
    """Keeps `size` workers alive; each gets a new name at each start, as a pod would."""

    def __init__(self, url: str, size: int, directory: Path) -> None:
        self.kills = 0
        self.deaths = 0
        self._url = url
        self._directory = directory
        self._started = 0
        self._histories: dict[subprocess.Popen[bytes], Path] = {}
        self._workers = [self._start() for _ in range(size)]

    def _start(self) -> "subprocess.Popen[bytes]":
        self._started += 1
        name = f"worker-{self._started}"
        command = [sys.executable, "-m", "tests.chaos.harness.worker", self._url, name, str(self._directory / name)]
        errors = (self._directory / f"{name}.err").open("wb")
        with errors:
            worker = subprocess.Popen(command, cwd=ROOT, stdout=errors, stderr=errors)
        self._histories[worker] = self._directory / name
        return worker

    def kill_one(self, rng: random.Random) -> None:
        """SIGKILL one of those that are at work; on a busy machine some are still starting."""
        working = [worker for worker in self._workers if worker.poll() is None and self._histories[worker].exists()]
        if working:
            victim = rng.choice(working)
            victim.send_signal(signal.SIGKILL)
            victim.wait()
            self.kills += 1

    def replace_dead(self) -> None:
        """Start a new worker for each that is gone, whoever killed it."""
        for place, worker in enumerate(self._workers):
            if worker.poll() is not None:
                self.deaths += 1
                self._workers[place] = self._start()

    def stop(self) -> None:
        """Drain all of them; kill what does not end."""
        for worker in self._workers:
            if worker.poll() is None:
                worker.terminate()
        for worker in self._workers:
            try:
                worker.wait(timeout=15)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()

    def runs(self) -> dict[str, int]:
        """Return how often each request was started, by its id."""
        counts: dict[str, int] = {}
        for file in self._directory.glob("worker-*"):
            if file.suffix != ".err":
                for line in file.read_text().splitlines():
                    ident = line.split(" ")[1]
                    counts[ident] = counts.get(ident, 0) + 1
        return counts

    def complaints(self) -> str:
        """Return what workers wrote to stderr that is a traceback."""
        texts = (file.read_text(errors="replace") for file in self._directory.glob("*.err"))
        return "\n".join(text for text in texts if "Traceback" in text)
