from server.sessions import forking


def test_a_session_child_gets_no_secret_and_keeps_no_records_of_its_own(monkeypatch):
    monkeypatch.setenv("SLUICE_API_KEYS", "/etc/keys")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    monkeypatch.setenv("ORT_LOAD_CONFIG_FROM_MODEL", "1")

    environment = forking.environment()

    assert not {"SLUICE_API_KEYS", "AWS_SECRET_ACCESS_KEY", "ORT_LOAD_CONFIG_FROM_MODEL"} & environment.keys()
    assert environment["ORT_DISABLE_TELEMETRY"] == "1"
