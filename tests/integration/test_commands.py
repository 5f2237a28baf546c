"""The command line as a user types it."""

import json
import shutil

import pytest

from server.cli.demo import CUSTOMER, draw_seven
from tests.server_process import FREE_PORTS, ROOT, sluice


def test_predict_churn_prints_the_probability_of_leaving(server):
    done = sluice("predict", "churn", *CUSTOMER, "--server", server.grpc)

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("probability of leaving 0.")


def test_predict_prints_json_for_scripts(server, tmp_path):
    seven = draw_seven(tmp_path / "seven.png")

    digit = json.loads(sluice("predict", "mnist", str(seven), "--json", "--server", server.grpc).stdout)
    review = json.loads(sluice("predict", "sentiment", "a wonderful film", "--json", "--server", server.grpc).stdout)

    assert digit["digit"] == 7
    assert digit["probability"] > 0.5
    assert review["sentiment"] == "positive"
    assert review["positive"] > 0.5


def test_predict_reads_reviews_from_stdin_one_a_line(server):
    done = sluice("predict", "sentiment", "-", "--server", server.grpc, stdin="a wonderful film\na dreadful bore\n")

    assert [line.split()[0] for line in done.stdout.splitlines()] == ["positive", "negative"]


def test_models_lists_what_is_served_and_shows_one(server):
    listed = sluice("models", "list", "--server", server.grpc).stdout.splitlines()
    shown = json.loads(sluice("models", "show", "mnist", "--json", "--server", server.grpc).stdout)

    assert {line.split()[0] for line in listed if "READY" in line} == {"churn", "mnist", "sentiment"}
    assert shown["tensors"][0] == {"kind": "input", "name": "image", "datatype": "UINT8", "shape": [-1, 28, 28]}


def test_the_demo_asks_all_three_and_stops_its_server():
    done = sluice("demo")

    assert done.returncode == 0, done.stderr
    assert "probability of leaving" in done.stdout
    assert "seven.png  7" in done.stdout
    assert "positive" in done.stdout
    assert "server stopped with exit code 0" in done.stdout


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["serve", "--device", "tpu"], "sluice serve: --device: expected one of auto, cpu, cuda, got 'tpu'"),
        (["serve", "--model-store", "no-such-dir"], "no-such-dir"),
        (["serve", "--tls-cert", "no-such.pem", "--tls-key", "no-such.key"], "no-such.pem"),
        (["predict", "mnist", "no-such.png"], "sluice predict: cannot read no-such.png: No such file or directory"),
        (["models", "list", "--api-key-file", "no-such-key"], "sluice models: cannot read no-such-key"),
    ],
)
def test_a_bad_flag_file_or_value_is_one_clear_line_and_exit_code_2(words, expected):
    ports = FREE_PORTS if words[0] == "serve" else ()
    done = sluice(*words, *ports)

    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert expected in last
    assert "Traceback" not in done.stderr


def test_a_server_that_does_not_answer_is_one_clear_line_and_exit_code_1():
    done = sluice("predict", "sentiment", "x", "--server", "127.0.0.1:1")

    assert done.returncode == 1
    assert done.stderr == "sluice predict: no server answers at 127.0.0.1:1; start one with `sluice serve`\n"


def test_an_error_of_the_server_is_one_clear_line_and_exit_code_1(server):
    done = sluice("models", "show", "nobody", "--server", server.grpc)

    assert done.returncode == 1
    assert done.stderr.startswith("sluice models: NOT_FOUND: ")
    assert "nobody" in done.stderr


def test_a_port_in_use_is_one_clear_line_and_exit_code_2(server):
    port = server.grpc.rsplit(":", 1)[1]
    done = sluice("serve", *FREE_PORTS, "--grpc-port", port)

    assert done.returncode == 2
    assert port in done.stderr.splitlines()[-1]


def test_a_corrupt_model_is_kept_out_of_service_and_says_why(tmp_path):
    store = tmp_path / "store"
    shutil.copytree(ROOT / "model_store" / "churn", store / "churn")
    for model in (store / "churn").glob("*/model.onnx"):
        model.chmod(0o644)
        model.write_bytes(model.read_bytes()[:-100])

    done = sluice("serve", *FREE_PORTS, "--model-store", str(store), timeout=60)

    assert done.returncode == 2
    assert "churn" in done.stderr.splitlines()[-1]
