"""What this project promises about speed, as ratios inside one run, and whether a run keeps it."""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass

from typing_extensions import override

from bench.results import Results, median, paired

BASELINES = ("naive-aio", "thread-pool")


@dataclass(frozen=True)
class Verdict:
    """One promise. Only ratios bind: absolute figures are a machine's own."""

    text: str
    found: float
    bar: float
    at_most: bool
    binding: bool = True

    @property
    def holds(self) -> bool:
        """Whether it is kept."""
        return self.found <= self.bar if self.at_most else self.found >= self.bar

    @override
    def __str__(self) -> str:
        word = "held  " if self.holds else "BROKEN" if self.binding else "missed"
        return f"{word} {self.text}: {self.found:.3g} ({'at most' if self.at_most else 'at least'} {self.bar:.3g})"


def judge(results: Results, *, relaxed: bool) -> list[Verdict]:
    """Return every promise the run can say something about; `relaxed` bars are for a machine that others use too."""
    slack = 0.5 if relaxed else 1.0
    found = [*_cost(results), *_limits(results), *_variants(results), *_budget(results)]
    for model in results.closed:
        found += _open(results, model)
    return [
        Verdict(
            verdict.text, verdict.found, verdict.bar / slack if verdict.at_most else verdict.bar * slack,
            verdict.at_most, verdict.binding,
        )
        for verdict in found
    ]  # fmt: skip


def _cost(results: Results) -> Iterator[Verdict]:
    churn = {name: levels["256"] for name, levels in results.closed["churn"].items()}
    ours = churn["sluice"]
    for name, bar in (("naive-aio", 1 / 4), ("thread-pool", 1 / 3)):
        share = median(ours, "cpu_us") / median(churn[name], "cpu_us")
        yield Verdict(f"churn, 256 in flight: CPU per request over {name}'s", share, bar, at_most=True)
    times = median(ours, "rate") / median(churn["naive-aio"], "rate")
    yield Verdict("churn, 256 in flight: throughput over naive-aio's", times, 4, at_most=False)


def _limits(results: Results) -> Iterator[Verdict]:
    churn = results.closed["churn"]
    share = median(churn["sluice"]["256"], "rate") / median(churn["core-echo"]["256"], "rate")
    yield Verdict("churn, 256 in flight: throughput over a bare echo's on gRPC's core", share, 0.6, at_most=False)
    for model in ("mnist", "sentiment"):
        if model in results.closed:
            levels = results.closed[model]["sluice"].values()
            single = max(median(runs, "rate") for runs in levels) / results.best_loop(model)
            share = max(single, results.wide_share(model))
            yield Verdict(f"{model}, saturated: rows/s over the bare session loop's best", share, 0.9, at_most=False)


def _variants(results: Results) -> Iterator[Verdict]:
    share = paired(results.variants["sluice"], results.variants["no-isolation"], "rate")
    yield Verdict("churn, 256 in flight: throughput over that with no-isolation", share, 0.9, at_most=False)
    text = f"churn, 256 in flight: throughput with metrics over that without, {len(results.switched)} stretches"
    yield Verdict(text, statistics.median(results.switched), 0.98, at_most=False)


def _budget(results: Results) -> Iterator[Verdict]:
    churn = results.closed["churn"]["sluice"]
    cost, latency = median(churn["256"], "cpu_us"), median(churn["1"], "p50_ms")
    yield Verdict("churn, 256 in flight: CPU us per request, all processes", cost, 70, at_most=True, binding=False)
    yield Verdict("churn, 1 in flight: p50 in ms", latency, 0.6, at_most=True, binding=False)


def _open(results: Results, model: str) -> Iterator[Verdict]:
    servers = results.open[model]
    ours = servers["sluice"]
    other = min(median(servers[name]["same"], "p99_ms") for name in BASELINES)
    share = median(ours["0.5"], "p99_ms") / other
    text = f"{model}, 50 % of saturation: p99 over the better baseline's at the same rate"
    yield Verdict(text, share, 1, at_most=True)
    good = median([run | {"part": run["goodput"] / run["saturation"]} for run in ours["2.0"]], "part")
    text = f"{model}, twice saturation offered: goodput within 100 ms over saturation"
    yield Verdict(text, good, 0.95, at_most=False)
