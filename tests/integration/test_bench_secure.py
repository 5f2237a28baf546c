"""`sluice bench` and its generator over TLS and with an API key: they work, or they say in one line why not."""

import json
import ssl
from contextlib import closing
from dataclasses import replace

import pytest

from server.load.generator import Generator
from server.transports.base import TlsFiles
from tests import oip
from tests.certificates import Authority
from tests.http2.frames import ECHO
from tests.http2.host import hosted
from tests.server_process import serve, sluice
from tests.transports import DEFAULTS

SHORT = ("--seconds", "0.2", "--warm-up", "0.05")
KEY = "0123456789abcdef0123"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("secure")
    for name in ("ours", "strangers"):
        authority = Authority(folder / name)
        authority.issue("server")
        authority.issue("client")
    (folder / "keys").write_text(f"bench:infer,read:{KEY}\n")
    (folder / "key").write_text(KEY + "\n")
    (folder / "wrong-key").write_text("f" * 20)
    (folder / "body").write_bytes(oip.request("churn", []).SerializeToString())
    return folder


@pytest.fixture(scope="module")
def secure(folder, store):
    pair = ("--tls-cert", str(folder / "ours/server.pem"), "--tls-key", str(folder / "ours/server.key"))
    with serve(*pair, "--api-keys", str(folder / "keys"), store=store) as server:
        yield server


@pytest.fixture(scope="module")
def mutual(folder, store):
    pair = ("--tls-cert", str(folder / "ours/server.pem"), "--tls-key", str(folder / "ours/server.key"))
    with serve(*pair, "--tls-client-ca", str(folder / "ours/ca.pem"), store=store) as server:
        yield server


def bench(folder, address, words):
    """Run it; words that name a file of the folder become its path."""
    return sluice(
        "bench", "churn", "--server", address, *SHORT,
        *(str(folder / word) if (folder / word).exists() else word for word in words.split()),
    )  # fmt: skip


@pytest.mark.parametrize("shape", ["", "--rate 300", "--rows 40"])
def test_with_the_right_files_every_call_is_answered(folder, secure, shape):
    done = bench(folder, secure.grpc, f"--tls-ca ours/ca.pem --api-key-file key --json {shape}")
    report = json.loads(done.stdout)

    assert (done.returncode, done.stderr) == (0, "")
    assert report["codes"] == {"0": report["sent"]}
    assert report["sent"] > 5


def test_with_a_certificate_of_its_own_it_is_let_in(folder, mutual):
    files = "--tls-ca ours/ca.pem --tls-cert ours/client.pem --tls-key ours/client.key"
    done = bench(folder, mutual.grpc, f"{files} --json")

    assert (done.returncode, done.stderr) == (0, "")
    assert set(json.loads(done.stdout)["codes"]) == {"0"}


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        ("--tls-ca strangers/ca.pem --api-key-file key", 1, "CERTIFICATE_VERIFY_FAILED"),
        ("--tls-ca strangers/ca.pem --api-key-file key --body body", 1, "certificate verify failed"),
        ("--tls-ca ours/ca.pem", 1, "UNAUTHENTICATED: expected one API key"),
        ("--tls-ca ours/ca.pem --api-key-file wrong-key", 1, "UNAUTHENTICATED: expected a valid API key"),
        ("--api-key-file key", 1, "cannot talk to"),
        ("--api-key-file key --body body", 1, "the server closed the connection before it greeted"),
        ("--tls-ca key --api-key-file key", 2, "cannot use the TLS files"),
        ("--tls-ca no-such.pem --api-key-file key", 2, "cannot use the TLS files: No such file"),
        ("--tls-ca ours/ca.pem --api-key-file no-such-key", 2, "cannot read no-such-key"),
        ("--tls-cert ours/client.pem --tls-key ours/client.key", 2, "expected --tls-ca with them"),
    ],
)  # fmt: skip
def test_wrong_files_are_one_line_and_an_exit_code(folder, secure, words, code, sentence):
    done = bench(folder, secure.grpc, words)

    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("sluice bench: ")
    assert sentence in done.stderr
    assert (done.returncode, done.stdout) == (code, "")


def test_a_body_without_a_key_is_refused_call_by_call(folder, secure):
    done = bench(folder, secure.grpc, "--tls-ca ours/ca.pem --body body --json")
    report = json.loads(done.stdout)

    assert (done.returncode, done.stderr) == (1, "")
    assert report["codes"] == {"16": report["sent"]}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [("", "cannot talk to"), ("--body body", "CERTIFICATE_REQUIRED")],
)
def test_without_a_certificate_of_its_own_it_hears_so(folder, mutual, words, sentence):
    done = bench(folder, mutual.grpc, f"--tls-ca ours/ca.pem {words}")

    assert done.stderr.count("\n") == 1
    assert sentence in done.stderr
    assert done.returncode == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("", "no server answers at 127.0.0.1:1; start one with `sluice serve`"),
        ("--body body", "127.0.0.1:1: Connection refused"),
        ("--tls-ca ours/ca.pem", "no server answers at 127.0.0.1:1"),
    ],
)
def test_where_nobody_listens_that_is_one_line(folder, words, sentence):
    done = bench(folder, "127.0.0.1:1", words)

    assert done.stderr.count("\n") == 1
    assert sentence in done.stderr
    assert (done.returncode, done.stdout) == (1, "")


def test_messages_larger_than_our_own_windows_go_and_come_back_over_tls(folder):
    pair = TlsFiles((folder / "ours/server.pem").read_bytes(), (folder / "ours/server.key").read_bytes())
    trust = ssl.create_default_context(cafile=folder / "ours/ca.pem")
    trust.set_alpn_protocols(["h2"])
    message, seen = bytes(range(256)) * (3 << 12), set()
    with (
        hosted(replace(DEFAULTS, tls=pair), trust=(folder / "ours/ca.pem").read_bytes()) as host,
        closing(Generator(f"localhost:{host.port}", ECHO, message, connections=1, tls=trust)) as generator,
    ):
        outcome = generator.open_loop([0.0] * 4, check=lambda status, answer: seen.add((status, answer == message)))

    assert outcome.codes == {0: 4}
    assert seen == {(0, True)}
