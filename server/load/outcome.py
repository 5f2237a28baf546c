"""When calls are sent, and what became of them. Knows no connection."""

from dataclasses import dataclass, field

import numpy as np


@dataclass(slots=True)
class Outcome:
    """What happened to the calls of one run; times in seconds."""

    latencies: list[float] = field(default_factory=list)
    """Of the calls that were answered with OK."""
    instants: list[float] = field(default_factory=list)
    """When each of those was meant to start, from the beginning of the run."""
    codes: dict[int, int] = field(default_factory=dict)
    sent: int = 0
    late: list[float] = field(default_factory=list)
    """How much later than intended each call was really sent."""
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    """CPU time that the generator itself used."""

    def count(self, code: int, calls: int = 1) -> None:
        """Count calls that ended with a status code."""
        if calls:
            self.codes[code] = self.codes.get(code, 0) + calls


def poisson(rate: float, seconds: float, seed: int) -> list[float]:
    """Return the send instants of a Poisson process with `rate` a second, for `seconds`."""
    random = np.random.default_rng(seed)
    instants = np.empty(0)
    while not instants.size or instants[-1] < seconds:
        gaps = random.exponential(1 / rate, int(rate * seconds) + 16)
        instants = np.concatenate([instants, np.cumsum(gaps) + (instants[-1] if instants.size else 0.0)])
    sent: list[float] = instants[instants < seconds].tolist()
    return sent
