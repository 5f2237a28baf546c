import re
import shutil
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest

from server.settings import Settings, variable

ROOT = Path(__file__).resolve().parent.parent.parent
CHART = ROOT / "deploy" / "helm" / "sluice"
PYTHON = ROOT / ".venv-check" / "bin" / "python"


def check(chart):
    if not PYTHON.exists():
        pytest.skip("no .venv-check: `make check-tools` installs Helm as a library and the schemas")
    return subprocess.run(
        [PYTHON, "-m", "deploy.check.chart", chart], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_the_chart_renders_for_every_values_file_and_passes_strict_schemas():
    assert len(list((CHART / "ci").glob("*-values.yaml"))) == 3

    done = check(CHART)

    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_planted_errors_in_templates_are_all_caught(tmp_path):
    planted = {
        "templates/services.yaml": ("publishNotReadyAddresses:", "publishUnreadyAddresses:"),
        "templates/_helpers.tpl": ("readOnlyRootFilesystem: true", "readOnlyRootFilesystem: certainly"),
        "templates/workers.yaml": ("maxReplicaCount:", "maxReplicas:"),
        "templates/monitoring.yaml": ("- port: metrics", "- prot: metrics"),
        "templates/networkpolicies.yaml": ("policyTypes: [Ingress, Egress]", "policyTypes: Ingress"),
        "templates/redis.yaml": ("volumeClaimTemplates:", "volumeClaimTemplate:"),
    }
    chart = tmp_path / "sluice"
    shutil.copytree(CHART, chart)
    for file, (right, wrong) in planted.items():
        text = (chart / file).read_text()
        assert right in text
        (chart / file).write_text(text.replace(right, wrong))

    done = check(chart)

    assert done.returncode == 1
    for file, kind, said in (
        ("services", "Service", "'publishUnreadyAddresses' was unexpected"),
        ("frontends", "Deployment", "'certainly' is not"),
        ("workers", "ScaledObject", "'maxReplicas' was unexpected"),
        ("monitoring", "ServiceMonitor", "'prot' was unexpected"),
        ("networkpolicies", "NetworkPolicy", "'Ingress' is not"),
        ("redis", "StatefulSet", "'volumeClaimTemplate' was unexpected"),
    ):
        assert re.search(rf"templates/{file}.yaml {kind}: .*{said}", done.stdout), (file, said, done.stdout)


def test_values_that_make_no_sense_are_all_refused(tmp_path):
    chart = tmp_path / "sluice"
    shutil.copytree(CHART, chart)
    bad = {
        "nobody": ("frontends: {replicas: 0}", "minimum"),
        "misspelt": ("frontends: {replica: 1}", "replica"),
        "workers-alone": ("workers: {cpu: {device: cpu}}", "expected redis.mode embedded or external"),
        "no-workers": ("redis: {mode: embedded}", "expected at least one pool"),
        "tpu": ("{redis: {mode: embedded}, workers: {a: {device: tpu}}}", "device"),
        "no-url": ("{redis: {mode: external, cidr: 10.0.0.0/8}, workers: {a: {}}}", "redis.url: expected"),
        "no-cidr": ("{redis: {mode: external, url: 'redis://r/0'}, workers: {a: {}}}", "redis.cidr: expected"),
        "password": ("{redis: {mode: external, url: 'redis://me:secret@r/0'}, workers: {a: {}}}", "pattern"),
        "taken-setting": ("settings: {host: 1.2.3.4}", "host"),
    }
    for name, (values, _) in bad.items():
        (chart / "ci" / f"{name}-values.yaml").write_text(values)

    done = check(chart)

    said = dict(line.split("-values.yaml: ", 1) for line in done.stdout.splitlines())
    assert sorted(said) == sorted(bad)
    for name, (_, expected) in bad.items():
        assert expected in said[name]


def test_every_variable_in_the_chart_is_a_setting():
    templates = "".join(path.read_text() for path in (CHART / "templates").iterdir())
    used = set(re.findall(r"name: (SLUICE_[A-Z_]+)", templates))

    assert used
    assert used - {variable(setting) for setting in fields(Settings)} == set()


def test_a_pool_of_workers_does_not_change_what_frontends_get():
    if not PYTHON.exists():
        pytest.skip("no .venv-check")
    script = (
        "import sys, yaml; from helm_python.chart import Chart; from deploy.check.chart import documents\n"
        "chart = Chart.load(sys.argv[1]); values = yaml.safe_load(open(sys.argv[1] + '/ci/production-values.yaml'))\n"
        "for _, d in documents(chart, values):\n"
        "    if d['kind'] == 'Deployment':\n"
        "        c = d['spec']['template']['spec']['containers'][0]\n"
        "        print(d['metadata']['name'], c['resources']['limits'], c['image'].rsplit(':')[-1])"
    )

    done = subprocess.run([PYTHON, "-c", script, CHART], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout.splitlines() == [
        "demo-sluice-frontend {'memory': '1Gi'} 0.1.0",
        "demo-sluice-worker-cpu {'memory': '1Gi'} 0.1.0",
        "demo-sluice-worker-gpu {'memory': '16Gi', 'nvidia.com/gpu': 1} 0.1.0-gpu",
    ]
