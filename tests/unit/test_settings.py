import argparse
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.settings import InvalidSettings, Settings, add_flags, as_flags, flag, parse, table, variable


def test_defaults_need_nothing():
    settings = parse({}, {})

    assert settings == Settings()
    assert (settings.grpc_port, settings.http_port, settings.metrics_port) == (8001, 8000, 8002)


def test_a_flag_wins_over_a_variable_and_a_variable_over_the_default():
    environment = {"SLUICE_GRPC_PORT": "9001", "SLUICE_HTTP_PORT": "9000"}

    settings = parse({"grpc_port": "7001"}, environment)

    assert (settings.grpc_port, settings.http_port, settings.metrics_port) == (7001, 9000, 8002)


def test_every_setting_is_a_flag_a_variable_and_a_row_of_the_table():
    rows = {row[0]: row for row in table()}

    for spec in fields(Settings):
        assert rows[flag(spec)][1] == variable(spec)
        assert rows[flag(spec)][3] == spec.metadata["help"]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"device": "tpu"}, "--device: expected one of auto, cpu, cuda, got 'tpu'"),
        ({"grpc_port": "eighty"}, "--grpc-port: expected a whole number, got 'eighty'"),
        ({"job_replicas": "1"}, "--job-replicas: expected --queue redis://HOST:PORT/DB, got --queue memory"),
        ({"grpc_port": "65536"}, "--grpc-port: expected at most 65535, got 65536"),
        ({"drain_seconds": "-1"}, "--drain-seconds: expected at least 0, got -1"),
        ({"drain_seconds": "nan"}, "--drain-seconds: expected at least 0, got nan"),
        ({"reflection": "maybe"}, "--reflection: expected true or false, got 'maybe'"),
        ({"tls_cert": "cert.pem"}, "--tls-cert and --tls-key: expected both or neither"),
        ({"tls_client_ca": "ca.pem"}, "--tls-client-ca: expected --tls-cert and --tls-key with it"),
        ({"role": "worker"}, "--role worker: expected --queue redis://HOST:PORT/DB, got --queue memory"),
        ({"load_model": "mnist"}, "--load-model: expected --model-control explicit, got none"),
        ({"otlp_endpoint": "collector:4317"}, "--otlp-endpoint: expected http://HOST:PORT or https://HOST:PORT, got"),
        ({"otlp_endpoint": "http://[::1"}, "--otlp-endpoint: expected http://HOST:PORT or https://HOST:PORT, got"),
        ({"otlp_endpoint": "http://me:secret@host"}, "--otlp-endpoint: expected no credentials in it, set OTEL_EXP"),
    ],
)
def test_a_bad_value_is_refused_in_one_clear_line(flags, expected):
    with pytest.raises(InvalidSettings) as refusal:
        parse(flags, {})

    assert str(refusal.value).startswith(expected)
    assert "\n" not in str(refusal.value)
    assert "secret" not in str(refusal.value)


def test_a_bad_variable_is_named_as_the_variable():
    with pytest.raises(InvalidSettings, match=r"^SLUICE_DEVICE: expected one of"):
        parse({}, {"SLUICE_DEVICE": "tpu"})


@given(st.text(max_size=200))
def test_no_text_whatever_gets_past_a_number(text):
    try:
        settings = parse({"grpc_port": text}, {})
    except InvalidSettings as refusal:
        assert len(str(refusal)) < 500
    else:
        assert 0 <= settings.grpc_port <= 65535


def test_lists_paths_and_switches_are_converted():
    settings = parse(
        {"model_control": "explicit", "load_model": "mnist, churn", "model_store": "/srv/m", "reflection": "no"}, {}
    )

    assert settings.load_model == ("mnist", "churn")
    assert settings.model_store == Path("/srv/m")
    assert settings.reflection is False


def test_the_parser_accepts_every_flag():
    parser = argparse.ArgumentParser()
    add_flags(parser)

    given_flags = parser.parse_args(["--grpc-port", "0", "--strict-readiness", "--reflection", "false"])

    assert (given_flags.grpc_port, given_flags.strict_readiness, given_flags.reflection) == ("0", "true", "false")
    assert "--drain-seconds" in parser.format_help()


def test_settings_reach_another_process_as_they_are():
    settings = Settings(
        queue="redis://h:1/0", load_model=("a", "b"), model_control="explicit", tls_cert=Path("c"), tls_key=Path("k"),
        reflection=False, drain_seconds=0.5, frontends=3,
    )  # fmt: skip

    assert parse(as_flags(settings), {}) == settings
    assert parse(as_flags(Settings()), {}) == Settings()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"role": "worker", "queue": "redis://h:1/0"}, "--role worker, which takes no calls"),
        ({"shared_memory_prefix": "/client_"}, "--shared-memory-prefix, as a region is registered with one process"),
    ],
)
def test_several_frontends_are_refused_where_one_process_must_know_more_than_the_others(fields, words):
    with pytest.raises(InvalidSettings, match=f"--frontends: got 2, expected 1 with {words}"):
        Settings(frontends=2, **fields)
