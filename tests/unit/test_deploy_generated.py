import json
import re
from pathlib import Path

import pytest

from deploy.check import metrics_page
from deploy.grafana import dashboards
from deploy.grafana.queries import METRIC, concrete, load, questions
from server.families import FAMILIES

ROOT = Path(__file__).resolve().parent.parent.parent
RULES = {path.name: path.read_text() for path in (ROOT / "deploy/prometheus/rules").glob("*.yml")}
EXPORTED = {family.name for family in FAMILIES}
HISTOGRAMS = {family.name for family in FAMILIES if family.kind == "histogram"}


def plain(metric):
    base = re.sub(r"_(bucket|sum|count)$", "", metric)
    return base if base in HISTOGRAMS else metric


def known(metric):
    recorded = {name for text in RULES.values() for name in re.findall(r"- record: (\S+)", text)}
    return metric == "up" or metric.startswith("process_") or plain(metric) in EXPORTED or metric in recorded


def test_the_committed_files_are_what_their_sources_say():
    assert dashboards.main(["--check"]) == 0
    assert metrics_page.main(["--check"]) == 0


def test_a_stale_dashboard_or_page_is_reported(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(dashboards, "TARGET", tmp_path)
    monkeypatch.setattr(metrics_page, "PAGE", tmp_path / "metrics.md")
    assert dashboards.main([]) == metrics_page.main([]) == 0
    path = tmp_path / "jobs.json"
    path.write_text(path.read_text().replace("Dead letters", "Dead"))
    (tmp_path / "metrics.md").write_text("# Metrics\n")

    assert dashboards.main(["--check"]) == 1
    assert metrics_page.main(["--check"]) == 1
    assert "jobs.json: expected" in (reported := capsys.readouterr().err)
    assert "metrics.md: expected" in reported


def test_every_metric_asked_for_is_exported():
    asked = {metric for question in questions(load()) for metric in METRIC.findall(question.expr)}
    for text in RULES.values():
        expressions = re.sub(r"^ *(#|- (alert|record):|summary:|runbook_url:|- name:).*$", "", text, flags=re.MULTILINE)
        asked |= set(METRIC.findall(expressions))

    assert {metric for metric in asked if not known(metric)} == set()


def test_panels_have_their_own_place_and_say_something():
    for name, dashboard in load().items():
        taken = set()
        for panel in dashboard["panels"]:
            place = panel["gridPos"]
            cells = {
                (x, y)
                for x in range(place["x"], place["x"] + place["w"])
                for y in range(place["y"], place["y"] + place["h"])
            }
            assert not taken & cells, (name, panel["title"])
            assert max(x for x, _ in cells) < 24
            taken |= cells
        assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_provisioned_files_agree_about_the_data_source():
    provisioned = (ROOT / "deploy/grafana/provisioning/datasources/prometheus.yml").read_text()
    uids = {
        uid
        for dashboard in load().values()
        for uid in re.findall(r'"uid": "(prometheus|\S+?)"\}', json.dumps(dashboard))
    }

    assert uids == {"prometheus"}
    assert "uid: prometheus" in provisioned


def test_an_unknown_variable_in_an_expression_is_refused():
    assert concrete('rate(a{model=~"$model"}[$__rate_interval])') == 'rate(a{model=~".*"}[30s])'
    with pytest.raises(ValueError, match="expected only"):
        concrete("rate(a[$__interval])")
