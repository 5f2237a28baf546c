"""The dashboards, as questions: `python -m deploy.grafana.dashboards [--check]` writes dashboards/*.json.

The JSON is committed, so that Grafana provisions it as it is; `--check` (part of `make lint`) fails when it differs
from what this file says. deploy/render_dashboards.py draws the same panels without Grafana.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from deploy.grafana.panels import Json, Query, dashboard, heat, lines, number, table

TARGET = Path(__file__).resolve().parent / "dashboards"
RATE = "[$__rate_interval]"
PICK = 'model=~"$model"'
PREDICTIONS = 'method=~"ModelInfer|ModelStreamInfer|PredictChurn|ClassifyDigit|AnalyzeSentiment"'
FAULTS = 'code=~"INTERNAL|UNKNOWN|DATA_LOSS|UNAVAILABLE"'


def rate(metric: str, by: str = "", more: str = "") -> str:
    """Return the summed rate of a counter of the picked models."""
    labels = ",".join(part for part in (PICK, more) if part)
    return f"sum{f' by ({by}) ' if by else ''}(rate({metric}{{{labels}}}{RATE}))"


def quantiles(metric: str, more: str = "") -> list[Query]:
    """Return p50, p95 and p99 of a histogram over the picked models."""
    labels = ",".join(part for part in (PICK, more) if part)
    buckets = f"sum by (le) (rate({metric}_bucket{{{labels}}}{RATE}))"
    return [(f"histogram_quantile(0.{part}, {buckets})", f"p{part}") for part in ("50", "95", "99")]


def by(labels: str, metric: str) -> list[Query]:
    """Return the rate of a counter of the picked models, a series for each value of the comma separated labels."""
    return [(rate(metric, labels), " ".join(f"{{{{{label.strip()}}}}}" for label in labels.split(",")))]


def gauge(metric: str) -> list[Query]:
    """Return a gauge of the picked models that every process reports alike, a series for each model."""
    return [(f"max by (model) ({metric}{{{PICK}}})", "{{model}}")]


def share(part: str, rest: str, of: str = "") -> list[Query]:
    """Return how much of two counters together the first is."""
    legend = f"{of} {{{{model}}}}".lstrip()
    return [(f"{rate(part, 'model')} / ({rate(part, 'model')} + {rate(rest, 'model')})", legend)]


def mean(metric: str, by: str = "model") -> str:
    """Return the mean of a histogram's values."""
    return f"{rate(f'{metric}_sum', by)} / {rate(f'{metric}_count', by)}"


def overview() -> Json:
    """How much, how well, how fast, how full."""
    request, requests = "sluice_request_duration_seconds", "sluice_requests_total"
    p99 = quantiles(request, PREDICTIONS)[2][0]
    calls = rate(requests, more=PREDICTIONS)
    faults = f"({rate(requests, more=f'{PREDICTIONS},{FAULTS}')} or vector(0)) / {calls}"
    refused = f"({rate('sluice_rejected_total')} or vector(0)) / {calls}"
    return dashboard("sluice-overview", "Sluice / Overview", [
        (4, [
            number("Processes up", 'sum(up{job=~".*sluice.*"})', good=1),
            number("Versions in service", f"count(count by (model, version) (sluice_model_loaded{{{PICK}}}))", good=1),
            number("Predictions", calls, "reqps"),
            number("Faults of ours", faults, "percentunit", bad=0.001, about="Objective: below 0.1 % over 30 days."),
            number("Refused", refused, "percentunit", bad=0.05, about="Turned away at the entrance rather than late."),
            number("p99", p99, "s", bad=0.1, about="Objective: 99 % within 100 ms over 30 days."),
        ]),
        (8, [
            lines("Predictions by model", [(rate(requests, "model", PREDICTIONS), "{{model}}")], "reqps", stack=True,
                  about="Without a model: refused before a model was known."),
            lines("Predictions by status", [(rate(requests, "code", PREDICTIONS), "{{code}}")], "reqps", stack=True),
        ]),
        (8, [
            lines("Whole request", quantiles(request, PREDICTIONS), "s", about="Bytes in to bytes out."),
            lines("Waiting in the queue", quantiles("sluice_queue_duration_seconds"), "s"),
            lines("Computing", quantiles("sluice_compute_duration_seconds"), "s", about="ONNX Runtime, a whole batch."),
        ]),
        (8, [
            lines("Sessions busy", [(rate("sluice_compute_duration_seconds_sum", "model"), "{{model}}")],
                  about="Seconds of compute a second: 1 is one instance that never rests."),
            lines("In flight and waiting", [
                ("sum(sluice_inflight)", "in flight"),
                (f"sum by (model) (sluice_queue_depth{{{PICK}}})", "waiting {{model}}"),
            ]),
            lines("Memory of the server processes", [
                ('process_resident_memory_bytes{job=~".*sluice.*"}', "{{instance}}"),
            ], "bytes", about="Session children are separate processes and not in here."),
        ]),
    ])  # fmt: skip


def batching() -> Json:
    """Does dynamic batching pay, and what does it cost."""
    a_row = f"{rate('sluice_compute_duration_seconds_sum', 'model')} / {rate('sluice_rows_total', 'model')}"
    curve = [(f"avg by (model, rows) (sluice_batch_cost_seconds{{{PICK}}})", "{{model}} {{rows}}")]
    return dashboard("sluice-batching", "Sluice / Batching", [
        (8, [
            lines("Rows a batch, mean", [(mean("sluice_batch_rows"), "{{model}}")]),
            heat("Batches by rows", f"sum by (le) (increase(sluice_batch_rows_bucket{{{PICK}}}{RATE}))"),
            lines("Rows and batches", [
                (rate("sluice_rows_total", "model"), "rows {{model}}"),
                (rate("sluice_batches_total", "model"), "batches {{model}}"),
            ], "cps"),
        ]),
        (8, [
            lines("Compute a batch, mean", [(mean("sluice_compute_duration_seconds"), "{{model}}")], "s"),
            lines("Compute a row, mean", [(a_row, "{{model}}")], "s",
                  about="Falls while batches grow; where it stops falling is the knee of the cost curve."),
            lines("Padding", [
                *share("sluice_padded_rows_total", "sluice_rows_total", "rows"),
                *share("sluice_padding_bytes_total", "sluice_sized_bytes_total", "bytes"),
            ], "percentunit", about="Share of rows, and of bytes of inputs of varying length, that were filler."),
        ]),
        (8, [
            lines("Cost curve", curve, "s", log=True,
                  about="What a batch of 1, 2, 4 ... rows is expected to take; admission and batch sizes go by it."),
            lines("Largest batch", [(f"min by (model) (sluice_batch_max_rows{{{PICK}}})", "{{model}}")],
                  about="Rows: as configured, or the knee of the curve; less where a GPU ran out of memory."),
        ]),
        (8, [
            lines("Oldest waiting request", gauge("sluice_queue_oldest_age_seconds"), "s"),
            lines("Waiting requests", [(f"sum by (model) (sluice_queue_depth{{{PICK}}})", "{{model}}")]),
            lines("Rows run again", by("model", "sluice_retried_rows_total"), "cps",
                  about="After their batch failed or its session died."),
        ]),
        (8, [
            lines("Refused at the entrance", by("model, reason", "sluice_rejected_total"), "cps"),
            lines("Given up in the queue", by("model, reason", "sluice_dropped_total"), "cps"),
            lines("Response cache hits", share("sluice_cache_hits_total", "sluice_cache_misses_total"), "percentunit",
                  about="Of the models that have response_cache enabled."),
            lines("Shared cache", [
                ("sum by (operation, result) (rate(sluice_shared_cache_total[$__rate_interval]))",
                 "{{operation}} {{result}}"),
            ], "cps", about="With --cache redis://: late, away and failed are computed as if it were not there."),
        ]),
    ])  # fmt: skip


def jobs() -> Json:
    """Durable jobs and the Redis they live in; every process reads the same there, so max stands for any of them."""
    depth, running = (
        f"sum by (model) (max by (model, lane) (sluice_jobs_{part}{{{PICK}}}))" for part in ("depth", "running")
    )
    events = f"sum by (state) (max by (model, state) (rate(sluice_jobs_total{{{PICK}}}{RATE})))"
    return dashboard("sluice-jobs", "Sluice / Jobs", [
        (4, [
            number("Unfinished", f"sum({depth})"),
            number("Oldest", f"max(sluice_jobs_oldest_age_seconds{{{PICK}}})", "s", bad=60),
            number("Dead letters", f"sum(max by (model) (sluice_jobs_dead{{{PICK}}}))", bad=1),
            number("Redis reachable", "min(sluice_redis_available)", good=1, about="By every process that uses it."),
            number("Redis durable", "min(sluice_redis_durable)", good=1, about="AOF on and nothing evicted."),
            number("Redis lost data", "max(sluice_redis_data_losses_total)", bad=1),
        ]),
        (8, [
            lines("Jobs by event", [(events, "{{state}}")], "cps"),
            lines("Unfinished", [(depth, "{{model}}")]),
            lines("Held by workers", [(running, "{{model}}")]),
        ]),
        (8, [
            lines("Oldest unfinished job", gauge("sluice_jobs_oldest_age_seconds"), "s",
                  about="What workers should be scaled on."),
            lines("Dead letters", gauge("sluice_jobs_dead")),
            lines("Bytes of unfinished jobs", gauge("sluice_jobs_bytes"), "bytes"),
        ]),
    ])  # fmt: skip


def gpu() -> Json:
    """What the accelerators do, by the names Triton gives these metrics."""
    device, memory = "{{instance}} {{gpu_uuid}}", "nv_gpu_memory_used_bytes / nv_gpu_memory_total_bytes"
    placed = "* on (instance, model, version) group_left (provider) sluice_model_loaded"
    seconds, batches = (
        f"sum by (model, provider) (rate(sluice_compute_duration_seconds_{part}{{{PICK}}}{RATE}) {placed})"
        for part in ("sum", "count")
    )
    rows = f"sum by (instance) (rate(sluice_rows_total{{{PICK}}}{RATE}))"
    joules = f"sum by (instance) (rate(nv_energy_consumption{RATE})) / {rows}"
    return dashboard("sluice-gpu", "Sluice / GPU", [
        (8, [
            lines("Utilization", [("nv_gpu_utilization", device)], "percentunit"),
            lines("Memory used", [(memory, device)], "percentunit"),
            lines("Power", [("nv_gpu_power_usage", device)], "watt", about="The GPU's limit is nv_gpu_power_limit."),
        ]),
        (8, [
            lines("Temperature", [("sluice_gpu_temperature_celsius", device)], "celsius"),
            lines("Power used of the limit", [("nv_gpu_power_usage / nv_gpu_power_limit", device)], "percentunit",
                  about="At 1 the clocks are being held back."),
            lines("Energy a row", [(joules, "{{instance}}")], "joule",
                  about="What the GPUs that a process sees use, idle included, for each row it infers."),
        ]),
        (8, [
            table("Where each version runs", f"sluice_model_loaded{{{PICK}}}", hide=("Value",)),
            lines("Compute a batch by provider", [(f"{seconds} / {batches}", "{{model}} {{provider}}")], "s"),
        ]),
    ])  # fmt: skip


def versions() -> Json:
    """What a new version changed."""
    each, request = "model, version", "sluice_request_duration_seconds"
    buckets = f"sum by (le, {each}) (rate({request}_bucket{{{PICK},{PREDICTIONS}}}{RATE}))"
    label, failed = "{{model}} {{version}}", f'{PREDICTIONS},code!="OK"'
    return dashboard("sluice-versions", "Sluice / Model versions", [
        (8, [
            table("In service", f"sluice_model_loaded{{{PICK}}}", hide=("Value",)),
            lines("Rows by version", [(rate("sluice_rows_total", each), label)], "cps", stack=True),
        ]),
        (8, [
            lines("p95 by version", [(f"histogram_quantile(0.95, {buckets})", label)], "s"),
            lines("Failures by version",
                  [(rate("sluice_requests_total", f"{each}, code", failed), label + " {{code}}")], "cps"),
        ]),
        (8, [
            lines("Time to bring into service",
                  [(f"max by ({each}) (sluice_model_load_seconds{{{PICK}}})", label)], "s"),
            lines("Versions that failed to load",
                  [(f"sum by (model) (sluice_model_load_failures_total{{{PICK}}})", "{{model}}")]),
            lines("Sessions replaced", [(f"sum by ({each}) (sluice_session_restarts_total{{{PICK}}})", label)]),
        ]),
    ])  # fmt: skip


DASHBOARDS = {"overview": overview, "batching": batching, "jobs": jobs, "gpu": gpu, "versions": versions}


def main(words: Sequence[str] | None = None) -> int:
    """Write the files, or with --check say which differ."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", maxsplit=1)[0])
    parser.add_argument("--check", action="store_true", help="fail when a committed file differs instead of writing it")
    check = parser.parse_args(words).check
    stale = []
    for name, build in DASHBOARDS.items():
        path, text = TARGET / f"{name}.json", json.dumps(build(), indent=1) + "\n"
        if not check:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            stale.append(path.name)
    if stale:
        sys.stderr.write(f"{', '.join(stale)}: expected what dashboards.py says; run `make dashboards`\n")
    return int(bool(stale))


if __name__ == "__main__":
    sys.exit(main())
