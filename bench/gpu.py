"""Sluice on a GPU beside ONNX Runtime alone on it: rows a second, latency at half of that, and what the cards promise.

    python -m bench.gpu [--device cuda] [--frontends 4] [--clients 4] [--rounds 3] [--seconds 2] [--json FILE]

The loop is measured before and behind Sluice in each round, with the file in single and, where there is one, in half
precision; the better one counts. Exit code 1 when a bar falls short, 2 where the device does not answer. `--device cpu`
measures the same on the CPU, where nothing is promised: it shows that the script works.
"""

import argparse
import json
import multiprocessing
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench import opened
from bench.bodies import body, newest_version
from bench.promises import Verdict
from bench.results import WIDE, machine
from bench.targets import INFER, ROOT, Target, sluice, started
from server.cli.progress import Progress
from server.load.generator import Generator

MODELS = ("mnist", "sentiment")
IN_FLIGHT = 32
"""Requests of `WIDE` rows that each client keeps in flight."""
LEAST_SHARE, MOST_MS = 0.8, 10.0


class NoDevice(Exception):
    """ONNX Runtime does not run where it should."""


def main() -> int:
    """Measure, print, judge."""
    options = _arguments()
    results: dict[str, Any] = {"machine": machine() | {"gpu": _gpu()}, "device": options.device, "models": {}}
    rounds: dict[str, list[dict[str, float]]] = {model: [] for model in options.models}
    flags = ("--device", options.device, "--frontends", str(options.frontends))
    try:
        for model in options.models:
            bare_loop(options, model, 0.05)
        with (
            started("sluice", sluice(options.store, *flags)) as target,
            Progress(options.rounds * len(options.models), "models measured") as done,
        ):
            for number in range(options.rounds):
                for model in options.models:
                    rounds[model].append(_round(options, target, model, number))
                    done.add(1)
    except (NoDevice, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 2
    for model, found in rounds.items():
        middle = {name: statistics.median(run[name] for run in found) for name in found[0]}
        results["models"][model] = {"rounds": found, "median": middle, "variants": list(_promised(options, model))}
        print(model, *(f"{name} {value:.4g}" for name, value in middle.items()), *results["models"][model]["variants"])
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    verdicts = list(_judge(results))
    print("\n".join(map(str, verdicts)))
    return 0 if all(verdict.holds for verdict in verdicts if verdict.binding) else 1


def _round(options: argparse.Namespace, target: Target, model: str, seed: int) -> dict[str, float]:
    before = bare_loop(options, model, options.seconds / 4)
    rate = saturated(target, model, options.clients, options.seconds)
    half = opened.run(target, body(model, WIDE), rate / 2, 0.5, options.seconds, seed)
    bare = (before + bare_loop(options, model, options.seconds / 4)) / 2
    return {
        "bare_rows_per_second": bare, "rows_per_second": rate * WIDE, "share": rate * WIDE / bare,
        "p50_ms": half.p50_ms, "p99_ms": half.p99_ms, "generator_share": half.generator_share,
    }  # fmt: skip


def bare_loop(options: argparse.Namespace, model: str, seconds: float) -> float:
    """Return the rows a second of the best file and batch without Sluice. Raises NoDevice."""
    rates = []
    for file in sorted(newest_version(options.store, model).glob("model*.onnx")):
        module = "bench.baselines.bound_loop"
        command = [sys.executable, "-m", module, str(file), options.device, "--seconds", str(seconds)]
        ran = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)  # noqa: S603 - our own
        if ran.returncode:
            raise NoDevice(ran.stderr.strip().rpartition("\n")[2])
        rates += [run["rows_per_second"] for run in json.loads(ran.stdout)]
    return max(rates)


def saturated(target: Target, model: str, clients: int, seconds: float) -> float:
    """Return requests of `WIDE` rows a second that several client processes together get answered."""
    with multiprocessing.get_context("spawn").Pool(clients) as pool:
        return sum(pool.starmap(_closed, [(target.address, model, seconds)] * clients))


def _closed(address: str, model: str, seconds: float) -> float:
    generator = Generator(address, INFER, body(model, WIDE), connections=4)
    try:
        outcome = generator.closed_loop(IN_FLIGHT, seconds)
    finally:
        generator.close()
    return len(outcome.latencies) / outcome.seconds


def _promised(options: argparse.Namespace, model: str) -> Iterator[str]:
    """Yield what the model's card says of each of its files' accuracy."""
    card = json.loads((newest_version(options.store, model) / "card.json").read_text())
    yield f"fp32 accuracy {card['metrics']['test']['accuracy']}"
    for variant in card.get("variants", []):
        if "accuracy" in variant:
            yield f"{variant['kind']} accuracy {variant['accuracy']}"


def _judge(results: dict[str, Any]) -> Iterator[Verdict]:
    binding = results["device"] == "cuda"
    for model, found in results["models"].items():
        share, p99 = found["median"]["share"], found["median"]["p99_ms"]
        text = f"{model}: rows/s over those of ONNX Runtime alone with bound inputs and outputs"
        yield Verdict(text, share, LEAST_SHARE, at_most=False, binding=binding)
        yield Verdict(f"{model}, half of that offered: p99 in ms", p99, MOST_MS, at_most=True, binding=binding)


def _gpu() -> str:
    """Name the GPU and its driver, "" where there is none."""
    try:
        command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return ""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--frontends", type=int, default=4)
    parser.add_argument("--clients", type=int, default=4, help="processes that call")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--models", type=lambda text: text.split(","), default=list(MODELS))
    parser.add_argument("--store", type=Path, default=ROOT / "model_store")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
