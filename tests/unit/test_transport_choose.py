import statistics
import time

import pytest

from server.transports import binding, lean_call, lean_server, selfcheck
from server.transports.base import TransportOptions
from server.transports.choose import TransportUnavailable, choose
from server.transports.selfcheck import SelfCheckFailed


def build(name):
    return choose(name, {}, TransportOptions())


@pytest.mark.parametrize(("name", "built"), [("auto", "lean"), ("lean", "lean"), ("aio", "aio")])
def test_the_transport_asked_for_is_built(name, built):
    assert build(name).name == built


def test_the_selfcheck_takes_less_than_a_tenth_of_a_second():
    durations = []
    for _ in range(5):
        began = time.perf_counter()
        selfcheck.selfcheck()
        durations.append(time.perf_counter() - began)

    assert statistics.median(durations) < 0.1


class Vanished:
    def __init__(self, *_):
        raise AttributeError("module has no attribute 'Server'")


def test_a_binding_whose_names_changed_is_found_out(monkeypatch):
    monkeypatch.setattr(lean_server, "Server", Vanished)

    with pytest.raises(SelfCheckFailed, match="no attribute 'Server'"):
        selfcheck.selfcheck()


def test_a_binding_that_answers_differently_is_found_out(monkeypatch):
    changed = binding.SendMessage
    monkeypatch.setattr(lean_call, "SendMessage", lambda message, flags: changed(message + b"!", flags))

    with pytest.raises(SelfCheckFailed, match="expected an answer to be b'echo', got b'echo!'"):
        selfcheck.selfcheck()


def test_a_binding_that_tells_of_no_cancellation_is_found_out(monkeypatch):
    monkeypatch.setattr(selfcheck, "TIMEOUT", 0.5)
    monkeypatch.setattr(lean_call.LeanCall, "_closed", lambda self, _: self._over())

    with pytest.raises(SelfCheckFailed, match="word of a cancellation"):
        selfcheck.selfcheck()


def test_auto_falls_back_with_a_line_in_the_log_and_lean_refuses(monkeypatch, caplog):
    monkeypatch.setattr(lean_server, "Server", Vanished)

    assert build("auto").name == "aio"
    assert [record.getMessage() for record in caplog.records] == ["transport_fallback"]
    assert "self-check failed with grpcio" in caplog.records[0].fields["reason"]
    with pytest.raises(TransportUnavailable, match="no attribute 'Server'"):
        build("lean")
