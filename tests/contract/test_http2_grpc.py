"""gRPC's own protocol over HTTP/2 (PROTOCOL-HTTP2.md): requests, statuses, metadata, deadlines."""

import base64
import re
from urllib.parse import unquote

import pytest
from h2.errors import ErrorCodes

from server.transports.base import Fast, StatusCode
from tests.http2.frames import DEADLINE_EXCEEDED, ECHO, HOLD, INTERNAL, NONE, OK, UNIMPLEMENTED, data, request
from tests.http2.host import hosted, wait_for
from tests.transports import frame


def ended(peer, fields, *parts):
    """Send headers and these bytes of a body; return the answer."""
    number = peer.stream()
    peer.send(peer.headers(number, fields), *(data(number, part, NONE) for part in parts), data(number, b""))
    return peer.answer(number)


@pytest.mark.parametrize("kind", ["application/json", "text/plain", "", "application/grp", "application/x-grpc", None])
def test_another_content_type_is_an_unsupported_media_type(peer, kind):
    fields = request(without=["content-type"]) if kind is None else request(content_type=kind)

    assert ended(peer, fields, frame(b"x")).headers[":status"] == "415"
    assert peer.alive()


@pytest.mark.parametrize("method", ["GET", "PUT", "HEAD", "OPTIONS", "post"])
def test_another_method_is_not_allowed(peer, method):
    assert ended(peer, request(method=method), frame(b"x")).headers[":status"] == "405"
    assert peer.alive()


@pytest.mark.parametrize("path", ["/t.S/Nothing", "/", "/t.S", "t.S/Echo", "/t.S/Echo/", "*", "/t.S/Ech%6f", "/ä"])
def test_an_unknown_path_is_unimplemented_in_one_block_of_headers(peer, path):
    answer = ended(peer, request(path), frame(b"x"))

    assert answer.headers[":status"] == "200"
    assert answer.headers["content-type"].startswith("application/grpc")
    assert answer.status == UNIMPLEMENTED
    assert answer.details == "Method not found!"
    assert not answer.trailers


def test_an_answer_has_headers_a_message_and_trailers(peer):
    answer = peer.ask(ECHO, b"hello")

    assert answer.headers[":status"] == "200"
    assert answer.headers["content-type"].startswith("application/grpc")
    assert bytes(answer.body) == frame(b"hello")
    assert answer.trailers == {"grpc-status": "0"}


@pytest.mark.parametrize("allowance", ["1H", "5M", "99999999S", "20000m", "99999999u", "99999999H", "00000001H"])
def test_a_timeout_of_every_unit_is_understood(peer, allowance):
    assert peer.ask(ECHO, b"x", ("grpc-timeout", allowance)).status == OK


@pytest.mark.parametrize("allowance", ["99999999n", "50m", "1n", "0S", "00000000m"])
def test_a_deadline_that_passes_ends_the_call_and_tells_its_handler(peer, host, allowance):
    host.held.calls.clear(), host.held.gone.clear()
    answer = peer.ask(HOLD, b"x", ("grpc-timeout", allowance))

    assert answer.status == DEADLINE_EXCEEDED
    wait_for(lambda: host.held.gone == host.held.calls, "the handler to be told")


@pytest.mark.parametrize("allowance", ["abc", "", "1", "S", "1X", "-1S", "1.5S", " 1S", "1 S", "1SS", "\u0661S"])
def test_a_timeout_that_is_none_is_refused(peer, allowance):
    answer = ended(peer, request(ECHO, ("grpc-timeout", allowance)), frame(b"x"))

    assert answer.status == INTERNAL or answer.reset == ErrorCodes.PROTOCOL_ERROR
    assert peer.alive()


def test_a_timeout_of_nine_digits_is_refused_or_understood(peer):
    assert peer.ask(ECHO, b"x", ("grpc-timeout", "999999999m")).status in {OK, INTERNAL}
    assert peer.alive()


def test_two_timeouts_are_no_reason_to_fall_over(peer):
    assert peer.ask(ECHO, b"x", ("grpc-timeout", "10S"), ("grpc-timeout", "20S")).status in {OK, INTERNAL}
    assert peer.alive()


DETAILS = {
    "ascii": "plain words, even ~ and !",
    "percent": "100 % of %41",
    "newlines": "one\ntwo\r\nthree\tfour\x00\x1f\x7f",
    "unicode": "später: \u2026 \U0001f600",
    "edges": " spaces around ",
    "nothing": "",
    "a-lone-surrogate": "a\ud800b",
    "long": "ä" * 2000,
}


@pytest.mark.parametrize("details", DETAILS.values(), ids=DETAILS.keys())
def test_the_words_of_a_status_are_percent_encoded(details):
    method = Fast(lambda call, _: call.fail(StatusCode.NOT_FOUND, details))
    with hosted(Fail=method) as host, host.connect() as peer:
        answer = peer.ask("/t.S/Fail")

    written = answer.details or ""
    assert answer.status == "5"
    assert re.fullmatch(r"([\x20-\x24\x26-\x7e]|%[0-9A-F]{2})*", written)
    assert unquote(written) in {details, details.replace("\ud800", "?"), details.replace("\ud800", "\ufffd")}


def test_binary_trailers_are_base64_and_others_as_they_are():
    trailers = (
        ("x-raw-bin", b"\x00\xff\xfe"),
        ("x-empty-bin", b""),
        ("x-text", "a b"),
        ("grpc-retry-pushback-ms", "5"),
    )
    method = Fast(lambda call, _: call.fail(StatusCode.NOT_FOUND, "no", trailers))
    with hosted(Fail=method) as host, host.connect() as peer:
        headers = peer.ask("/t.S/Fail").headers

    assert base64.b64decode(headers["x-raw-bin"] + "=" * (-len(headers["x-raw-bin"]) % 4)) == b"\x00\xff\xfe"
    assert (headers["x-empty-bin"], headers["x-text"], headers["grpc-retry-pushback-ms"]) == ("", "a b", "5")


def test_trailers_larger_than_a_frame_are_continued():
    trailers = [(f"x-{number}-bin", bytes(300)) for number in range(100)]
    method = Fast(lambda call, _: call.fail(StatusCode.NOT_FOUND, "no", trailers))
    with hosted(Fail=method) as host, host.connect() as peer:
        headers = peer.ask("/t.S/Fail").headers

    assert len([name for name in headers if name.endswith("-bin")]) == 100


def test_a_handler_sees_what_the_caller_sent_and_nothing_of_the_transports():
    seen = []

    def look(call, message):
        seen.append((call.method, [key for key, _ in call.metadata], call.peer))
        call.reply(message)

    with hosted(Look=Fast(look)) as host, host.connect() as peer:
        peer.ask(
            "/t.S/Look", b"", ("user-agent", "me"), ("x-a", "1"), ("grpc-timeout", "5S"), ("grpc-encoding", "gzip")
        )
        port = peer.socket.getsockname()[1]

    ((method, keys, where),) = seen
    assert method == "/t.S/Look"
    assert "x-a" in keys
    assert not {key for key in keys if key.startswith(":")} | ({"te", "content-type", "grpc-timeout"} & set(keys))
    assert where == f"ipv4:127.0.0.1:{port}"
