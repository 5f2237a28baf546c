import http.client
import socket
from http import HTTPStatus

import pytest

from server.probes import ProbeServer, plain


@pytest.fixture
def state():
    return {"problem": "models are loading"}


@pytest.fixture
def port(state):
    pages = {
        "/livez": plain(lambda: ""),
        "/readyz": plain(lambda: state["problem"]),
        "/metrics": lambda accept: (HTTPStatus.OK, accept or "text/plain; version=0.0.4", b"up 1\n"),
    }
    server = ProbeServer(pages)
    yield server.start("127.0.0.1", 0)
    server.close()
    server.close()


def ask(port, method, path, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, answer.headers["Content-Type"], body


def test_readiness_says_what_is_missing_until_nothing_is(port, state):
    assert ask(port, "GET", "/readyz") == (503, "text/plain; charset=utf-8", b"models are loading\n")

    state["problem"] = ""

    assert ask(port, "GET", "/readyz")[0] == 200


def test_liveness_does_not_depend_on_readiness(port):
    assert ask(port, "GET", "/livez?verbose")[::2] == (200, b"ok\n")


def test_metrics_come_with_their_content_type_and_head_without_a_body(port):
    assert ask(port, "GET", "/metrics") == (200, "text/plain; version=0.0.4", b"up 1\n")
    assert ask(port, "HEAD", "/metrics") == (200, "text/plain; version=0.0.4", b"")


def test_a_page_is_told_what_the_caller_accepts(port):
    assert ask(port, "GET", "/metrics", Accept="application/openmetrics-text")[1] == "application/openmetrics-text"


def test_an_unknown_page_names_the_known_ones(port):
    status, _, body = ask(port, "GET", "/secrets")

    assert status == 404
    assert body == b"expected one of /livez, /metrics, /readyz\n"


def test_a_silent_connection_does_not_hold_up_the_next(port):
    with socket.create_connection(("127.0.0.1", port)):
        assert ask(port, "GET", "/livez")[0] == 200
