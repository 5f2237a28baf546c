"""The README, word for word: a clean clone in another folder, and every command in it run as a new user would."""

import os
import re
import shutil
import signal
import subprocess

import pytest

from server import __version__
from tests import readme
from tests.server_process import ROOT

COMMANDS = re.findall(r"```sh\n(.*?)```", readme.README.read_text(), re.DOTALL)
OURSELVES = "make test\n"
"""Is what runs this test."""
SERVE = "make serve\n"
PORTS = {"SLUICE_GRPC_PORT": "0", "SLUICE_HTTP_PORT": "0", "SLUICE_METRICS_PORT": "0"}


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fresh") / "sluice"
    subprocess.run(["git", "clone", "--quiet", "--depth", "1", f"file://{ROOT}", folder], check=True)
    return folder


@pytest.fixture(scope="module")
def environment():
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("VIRTUAL_ENV", "SLUICE_", "MAKE"))}
    return {**kept, **PORTS}


@pytest.fixture(scope="module")
def served(clone, environment):
    """`make serve` as the only command typed, until it says where it listens."""
    process = subprocess.Popen(
        ["make", "serve"], cwd=clone, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        for line in process.stdout:
            if found := re.fullmatch(r"listening grpc=(\S+) http=(\S+) metrics=(\S+)\n", line):
                yield found.groups()
                break
        else:
            pytest.fail(f"make serve ended with exit code {process.wait()} before it listened")
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)
        process.stdout.close()


@pytest.mark.slow
def test_the_readme_has_the_commands_this_file_knows_how_to_run():
    assert SERVE in COMMANDS
    assert OURSELVES in COMMANDS
    assert len(COMMANDS) >= 6


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_servers_installation_has_no_torch(clone, served):
    (site,) = (clone / ".venv" / "lib").glob("python3*/site-packages")

    assert (site / "grpc").is_dir()
    assert not list(site.glob("torch*"))
    assert not list(site.glob("onnx"))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("command", [text for text in COMMANDS if text not in (SERVE, OURSELVES)])
def test_every_command_in_the_readme_runs(clone, environment, served, command):
    grpc, http, _ = served
    asked = command.replace("http://127.0.0.1:8000", f"http://{http}")

    done = subprocess.run(
        ["bash", "-euc", asked], cwd=clone, env={**environment, "SLUICE_SERVER": grpc},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert '"error"' not in done.stdout


def test_the_generated_tables_are_up_to_date():
    text = readme.README.read_text()

    assert readme.render(text) == text, "run `python -m tests.readme`"


def test_the_version_is_the_changelogs_newest():
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)

    assert newest[1] == __version__
    assert f'version = "{__version__}"' in (ROOT / "pyproject.toml").read_text()


def test_the_files_that_the_pages_link_to_exist():
    pages = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    for page in pages:
        for target in re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_tools_the_commands_need_are_here():
    for tool in ("make", "git", "curl", "bash"):
        assert shutil.which(tool)
