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
