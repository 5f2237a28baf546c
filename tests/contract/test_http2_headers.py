"""Which requests are malformed (RFC 9113, 8.2 and 8.3): their stream ends, and header compression stays in step."""

import psutil
import pytest
from h2.errors import ErrorCodes

from server.transports.base import Fast
from tests.http2.frames import (
    CONTINUATION,
    ECHO,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    INTERNAL,
    INVALID_ARGUMENT,
    NONE,
    OK,
    RESOURCE_EXHAUSTED,
    UNIMPLEMENTED,
    data,
    raw,
    request,
)
from tests.http2.host import hosted
from tests.transports import frame


def without(*names, **changed):
    return request(without=names, **changed)


def after_regular():
    pseudo, *others = request()
    return [*others, pseudo]


MALFORMED = {
    "upper-case-name": request(ECHO, ("X-Upper", "1")),
    "pseudo-header-after-a-regular-one": after_regular(),
    "unknown-pseudo-header": [(":unknown", "1"), *request()],
    "a-responses-pseudo-header": [(":status", "200"), *request()],
    "two-methods": [(":method", "POST"), *request()],
    "two-paths": [(":path", ECHO), *request()],
    "two-schemes": [(":scheme", "http"), *request()],
    "no-method": without(":method"),
    "no-scheme": without(":scheme"),
    "no-path": without(":path"),
    "no-headers-at-all": [],
    "empty-path": request(""),
    "connection": request(ECHO, ("connection", "keep-alive")),
    "proxy-connection": request(ECHO, ("proxy-connection", "keep-alive")),
    "keep-alive": request(ECHO, ("keep-alive", "1")),
    "transfer-encoding": request(ECHO, ("transfer-encoding", "chunked")),
    "upgrade": request(ECHO, ("upgrade", "h2c")),
    "te-other-than-trailers": request(te="gzip"),
    "empty-name": request(ECHO, ("", "x")),
    "name-with-a-colon": request(ECHO, ("a:b", "x")),
    "name-with-a-space": request(ECHO, ("a b", "x")),
    "name-with-a-newline": request(ECHO, ("a\nb", "x")),
    "name-with-nul": request(ECHO, ("a\0", "x")),
    "name-not-ascii": request(ECHO, ("ä", "x")),
    "value-with-a-newline": request(ECHO, ("x", "a\nb")),
    "value-with-a-return": request(ECHO, ("x", "a\r")),
    "value-with-nul": request(ECHO, ("x", "a\0b")),
    "path-with-a-newline": request("/t.S/Echo\n"),
}


def answer_or_reset(peer, fields, body=b"x"):
    """Send a call with these header fields; tell how it ended: its gRPC status, HTTP status or error code."""
    number = peer.stream()
    peer.send(peer.headers(number, fields), data(number, frame(body)))
    answer = peer.answer(number)
    if answer.reset and not answer.ended:
        return answer.reset
    return answer.status or answer.headers.get(":status") or peer.goaway()


@pytest.mark.parametrize("fields", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_request_ends_its_stream_only(peer, fields):
    new = ("x-after", "the bad one")

    assert answer_or_reset(peer, [*fields, new]) in {ErrorCodes.PROTOCOL_ERROR, "400"}
    assert peer.gone or answer_or_reset(peer, request(ECHO, new)) == OK


TOLERATED = {
    "no-te": without("te"),
    "no-authority": without(":authority"),
    "host-instead-of-authority": [*without(":authority"), ("host", "localhost")],
    "https": request(scheme="https"),
    "content-type-with-a-format": request(content_type="application/grpc+proto"),
    "content-type-with-a-parameter": request(content_type="application/grpc; charset=utf-8"),
    "right-content-length": request(ECHO, ("content-length", "6")),
    "cookies": request(ECHO, ("cookie", "a=b"), ("cookie", "c=d")),
    "empty-value": request(ECHO, ("x", "")),
    "value-not-ascii": request(ECHO, ("x", "später")),
    "value-with-a-tab": request(ECHO, ("x", "a\tb")),
    "user-agent": request(ECHO, ("user-agent", "grpc-test/1.0")),
    "unknown-grpc-header": request(ECHO, ("grpc-unknown", "1")),
    "grpc-accept-encoding": request(ECHO, ("grpc-accept-encoding", "br, gzip,identity")),
}


@pytest.mark.parametrize("fields", TOLERATED.values(), ids=TOLERATED.keys())
def test_what_is_unusual_but_allowed_is_served(peer, fields):
    assert answer_or_reset(peer, fields) == OK


@pytest.mark.parametrize(
    "field",
    [("x", " a"), ("x", "a "), ("x", "a\x7f"), ("x", "a\x01"), ("content-length", "7"), ("content-length", "many")],
    ids=["space-before", "space-behind", "del", "control", "wrong-content-length", "no-number"],
)
def test_what_others_tolerate_may_be_served_or_refused(peer, field):
    assert answer_or_reset(peer, request(ECHO, field)) in {OK, ErrorCodes.PROTOCOL_ERROR, "400", INTERNAL}
    assert peer.alive()


@pytest.mark.parametrize("flags", [0, END_STREAM], ids=["open", "ended"])
def test_a_refused_request_is_answered_before_its_body_has_come(peer, flags):
    number = peer.stream()
    peer.send(peer.headers(number, request("/t.S/Unknown"), END_HEADERS | flags))

    assert peer.answer(number).status == UNIMPLEMENTED
    assert peer.alive()


LARGE = {
    "one-value": [("x", "y" * 20_000)],
    "many-fields": [(f"x-{number}", "y" * 20) for number in range(300)],
    "one-field-again-and-again": [("x", "y" * 1000)] * 20,
}


@pytest.mark.parametrize("extra", LARGE.values(), ids=LARGE.keys())
def test_more_than_8_kib_of_headers_end_their_call_only(peer, extra):
    number, new = peer.stream(), ("x-after", "the large ones")
    block = peer.encoder.encode([*request(), *extra, new])
    peer.send(raw(HEADERS, NONE, number, block[:16384]), raw(CONTINUATION, END_HEADERS, number, block[16384:]))
    peer.send(data(number, frame(b"x")))
    answer = peer.answer(number)

    assert answer.status == RESOURCE_EXHAUSTED or answer.headers[":status"] == "431"
    assert answer_or_reset(peer, request(ECHO, new)) == OK


def test_a_header_list_that_unpacks_to_megabytes_is_refused_without_being_held(peer):
    """The bomb of RFC 7541, 7.3: a table full of one field, then thousands of references to it."""
    number = peer.stream()
    block = peer.encoder.encode([*request(), ("x", "y" * 4000)])
    before = psutil.Process().memory_info().rss
    peer.send(raw(HEADERS, NONE, number, block), raw(CONTINUATION, END_HEADERS, number, b"\xbe" * 15_000))
    peer.send(data(number, frame(b"x")))
    answer = peer.answer(number)

    assert answer.status == RESOURCE_EXHAUSTED or peer.goaway() is ErrorCodes.ENHANCE_YOUR_CALM
    assert psutil.Process().memory_info().rss - before < 16 << 20
    assert peer.gone or peer.alive()


def test_metadata_arrives_in_order_with_its_duplicates_and_decoded_bytes():
    seen = []

    def look(call, message):
        seen.extend((key, value) for key, value in call.metadata if key.startswith("x-"))
        call.reply(message)

    extra = [("x-a", "1"), ("x-b-bin", "AP8"), ("x-a", "2"), ("x-b-bin", "AP8="), ("x-b-bin", ""), ("x-c", "a,b")]
    with hosted(Look=Fast(look)) as host, host.connect() as peer:
        assert peer.ask("/t.S/Look", b"", *extra).status == OK

    assert [value for key, value in seen if key == "x-a"] == ["1", "2"]
    assert [value for key, value in seen if key == "x-b-bin"] == [b"\x00\xff", b"\x00\xff", b""]
    assert [key for key, _ in seen] == [key for key, _ in extra]


def test_binary_metadata_that_is_none_ends_its_call_at_most(peer):
    for value in ("%%%", "A", "AP8==", "Ä"):
        assert answer_or_reset(peer, request(ECHO, ("x-bin", value))) in {
            OK, INTERNAL, INVALID_ARGUMENT, ErrorCodes.PROTOCOL_ERROR, "400",
        }  # fmt: skip
        assert peer.alive()
