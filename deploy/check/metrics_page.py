"""docs/metrics.md, generated from the table in server/families.py: `python -m deploy.check.metrics_page [--check]`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from server.families import FAMILIES, Family
from server.statistics import ROWS_BUCKETS, SECONDS_BUCKETS

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "metrics.md"
HEAD = """# Metrics

Generated from `FAMILIES` in `server/families.py` by `make dashboards`; `make lint` fails when it differs.

Every process answers `/metrics` on its metrics port (8002).
Label values come from loaded models and fixed lists only: a client cannot create one.
Times are in seconds and sizes in bytes, but for Triton's own names, which keep Triton's units.
`model` and `version` are empty for calls that ended before a served model was known.
"""


def row(family: Family) -> str:
    """Return one line of the table."""
    labels = ", ".join(f"`{label}`" for label in family.labels)
    return f"| `{family.name}` | {family.kind} | {labels} | {family.help} |"


def page() -> str:
    """Return the whole page."""
    ours = [family for family in FAMILIES if family.name.startswith("sluice_")]
    theirs = [family for family in FAMILIES if family not in ours]
    titles = ["| metric | type | labels | meaning |", "|---|---|---|---|"]
    return "\n".join([
        HEAD, "## Sluice's own", "", *titles, *map(row, ours), "",
        f"Buckets of durations: {', '.join(f'{bound:g}' for bound in SECONDS_BUCKETS)} s.",
        f"Buckets of rows: {', '.join(map(str, ROWS_BUCKETS))}.", "",
        "## Triton's names for the same", "",
        "So that dashboards and autoscalers written for Triton go on working.", "", *titles, *map(row, theirs), "",
        "`process_*`, `python_info` and `python_gc_*` are there as well, as every Python program exports them.", "",
    ])  # fmt: skip


def main(words: Sequence[str] | None = None) -> int:
    """Write the page, or with --check say that it differs."""
    parser = argparse.ArgumentParser(description=str(__doc__))
    parser.add_argument("--check", action="store_true", help="fail when the committed page differs")
    if not parser.parse_args(words).check:
        PAGE.write_text(page())
    elif not PAGE.exists() or PAGE.read_text() != page():
        sys.stderr.write("docs/metrics.md: expected what server/families.py says; run `make dashboards`\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
