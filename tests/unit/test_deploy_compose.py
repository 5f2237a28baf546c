import json
import re
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest

from server.settings import Settings, parse, variable

ROOT = Path(__file__).resolve().parent.parent.parent
PYTHON = ROOT / ".venv-check" / "bin" / "python"
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()
LOADER = "import json, sys, yaml; print(json.dumps([yaml.safe_load(open(p)) for p in sys.argv[1:]]))"
DEFAULTED = re.compile(r"\$\{\w+:-([^}]*)\}")
FILES = ("docker-compose.yml", "docker-compose.gpu.yml", "docker-compose.secure.yml")


@pytest.fixture(scope="module")
def compose():
    if not PYTHON.exists():
        pytest.skip("no .venv-check: `make check-tools` installs a YAML parser")
    done = subprocess.run([PYTHON, "-c", LOADER, *FILES], cwd=ROOT, capture_output=True, text=True, check=True)
    return dict(zip(FILES, json.loads(done.stdout), strict=True))


def test_every_service_is_hardened(compose):
    for name, service in compose["docker-compose.yml"]["services"].items():
        assert service["read_only"], name
        assert service["init"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["deploy"]["resources"]["limits"]["memory"], name
        assert not service.get("privileged"), name


def test_ports_are_published_on_the_loopback_address_only(compose):
    ports = [
        port for service in compose["docker-compose.yml"]["services"].values() for port in service.get("ports", [])
    ]

    assert len(ports) >= 4
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_what_is_mounted_is_there(compose):
    mounts = [m for service in compose["docker-compose.yml"]["services"].values() for m in service.get("volumes", [])]
    files = [mount.split(":")[0] for mount in mounts if mount.startswith(".")]

    assert len(files) >= 4
    assert [path for path in files if not (ROOT / path).exists()] == []
    assert all(mount.endswith(":ro") for mount in mounts if mount.startswith("."))


def test_the_environment_is_made_of_settings_that_the_server_takes(compose):
    known = {variable(setting) for setting in fields(Settings)}
    for name in FILES:
        for service in compose[name]["services"].values():
            given = {key: value for key, value in service.get("environment", {}).items() if key.startswith("SLUICE_")}
            assert set(given) - known == set(), name
            parse({}, {key: DEFAULTED.sub(r"\1", str(value)) for key, value in given.items()})


def test_the_grace_is_longer_than_the_drain(compose):
    drained = {
        name: service
        for name, service in compose["docker-compose.yml"]["services"].items()
        if "SLUICE_DRAIN_SECONDS" in service.get("environment", {})
    }

    assert set(drained) == {"frontend-1", "frontend-2", "worker"}
    for name, service in drained.items():
        grace = int(service["stop_grace_period"].removesuffix("s"))
        assert grace >= int(service["environment"]["SLUICE_DRAIN_SECONDS"]) + 15, name


def test_redis_keeps_what_it_acknowledged(compose):
    redis = compose["docker-compose.yml"]["services"]["redis"]

    assert "--appendonly yes" in redis["command"]
    assert "--maxmemory-policy noeviction" in redis["command"]
    assert redis["volumes"] == ["redis-data:/data"]
    assert "ports" not in redis
    assert redis["networks"] == ["queue"]
    assert compose["docker-compose.yml"]["networks"]["queue"]["internal"]


def test_secrets_are_files_that_git_does_not_take(compose):
    secure = compose["docker-compose.secure.yml"]

    assert {name for service in secure["services"].values() for name in service["secrets"]} == set(secure["secrets"])
    for secret in secure["secrets"].values():
        path = secret["file"].replace("${SLUICE_SECRETS:-./secrets}", "secrets")
        ignored = subprocess.run(["git", "check-ignore", "--quiet", path], cwd=ROOT, check=False)
        assert ignored.returncode == 0, secret


def test_the_images_run_as_a_number_from_exec_forms_and_need_no_registry_but_the_base():
    entries = re.findall(r"^(?:ENTRYPOINT|CMD|HEALTHCHECK .*? CMD) (.*)$", DOCKERFILE, flags=re.MULTILINE)

    assert re.search(r"^USER \d+:\d+$", DOCKERFILE, flags=re.MULTILINE)
    assert len(entries) == 5
    assert all(json.loads(entry) for entry in entries)
    assert "@sha256" not in DOCKERFILE
    assert not re.search(r"^# *syntax", DOCKERFILE, flags=re.MULTILINE)
    assert set(re.findall(r"^FROM (\S+)", DOCKERFILE, flags=re.MULTILINE)) - {"build", "runtime", "serve"} == {
        "${PYTHON_IMAGE}"
    }


def test_what_the_images_copy_is_in_the_build_context():
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        source
        for words in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, flags=re.MULTILINE)
        for source in words.split()[:-1]
    }

    assert copied - allowed == set()
    assert allowed - copied == set()
    assert all((ROOT / path).exists() for path in allowed)
