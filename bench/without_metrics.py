"""Sluice with its accounting taken out: what nothing counted and nothing logged would cost, for comparison only.

python -m bench.without_metrics serve ...; the server itself has no such switch, because the difference is small.
"""

import sys

from server.accounting import Accountant
from server.cli.main import main
from server.statistics import Histogram, ModelStatistics


def _nothing(*_: object) -> None:
    """Count nothing."""


if __name__ == "__main__":
    Accountant.finished = Histogram.observe = ModelStatistics.executed = _nothing  # type: ignore[method-assign,assignment]
    sys.exit(main())
