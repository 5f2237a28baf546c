"""`sluice serve` processes of both roles that can be killed at the worst moment and started again where they were."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.server_process import ServerProcess, serve


class Role:
    """One process of the fleet, through kills and restarts; a frontend keeps its port, as a pod's service would."""

    def __init__(self, name: str, *flags: str, store: Path) -> None:
        self.name = name
        self._flags = flags
        self._store = store
        self._stack = ExitStack()
        self.process: ServerProcess | None = None

    def start(self) -> None:
        """Return once it serves."""
        self.process = self._stack.enter_context(serve(*self._flags, store=self._store))

    def kill(self) -> None:
        """SIGKILL: nothing is answered, released or signed off."""
        assert self.process is not None
        self.process.process.kill()
        self.process.process.wait()
        self._stack.close()

    def freeze_holding(self, held: Callable[[int], int], patience: float) -> int:
        """Stop it at an instant at which it holds work, as `held` tells of its process id; return how much."""
        assert self.process is not None
        process, give_up = self.process.process, time.monotonic() + patience
        while time.monotonic() < give_up:
            if held(process.pid):
                process.send_signal(signal.SIGSTOP)
                if holding := held(process.pid):
                    return holding
                process.send_signal(signal.SIGCONT)
        return 0

    def close(self) -> None:
        self._stack.close()


@contextmanager
def closing(roles: list[Role]) -> Iterator[list[Role]]:
    try:
        yield roles
    finally:
        for role in roles:
            role.close()
