"""Sluice whose counting can be taken out and put back while it runs: what it would cost if there were no metrics.

python -m bench.without_metrics serve ...; SIGUSR1 takes it out, SIGUSR2 puts it back. The server itself has no such
switch, because the difference is small: two processes of the very same server differ by up to 7 %, by where in memory
they lie, so it can only be seen within one.
"""

import signal
import sys

from server.accounting import TurnMeter
from server.cli.main import main
from server.counts import Line, RequestCounts
from server.statistics import Histogram, ModelStatistics
from server.wire.observer import Ended

OFF, ON = signal.SIGUSR1, signal.SIGUSR2
_COUNTING = [
    (owner, name, getattr(owner, name))
    for owner, names in (
        (RequestCounts, ("count", "add")),
        (Line, ("add", "add_since", "wants")),
        (TurnMeter, ("add",)),
        (Histogram, ("observe", "observe_all", "observe_since")),
        (ModelStatistics, ("executed", "reject")),
    )
    for name in names
]


def _nothing(*_: object) -> int:
    """Count nothing."""
    return 0


def _write_down(self: TurnMeter, ended: Ended) -> None:
    """Do what `TurnMeter.add` does but count: log lines are not metrics."""
    if ended.started > self._accountant.usual.full_until:
        self._accountant.tell(self._line, self._method, ended, 0.0)


def _take_out(*_: object) -> None:
    for owner, name, _method in _COUNTING:
        setattr(owner, name, _write_down if owner is TurnMeter else _nothing)


def _put_back(*_: object) -> None:
    for owner, name, method in _COUNTING:
        setattr(owner, name, method)


if __name__ == "__main__":
    signal.signal(OFF, _take_out)
    signal.signal(ON, _put_back)
    sys.exit(main())
