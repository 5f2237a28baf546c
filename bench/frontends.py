"""What several frontend processes cost and can give: CPU per request of each kind of process, and the rates so far.

    python -m bench.frontends [--frontends 1,2] [--rounds 3] [--seconds 2] [--in-flight 256] [--json FILE]

The configurations are measured turn by turn; medians are reported. Where there are fewer free cores than processes,
the rates show nothing but that. CPU per request depends on it less, and a second divided by it is the rate at which a
process has filled a core. Those ceilings are computed, not measured, and are called so.
"""

import argparse
import json
import os
import sys
import tempfile
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import psutil

from bench import closed
from bench.bodies import body
from bench.closed import H2Load, installed
from bench.targets import ROOT, Target, sluice, started

CONNECTIONS = 16
"""The kernel spreads connections, not calls: with few of them a frontend may get none."""
KINDS = ("engine", "frontends", "sessions")


def main() -> int:
    """Measure and report."""
    options = _arguments()
    if not installed():
        print("h2load was not found; it comes with the package nghttp2-client", file=sys.stderr)
        return 2
    closed.CONNECTIONS[options.in_flight] = (CONNECTIONS, max(options.in_flight // CONNECTIONS, 1))
    runs: dict[int, list[dict[str, float]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        loads = {}
        for count in options.frontends:
            command = sluice(options.store, "--frontends", str(count))
            target = stack.enter_context(started(f"frontends-{count}", command))
            loads[count] = target, H2Load(target, options.model, body(options.model), Path(folder))
        for _ in range(options.rounds):
            for count, (target, load) in loads.items():
                runs[count].append(_measure(target, load, options))
    results = {count: {key: median(run[key] for run in found) for key in found[0]} for count, found in runs.items()}
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    print(_table(results, options))
    return 0


def _measure(target: Target, load: H2Load, options: argparse.Namespace) -> dict[str, float]:
    """Return the rate and the CPU microseconds per request of each kind of process."""
    model = options.model
    before, requests = _cpu(target), target.scrape(model)["requests"]
    run = load.run(options.in_flight, options.seconds)
    after = _cpu(target)
    calls = target.scrape(model)["requests"] - requests
    used = {kind: (after[kind] - before[kind]) / calls * 1e6 for kind in KINDS}
    return {"rate": run.rate, "p50_ms": run.p50_ms, "p99_ms": run.p99_ms, "rows": run.batch_rows or 0.0, **used}


def _cpu(target: Target) -> dict[str, float]:
    """Return the CPU seconds used so far by each kind of process."""
    assert target.process is not None, "started here"  # noqa: S101 - narrows for mypy
    used = dict.fromkeys(KINDS, 0.0)
    used["engine"] = sum(target.process.cpu_times()[:2])
    for child in target.process.children(recursive=True):
        try:
            kind = "frontends" if "server.frontend" in child.cmdline() else "sessions"
            used[kind] += sum(child.cpu_times()[:2])
        except psutil.NoSuchProcess:
            continue
    return used


HEADINGS = ("frontends", "req/s", "p50 ms", "p99 ms", "rows", "engine us", "front us", "session us", "full at", "each")


def _table(results: dict[int, dict[str, float]], options: argparse.Namespace) -> str:
    where = f"{CONNECTIONS} connections, {os.cpu_count()} cores with h2load on them"
    lines = [
        f"{options.model}, {options.in_flight} in flight on {where}, medians of {options.rounds} rounds;",
        "us: CPU per request; full at: requests/s of a whole core of the engine, each: of a frontend (computed)",
        " ".join(f"{heading:>11}" for heading in HEADINGS),
    ]
    for count, r in results.items():
        each = f"{1e6 / r['frontends']:,.0f}" if count > 1 else ""
        cells = [str(count), f"{r['rate']:,.0f}", *(f"{r[key]:.1f}" for key in ("p50_ms", "p99_ms", "rows", *KINDS))]
        lines.append(" ".join(f"{cell:>11}" for cell in (*cells, f"{1e6 / r['engine']:,.0f}", each)))
    return "\n".join(lines)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--frontends", type=lambda text: [int(n) for n in text.split(",")], default=[1, 2])
    parser.add_argument("--model", default="churn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--in-flight", type=int, default=256)
    parser.add_argument("--store", type=Path, default=ROOT / "model_store")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
