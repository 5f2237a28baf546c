"""Sluice beside the servers people write and the limits nobody passes, in one run, interleaved.

    python -m bench.suite [--rounds 3] [--seconds 2] [--quick] [--json FILE] [--plots DIR] [--peer NAME=HOST:PORT]

Every round measures every server before the next one begins, so a noisy minute hurts all alike; medians are reported
with their spread. Ends with the promises of this project and whether they hold here; exit code 1 when one does not.
"""

import argparse
import json
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from bench import opened, promises, report, switched
from bench.bodies import MODELS, body, newest_version
from bench.closed import H2Load, installed
from bench.results import WIDE, Results, bare_loop, machine
from bench.targets import ECHO, ROOT, Target, baseline, echo, sluice, started

BASELINES = {"naive-aio": "naive_aio", "thread-pool": "thread_pool"}
SHARES = (0.5, 0.8, 1.2, 2.0)
OVERLOAD = 2.0
"""Of the shares, the one that goodput is promised at."""
ECHOES = ("echo", "core-echo")
"""Our own transport's, and one on gRPC's core, the limit of every server that stands on it."""
SAME = "same"
"""Label of a baseline's run at half of Sluice's saturation instead of its own."""


def main() -> int:
    """Measure, report, judge."""
    options = _arguments()
    if not installed():
        print("h2load was not found; it comes with the package nghttp2-client", file=sys.stderr)
        return 2
    results = Results(machine(), datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"))
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        servers = {name: stack.enter_context(started(name, *command)) for name, command in _commands(options).items()}
        servers[SWITCHED].metrics = ""  # they would tell of half
        for peer in options.peer:
            name, _, address = peer.partition("=")
            servers[name] = Target(name, address)
        suite = Suite(servers, options, Path(folder), results)
        for number in range(options.rounds):
            suite.round(number)
            print(f"round {number + 1} of {options.rounds} done", file=sys.stderr, flush=True)
        suite.variants()
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(vars(results), indent=1) + "\n")
    print(report.table(results))
    if options.plots:
        report.plots(results, options.plots)
    verdicts = promises.judge(results, relaxed=options.quick)
    print("\n".join(map(str, verdicts)))
    return 0 if all(verdict.holds for verdict in verdicts if verdict.binding) else 1


class Suite:
    """The servers and how they are measured."""

    def __init__(self, servers: dict[str, Target], options: argparse.Namespace, folder: Path, results: Results) -> None:
        self._servers = servers
        self._options = options
        self._results = results
        self._folder = folder
        self._loads: dict[tuple[str, str], H2Load] = {}

    def round(self, number: int) -> None:
        """Measure everything once."""
        for model in self._options.models:
            self._closed(model)
            self._open(model, number)
            self._bare(model)
            for _ in range(self._options.overloads if model != "churn" else 0):
                self._wide(model)
                self._bare(model)
        for name, target in self._servers.items():
            if target.process:
                self._results.memory[name].append(asdict(target.memory()))

    def variants(self) -> None:
        """Measure Sluice as it comes and without isolation, none with a past, in many short turns; and its metrics."""
        seconds = min(self._options.seconds, TURN)
        for turn in range(self._options.turns):
            # each as often first as the other: who comes behind another process finds cold caches
            for name in VARIANTS if turn % 2 else VARIANTS[::-1]:
                run = self._load(name, "churn").run(256, seconds)
                self._results.variants["sluice" if name == TWIN else name].append(asdict(run))
            found = switched.shares(self._servers[SWITCHED], self._load(SWITCHED, "churn"), self._options.seconds)
            self._results.switched += found

    def _compared(self) -> list[str]:
        return [name for name in self._servers if name not in (*VARIANTS, SWITCHED)]

    def _closed(self, model: str) -> None:
        for in_flight in self._options.in_flight:
            for name in self._compared():
                run = self._load(name, model).run(in_flight, self._options.seconds)
                self._results.add_closed(model, name, in_flight, asdict(run))

    def _bare(self, model: str) -> None:
        folder = newest_version(self._options.store, model)
        self._results.loops[model].append(bare_loop(folder, self._options))

    def _wide(self, model: str) -> None:
        key = "sluice", f"{model} wide"
        if key not in self._loads:
            self._loads[key] = H2Load(self._servers["sluice"], model, body(model, WIDE), self._folder)
        run = self._loads[key].run(16, self._options.seconds)
        before = len(self._results.loops[model]) - 1
        self._results.wide[model].append(asdict(run) | {"rows_per_second": run.rate * WIDE, "loop": before})

    def _open(self, model: str, number: int) -> None:
        for share in self._options.shares:
            for name in self._compared():
                if name not in ECHOES and share == OVERLOAD:
                    self._overload(model, name, number)
                elif name not in ECHOES:
                    self._offer(model, name, str(share), share, self._saturation(model, name), number)
            if share == SHARES[0]:
                for name in BASELINES:
                    self._offer(model, name, SAME, share, self._saturation(model, "sluice"), number)

    def _overload(self, model: str, name: str, number: int) -> None:
        """Offer twice what a server does at most, which is measured before and behind: a minute changes it by half.

        Sluice is with calls that have deadlines as well, which are work; such as none misses, or it would be less.
        """
        ours = name == "sluice"
        for repeat in range(self._options.overloads if ours else 1):
            load, seconds = self._load(name, model, opened.CALM_DEADLINE if ours else None), self._options.seconds
            before = load.run(256, seconds).rate
            self._offer(model, name, str(OVERLOAD), OVERLOAD, before, number + repeat)
            run = self._results.open[model][name][str(OVERLOAD)][-1]
            run["saturation"] = (before + load.run(256, seconds).rate) / 2

    def _offer(self, model: str, name: str, label: str, share: float, saturation: float, seed: int) -> None:
        seconds = self._options.seconds
        run = opened.run(self._servers[name], body(model), share * saturation, share, seconds, seed)
        self._results.add_open(model, name, label, asdict(run) | {"saturation": saturation})

    def _saturation(self, model: str, name: str) -> float:
        """Return answers a second at 256 in flight in this round."""
        return float(self._results.closed[model][name]["256"][-1]["rate"])

    def _load(self, name: str, model: str, deadline: float | None = None) -> H2Load:
        key = name, model if deadline is None else f"{model} within {deadline}"
        if key not in self._loads:
            self._loads[key] = H2Load(self._servers[name], model, body(model), self._folder, deadline=deadline)
        return self._loads[key]


TWIN = "twin"
"""Sluice as it comes, but fresh: the one that was overloaded before is compared with nobody who was not."""
SWITCHED = "switched"
"""One whose counting is taken out and put back."""
TURN = 0.5
"""Seconds of a turn at most: the shorter, the more alike is the machine to those that are compared."""
VARIANTS = (TWIN, "no-isolation")


def _commands(options: argparse.Namespace) -> dict[str, tuple[list[str], str] | tuple[list[str]]]:
    """Return what is started: server -> command and path."""
    folders = [newest_version(options.store, model) for model in MODELS]
    commands: dict[str, tuple[list[str], str] | tuple[list[str]]] = {"sluice": (sluice(options.store),)}
    commands |= {name: (baseline(module, folders),) for name, module in BASELINES.items()}
    commands |= {"echo": (echo(), ECHO), "core-echo": (baseline("core_echo", ()), ECHO)}
    commands[TWIN] = (sluice(options.store),)
    commands[SWITCHED] = (sluice(options.store, module="bench.without_metrics"),)
    commands["no-isolation"] = (sluice(options.store, "--isolation", "none"),)
    return commands


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--turns", type=int, default=32, help="of the comparison with metrics and isolation off")
    parser.add_argument(
        "--overloads",
        type=int,
        default=5,
        help="of Sluice in each round, at twice its saturation; as often its rows are",
    )
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--models", type=lambda text: text.split(","), default=list(MODELS))
    parser.add_argument("--store", type=Path, default=ROOT / "model_store")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=HOST:PORT", help="serving the same models")
    parser.add_argument("--quick", action="store_true", help="one short round and bars for a busy machine")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--plots", type=Path, metavar="DIR")
    options = parser.parse_args()
    options.in_flight, options.shares = (1, 8, 256, 1024), SHARES
    if options.quick:
        options.rounds, options.turns, options.overloads = 1, 1, 1
        options.seconds, options.models = 0.6, ["churn", "mnist"]
        options.in_flight, options.shares = (1, 256), (0.5, 2.0)
    return options


if __name__ == "__main__":
    sys.exit(main())
