"""Does a running platform show what it should? `python -m deploy.check.live http://HOST:PORT` asks its Prometheus.

Every target is up, every rule evaluates, every expression of every dashboard has data, and so has every metric that an
alert reads; what may be empty is listed below with the reason. Part of deploy/compose-test.sh.
"""

import argparse
import sys
import time
from collections.abc import Iterator

from deploy.grafana.queries import METRIC, Prometheus, load, questions

QUIET = {
    "sluice_rejected_total": "nothing was refused",
    "sluice_dropped_total": "nothing was given up in the queue",
    "sluice_model_load_failures_total": "every version loaded",
    "sluice_cache_hits_total": "no model has a response cache",
    "sluice_cache_misses_total": "no model has a response cache",
    "sluice_shared_cache_total": "the response cache is not shared",
    "sluice:refused:ratio_rate5m": "nothing was refused",
    "sluice:shed:ratio_rate5m": "nothing was refused unread",
    "nv_gpu_utilization": "no GPU",
    "nv_gpu_memory_used_bytes": "no GPU",
    "nv_gpu_memory_total_bytes": "no GPU",
    "nv_gpu_power_usage": "no GPU",
    "nv_gpu_power_limit": "no GPU",
    "nv_energy_consumption": "no GPU",
    "sluice_gpu_temperature_celsius": "no GPU",
}
"""Metrics that may be missing, and why; an expression that reads one of them may be empty."""


class Findings:
    """What was asked, what was empty for a good reason, and what was wrong."""

    def __init__(self, server: Prometheus) -> None:
        self._server = server
        self.asked = 0
        self.quiet: dict[str, set[str]] = {}
        self.wrong: list[str] = []

    def ask(self, what: str, expr: str) -> None:
        """Expect data of an expression, or a metric in it that may be missing."""
        self.asked += 1
        if self._server.now(expr):
            return
        reasons = {QUIET[name] for name in METRIC.findall(expr) if name in QUIET}
        if reasons:
            self.quiet.setdefault(", ".join(sorted(reasons)), set()).add(what)
        else:
            self.wrong.append(f"{what}: expected data, got none from {expr}")

    def report(self) -> Iterator[str]:
        """Yield the lines that a reader wants."""
        yield f"{self.asked} expressions asked, {sum(map(len, self.quiet.values()))} empty as expected"
        yield from (f"  empty, {why}: {', '.join(sorted(what))}" for why, what in sorted(self.quiet.items()))
        yield from self.wrong


def examine(server: Prometheus) -> Findings:
    """Ask everything there is to ask. Raises OSError when Prometheus does not answer."""
    findings = Findings(server)
    for target in server.get("targets")["activeTargets"]:
        if target["health"] != "up":
            findings.wrong.append(f"target {target['scrapeUrl']}: expected up, got {target['lastError']}")
    for group in server.get("rules")["groups"]:
        for rule in group["rules"]:
            if rule["health"] != "ok":
                findings.wrong.append(f"rule {rule['name']}: expected ok, got {rule.get('lastError', rule['health'])}")
            for name in sorted(set(METRIC.findall(rule["query"]))):
                findings.ask(f"{rule['name']} reads {name}", name)
    for question in questions(load()):
        findings.ask(f"{question.dashboard} / {question.panel}", question.expr)
    return findings


def main() -> int:
    """Print the findings; 1 when something is wrong."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", maxsplit=1)[0])
    parser.add_argument("prometheus", metavar="http://HOST:PORT")
    parser.add_argument("--patience", type=float, default=30.0, help="seconds in which a first scrape may yet come")
    arguments = parser.parse_args()
    server, until = Prometheus(arguments.prometheus), time.monotonic() + arguments.patience
    findings = examine(server)
    while findings.wrong and time.monotonic() < until:
        time.sleep(1)
        findings = examine(server)
    sys.stdout.writelines(f"{line}\n" for line in findings.report())
    return int(bool(findings.wrong))


if __name__ == "__main__":
    sys.exit(main())
