import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PROMETHEUS = ROOT / "deploy" / "prometheus"
ALERTS = (PROMETHEUS / "rules" / "alerts.yml").read_text()
NAMES = re.findall(r"- alert: (\w+)", ALERTS)


def promtool(*words):
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed")
    return subprocess.run(["promtool", *map(str, words)], capture_output=True, text=True, check=False)


def test_every_alert_has_a_section_of_the_runbook_and_the_runbook_no_other():
    sections = re.findall(r"^## (Sluice\w+)", (ROOT / "docs" / "runbook.md").read_text(), flags=re.MULTILINE)
    linked = re.findall(r"runbook_url: docs/runbook\.md#(\w+)", ALERTS)

    assert sections == NAMES
    assert linked == [name.lower() for name in NAMES]


def test_every_alert_has_a_severity_and_fires_in_a_rule_test():
    tests = "".join(path.read_text() for path in (PROMETHEUS / "tests").glob("*.yml"))
    fired = set(re.findall(r"alertname: (\w+)\n\s+exp_alerts:\n", tests))

    assert len(re.findall(r"severity: (?:page|ticket)\}", ALERTS)) == len(NAMES)
    assert fired == set(NAMES)


@pytest.mark.parametrize(
    ("tests", "right", "wrong"),
    [
        ("slo_fast", "> 14.4 * 0.001 and", "> 40 * 0.001 and"),
        ("slo_fast", '"INTERNAL|UNKNOWN|DATA_LOSS|UNAVAILABLE"', '"INTERNAL|UNAVAILABLE|RESOURCE_EXHAUSTED"'),
        ("serving", "(sluice_queue_oldest_age_seconds) > 1", "(sluice_queue_oldest_age_seconds) > 10"),
        (
            "models",
            "unless sluice_model_load_failures_total offset 15m",
            "unless sluice_model_load_failures_total offset 1m",
        ),
        ("jobs", "max by (model) (sluice_jobs_dead)", "(sluice_jobs_dead)"),
        ("jobs", 'increase(sluice_jobs_total{state="dead_trimmed"}[15m])', "increase(sluice_jobs_total[15m])"),
        (
            "jobs",
            'unless max by (model) (sluice_jobs_total{state="dead_trimmed"} offset 15m)',
            'unless sluice_jobs_total{state="dead_trimmed"} offset 15m',
        ),
    ],
)
def test_a_rule_that_is_bent_is_noticed_by_the_rule_tests(tmp_path, tests, right, wrong):
    folder = tmp_path / "prometheus"
    shutil.copytree(PROMETHEUS, folder)
    for path in (folder / "rules").glob("*.yml"):
        path.write_text(path.read_text().replace(right, wrong))
    assert any(wrong in path.read_text() for path in (folder / "rules").glob("*.yml"))

    done = promtool("test", "rules", folder / "tests" / f"{tests}.yml")

    assert done.returncode != 0


def test_alertmanager_knows_the_severities_and_no_alert_that_is_not_there():
    config = (ROOT / "deploy" / "alertmanager" / "alertmanager.yml").read_text()
    silenced = re.findall(r'alertname = "(\w+)"', config)

    assert (
        set(re.findall(r"severity: (\w+)\}", ALERTS)) == {"page", "ticket"} == set(re.findall(r"- name: (\w+)", config))
    )
    assert set(silenced) <= set(NAMES)
    assert len(silenced) == 6


def test_prometheus_looks_for_alertmanager_where_compose_starts_it():
    compose = (ROOT / "docker-compose.yml").read_text()

    assert "{names: [alertmanager], type: A, port: 9093," in (PROMETHEUS / "prometheus.yml").read_text()
    assert re.search(r"^  alertmanager:\n(?:    .*\n)*    profiles: \[alerts\]\n", compose, flags=re.MULTILINE)
    assert re.search(r"^  alertmanager:\n(?:    .*\n)*    ports: \[.*:9093\"\]\n", compose, flags=re.MULTILINE)
