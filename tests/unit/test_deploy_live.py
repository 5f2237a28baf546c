import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest
from PIL import Image

from deploy import healthcheck, render_dashboards
from deploy.check.live import examine
from deploy.grafana.panels import dashboard
from deploy.grafana.queries import METRIC, Prometheus, load
from server.probes import ProbeServer, plain


class FakePrometheus:
    """Answers as /api/v1 does; what `has` says of an expression decides whether there are series."""

    def __init__(self, has=lambda expr: True):
        self.has = has
        self.targets = [{"scrapeUrl": "http://a:8002/metrics", "health": "up", "lastError": ""}]
        self.rules = [{"name": "SluiceQueueAges", "query": "sluice_queue_oldest_age_seconds > 1", "health": "ok"}]

    def answer(self, path, query):
        if path.endswith("targets"):
            return {"activeTargets": self.targets}
        if path.endswith("rules"):
            return {"groups": [{"rules": self.rules}]}
        labels = {"model": "churn", "version": "1", "le": "0.1", "provider": "CPUExecutionProvider", "code": "OK"}
        result = [{"metric": labels, "value": [1000, "0.25"]}] if self.has(query["query"][0]) else []
        if path.endswith("query_range"):
            start, step = float(query["start"][0]), float(query["step"][0])
            result = [
                {"metric": one["metric"], "values": [[start + n * step, str(n)] for n in range(9)]} for one in result
            ]
        return {"result": result}


@contextmanager
def served(prometheus):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            url = urlsplit(self.path)
            body = json.dumps({"data": prometheus.answer(url.path, parse_qs(url.query))}).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield Prometheus(f"http://127.0.0.1:{server.server_address[1]}")
        server.shutdown()
        thread.join()


def test_a_platform_with_everything_is_well():
    with served(FakePrometheus()) as prometheus:
        findings = examine(prometheus)

    assert (findings.wrong, findings.quiet) == ([], {})
    assert findings.asked > 50


def test_a_missing_metric_is_wrong_unless_it_is_excused():
    fake = FakePrometheus(
        has=lambda expr: not {"sluice_batch_rows_bucket", "nv_gpu_power_usage"} & set(METRIC.findall(expr))
    )
    with served(fake) as prometheus:
        findings = examine(prometheus)

    assert [line.split(":")[0] for line in findings.wrong] == ["batching / Batches by rows"]
    assert findings.quiet == {"no GPU": {"gpu / Power", "gpu / Power used of the limit"}}


def test_a_target_that_is_down_and_a_rule_that_fails_are_wrong():
    fake = FakePrometheus()
    fake.targets.append({"scrapeUrl": "http://b:8002/metrics", "health": "down", "lastError": "connection refused"})
    fake.rules.append({"name": "broken", "query": "up", "health": "err", "lastError": "many-to-many"})
    with served(fake) as prometheus:
        findings = examine(prometheus)

    assert findings.wrong == [
        "target http://b:8002/metrics: expected up, got connection refused",
        "rule broken: expected ok, got many-to-many",
    ]


@pytest.mark.parametrize("has", [lambda expr: True, lambda expr: False], ids=["data", "no data"])
def test_every_kind_of_panel_is_drawn_with_and_without_data(tmp_path, has):
    kinds = {}
    for each in load().values():
        kinds |= {(panel["type"], stacked(panel)): panel for panel in each["panels"]}
    assert len(kinds) == 5
    page = dashboard("one", "One of each", [(8, [*kinds.values()])])

    with served(FakePrometheus(has)) as prometheus:
        render_dashboards.render(page, render_dashboards.Window(prometheus, 60), tmp_path / "page.png")

    with Image.open(tmp_path / "page.png") as picture:
        assert picture.width > 1400


def stacked(panel):
    return "normal" in str(panel["fieldConfig"])


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (0.0025, "s", "2.5 ms"),
        (0.99, "percentunit", "99 %"),
        (3 * 2**20, "bytes", "3 MiB"),
        (0, "s", "0"),
        (7, "short", "7"),
    ],
)
def test_values_are_shown_as_grafana_does(value, unit, shown):
    assert render_dashboards.human(value, unit) == shown


def test_the_health_check_says_what_readyz_says():
    problem = ["churn is loading"]
    server = ProbeServer({"/readyz": plain(lambda: problem[0])})
    port = server.start("127.0.0.1", 0)
    try:
        assert not healthcheck.ready(port)
        problem[0] = ""
        assert healthcheck.ready(port)
    finally:
        server.close()
    assert not healthcheck.ready(port)
