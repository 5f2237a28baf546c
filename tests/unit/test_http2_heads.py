from types import SimpleNamespace

import pytest

from server.transports.http2.frames import ConnectionFault, ErrorCode
from server.transports.http2.heads import Heads
from server.transports.http2.hpack import encode_indexed, encode_plain, integer

CALL = [
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/t.S/M"),
    (b"te", b"trailers"),
    (b"content-type", b"application/grpc"),
]


PATIENT, SHEDDABLE = SimpleNamespace(shedder=None), SimpleNamespace(shedder="a shedder")


@pytest.fixture
def heads():
    return Heads({"/t.S/M": PATIENT, "/t.S/Shed": SHEDDABLE}.get, limit=8192)


def known(heads):
    return sum(map(len, heads._known)) + sum(len(value) for alike in heads._alike for _, value in alike)


def test_the_same_bytes_are_read_once(heads):
    block = encode_plain(CALL)

    assert heads.read(block) is heads.read(block)


def test_the_same_bytes_mean_something_else_once_the_table_has_changed(heads):
    block = b"\x83\x86" + integer(62, 7, 0x80) + encode_plain(CALL[3:])
    heads.read(encode_indexed([(b":path", b"/t.S/Other"), (b":path", b"/t.S/M")]))
    before = heads.read(block)
    heads.read_trailers(encode_indexed([(b":path", b"/t.S/New")]))

    assert (before.method, heads.read(block).method) == ("/t.S/M", "/t.S/New")


def test_calls_that_differ_in_their_deadline_only_share_the_rest(heads):
    one, other, none = (
        heads.read(encode_plain([*CALL, *more]))
        for more in ([(b"grpc-timeout", b"1S")], [(b"grpc-timeout", b"20m")], [])
    )

    assert (one.timeout, other.timeout, none.timeout) == (1.0, 0.02, None)
    assert one.route is other.route is none.route is PATIENT
    assert len(heads._alike) == 1


def test_only_calls_with_a_deadline_and_of_a_method_that_says_how_are_shed(heads):
    def hurry(path, *more):
        return heads.read(encode_plain([*CALL[:2], (b":path", path), *CALL[3:], *more])).hurry

    assert hurry(b"/t.S/Shed", (b"grpc-timeout", b"20m")) == 0.02
    assert hurry(b"/t.S/Shed") is None
    assert hurry(b"/t.S/M", (b"grpc-timeout", b"20m")) is None


def test_a_deadline_before_http2s_own_fields_is_as_malformed_as_any_other_field_there(heads):
    assert heads.read(encode_plain([(b"grpc-timeout", b"1S"), *CALL])).malformed
    assert heads.read(encode_plain([*CALL[:2], (b"grpc-timeout", b"1S"), *CALL[2:]])).malformed


def test_what_is_remembered_of_a_connection_is_bounded(heads):
    for number in range(2000):
        heads.read(encode_plain([*CALL, (b"x", b"%d" % number + b"y" * 900)]))
        heads.read(encode_plain([*CALL, (b"x", b"%d" % number + b"y" * 60_000)]))

    assert known(heads) < 1 << 20


def test_a_block_that_cannot_be_decoded_ends_the_connection(heads):
    with pytest.raises(ConnectionFault) as damaged:
        heads.read(b"\xff\xff\xff\xff\xff\xff\xff")
    with pytest.raises(ConnectionFault) as large:
        Heads(lambda _: None, limit=10).read(encode_plain([(b"x", b"y" * 70_000)]))

    assert (damaged.value.code, large.value.code) == (ErrorCode.COMPRESSION_ERROR, ErrorCode.ENHANCE_YOUR_CALM)
