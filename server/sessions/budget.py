"""How often a session child may die before its model is left alone for a while. Pure; time is an argument."""

from collections import deque

CRASHES = 5
WINDOW = 60.0
FIRST_PAUSE = 10.0
LONGEST_PAUSE = 300.0


class RestartBudget:
    """Five crashes a minute are forgiven with an immediate restart; after that each pause is twice the last one."""

    def __init__(self) -> None:
        self._crashes: deque[float] = deque()
        self._pause = FIRST_PAUSE

    def pause(self, now: float) -> float:
        """Record a crash at `now` and return how long to wait before the restart, in seconds."""
        crashes = self._crashes
        if crashes and now - crashes[-1] > WINDOW + self._pause:
            self._pause = FIRST_PAUSE
        crashes.append(now)
        while now - crashes[0] > WINDOW:
            crashes.popleft()
        if len(crashes) < CRASHES:
            return 0.0
        pause, self._pause = self._pause, min(2 * self._pause, LONGEST_PAUSE)
        return pause
