"""gRPC's messages inside DATA: five bytes before each, cut anywhere, compressed or not, too large or cut off."""

import random
import struct
import zlib
from dataclasses import replace

import pytest

from server.transports.base import Streaming
from tests.http2.frames import (
    CHAT,
    DATA,
    ECHO,
    END_HEADERS,
    END_STREAM,
    INTERNAL,
    INVALID_ARGUMENT,
    NONE,
    OK,
    RESOURCE_EXHAUSTED,
    UNIMPLEMENTED,
    data,
    raw,
    request,
    reset,
)
from tests.http2.host import hosted, wait_for
from tests.transports import DEFAULTS, frame

GZIP = ("grpc-encoding", "gzip")


def send(peer, path, *parts, extra=(), end=True):
    """Send a call whose body comes in these DATA frames; return its stream."""
    number = peer.stream()
    peer.send(peer.headers(number, request(path, *extra)))
    for place, part in enumerate(parts):
        peer.send(raw(DATA, END_STREAM if end and place == len(parts) - 1 else NONE, number, part))
    return number


def unfinished(host):
    """Return how many bytes the server keeps of messages that are not complete."""
    return host.transport._loop._held.bytes


@pytest.fixture
def tidy(host):
    """A connection after which the server keeps nothing."""
    with host.connect() as peer:
        yield peer
    wait_for(lambda: unfinished(host) == 0, "what is left of messages to be forgotten")


@pytest.mark.parametrize("path", [ECHO, CHAT])
def test_a_message_may_be_cut_anywhere(tidy, path):
    body = frame(b"0123456789")
    for cut in range(len(body) + 1):
        assert tidy.answer(send(tidy, path, body[:cut], body[cut:])).message == b"0123456789"


@pytest.mark.parametrize("path", [ECHO, CHAT])
def test_a_message_may_come_byte_by_byte(tidy, path):
    body = frame(b"0123456789")
    number = send(tidy, path, *(bytes([byte]) for byte in body))

    assert tidy.answer(number).message == b"0123456789"


@pytest.mark.parametrize("path", [ECHO, CHAT])
def test_a_large_message_comes_in_many_frames(tidy, path):
    message = random.Random(1).randbytes(3 << 20)
    number = tidy.stream()
    tidy.send(tidy.headers(number, request(path)), tidy.grant(0, 4 << 20), tidy.grant(number, 4 << 20))
    tidy.upload(number, frame(message))

    assert tidy.answer(number).message == message


def test_the_end_may_come_in_a_frame_of_its_own(tidy):
    assert tidy.answer(send(tidy, ECHO, frame(b"x"), b"")).message == b"x"


def test_several_messages_of_a_stream_may_share_frames(tidy):
    body = b"".join(frame(bytes([number]) * number) for number in range(50))
    answer = tidy.answer(send(tidy, CHAT, body[:7], body[7:700], body[700:]))

    assert bytes(answer.body) == body
    assert answer.status == OK


@pytest.mark.parametrize(("path", "status"), [(ECHO, UNIMPLEMENTED), (CHAT, OK)])
def test_a_call_may_end_with_its_headers(tidy, path, status):
    number = tidy.stream()
    tidy.send(tidy.headers(number, request(path), END_HEADERS | END_STREAM))

    assert tidy.answer(number).status == status


@pytest.mark.parametrize("path", [ECHO, CHAT])
def test_a_message_may_not_end_with_trailers_in_its_midst(tidy, path):
    number = send(tidy, path, frame(b"0123456789")[:9], end=False)
    tidy.send(tidy.headers(number, [("x-checksum", "1")], END_HEADERS | END_STREAM))

    assert tidy.answer(number).status in {INTERNAL, INVALID_ARGUMENT, UNIMPLEMENTED}


WRONG = {
    "no-message": ([b""], (), {UNIMPLEMENTED, INTERNAL}),
    "half-a-prefix": ([b"\0\0\0"], (), {INTERNAL, INVALID_ARGUMENT, UNIMPLEMENTED}),
    "less-than-the-prefix-says": ([frame(b"0123456789")[:-1]], (), {INTERNAL, INVALID_ARGUMENT, UNIMPLEMENTED}),
    "less-in-two-frames": ([frame(bytes(100))[:50], b""], (), {INTERNAL, INVALID_ARGUMENT, UNIMPLEMENTED}),
    "compressed-without-an-encoding": ([frame(b"x", flags=1)], (), {INTERNAL}),
    "compressed-with-identity": ([frame(b"x", flags=1)], [("grpc-encoding", "identity")], {INTERNAL}),
    "unknown-encoding": ([frame(b"x", flags=1)], [("grpc-encoding", "br")], {UNIMPLEMENTED}),
    "unknown-encoding-not-used": ([frame(b"x")], [("grpc-encoding", "snappy")], {UNIMPLEMENTED, OK}),
    "unknown-flag": ([frame(b"x", flags=2)], (), {INTERNAL, UNIMPLEMENTED, OK}),
    "all-flags": ([frame(b"x", flags=255)], (), {INTERNAL, UNIMPLEMENTED}),
    "not-gzip": ([frame(b"not gzip", flags=1)], [GZIP], {INTERNAL, INVALID_ARGUMENT}),
    "gzip-cut-off": ([frame(zlib.compress(bytes(1000), wbits=31)[:-9], flags=1)], [GZIP], {INTERNAL, INVALID_ARGUMENT}),
    "nothing-as-gzip": ([frame(b"", flags=1)], [GZIP], {INTERNAL, INVALID_ARGUMENT, OK}),
}


@pytest.mark.parametrize("path", [ECHO, CHAT])
@pytest.mark.parametrize(("parts", "extra", "statuses"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_body_ends_its_own_call_only(tidy, path, parts, extra, statuses):
    answer = tidy.answer(send(tidy, path, *parts, extra=extra))

    assert answer.status in statuses | ({OK} if parts == [b""] and path == CHAT else set())
    assert tidy.alive()


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_compressed_and_plain_messages_may_alternate(tidy, encoding):
    packed = zlib.compress(b"again " * 1000, wbits=31 if encoding == "gzip" else 15)
    body = frame(packed, flags=1) + frame(b"plain") + frame(packed, flags=1)
    answer = tidy.answer(send(tidy, CHAT, body, extra=[("grpc-encoding", encoding)]))

    assert bytes(answer.body) == frame(b"again " * 1000) + frame(b"plain") + frame(b"again " * 1000)


@pytest.mark.parametrize("path", [ECHO, CHAT])
@pytest.mark.parametrize("length", [(16 << 20) + 1, (1 << 32) - 1])
def test_a_message_over_the_limit_is_refused_when_its_length_is_known(tidy, path, length):
    number = send(tidy, path, struct.pack(">BI", 0, length), end=False)

    assert tidy.answer(number).status == RESOURCE_EXHAUSTED
    tidy.send(data(number, bytes(100_000)))
    assert tidy.alive()


@pytest.mark.parametrize("path", [ECHO, CHAT])
def test_a_message_over_the_limit_that_came_whole_is_refused_as_well(path):
    with hosted(replace(DEFAULTS, max_receive_bytes=100)) as host, host.connect() as peer:
        assert peer.ask(path, bytes(100)).message == bytes(100)
        assert peer.ask(path, bytes(101)).status == RESOURCE_EXHAUSTED
        assert peer.ask(path, zlib.compress(bytes(101)), ("grpc-encoding", "deflate")).status == OK
        packed = frame(zlib.compress(bytes(101)), flags=1)
        number = send(peer, path, packed, extra=[("grpc-encoding", "deflate")])
        assert peer.answer(number).status == RESOURCE_EXHAUSTED
        wait_for(lambda: unfinished(host) == 0, "what is left of messages to be forgotten")


def test_a_stream_refused_in_its_midst_keeps_what_it_said_before(tidy):
    number = send(tidy, CHAT, frame(b"first"), end=False)
    tidy.until(lambda: tidy.answers[number].body)
    tidy.send(raw(DATA, END_STREAM, number, struct.pack(">BI", 0, 1 << 31)))
    answer = tidy.answer(number)

    assert answer.message == b"first"
    assert answer.trailers["grpc-status"] == RESOURCE_EXHAUSTED


@pytest.mark.parametrize("leave", ["reset", "close", "deadline"])
@pytest.mark.parametrize("path", [ECHO, CHAT])
def test_half_a_message_of_a_caller_who_left_is_forgotten(host, path, leave):
    with host.connect() as peer:
        extra = [("grpc-timeout", "50m")] if leave == "deadline" else []
        number = send(peer, path, frame(bytes(10_000))[:5000], end=False, extra=extra)
        wait_for(lambda: unfinished(host) >= 5000, "it to arrive")
        if leave == "reset":
            peer.send(reset(number))
        elif leave == "close":
            peer.close()
        wait_for(lambda: unfinished(host) == 0, "it to be forgotten")


async def ignore(_):
    return


def test_messages_that_a_handler_never_read_are_forgotten():
    with hosted(Ignore=Streaming(ignore)) as host, host.connect() as peer:
        for end in (True, False):
            number = send(peer, "/t.S/Ignore", frame(bytes(5000)), frame(bytes(5000)), end=end)
            assert peer.answer(number).status == OK

        wait_for(lambda: unfinished(host) == 0, "them to be forgotten")
