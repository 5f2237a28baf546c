"""Sluice with its counting taken out: what it would cost if there were no metrics, for comparison only.

python -m bench.without_metrics serve ...; the server itself has no such switch, because the difference is small.
"""

import sys

from server.cli.main import main
from server.counts import Line, RequestCounts
from server.statistics import Histogram, ModelStatistics


def _nothing(*_: object) -> int:
    """Count nothing."""
    return 0


if __name__ == "__main__":
    RequestCounts.count = Line.add = Line.wants = Histogram.observe = Histogram.observe_all = _nothing  # type: ignore[method-assign,assignment]
    ModelStatistics.executed = _nothing  # type: ignore[method-assign,assignment]
    sys.exit(main())
