"""How a connection begins (RFC 9113, 3.4) and how its bytes may be cut (4.1)."""

from dataclasses import replace

import hpack
import pytest
from h2.errors import ErrorCodes
from hyperframe import frame as frames

from tests.http2.frames import (
    ACK,
    CONTINUATION,
    DATA,
    ECHO,
    ENABLE_PUSH,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    INITIAL_WINDOW,
    NONE,
    OK,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    SETTINGS,
    data,
    raw,
    request,
    reset,
    setting,
    update,
)
from tests.http2.host import hosted
from tests.transports import DEFAULTS, frame

HELLO = PREFACE + setting()


def conversation():
    """List the frames of a call among everything that must not disturb it."""
    peer = hpack.Encoder()
    block = peer.encode(request(ECHO, ("x-long", "y" * 40)))
    padded = bytes([3]) + block[:20] + bytes(3)
    body = frame(b"cut anywhere")
    return [
        HELLO,
        raw(SETTINGS, ACK, 0),
        raw(PRIORITY, NONE, 9, bytes(4) + b"\x10"),
        raw(HEADERS, PADDED, 1, padded),
        raw(CONTINUATION, NONE, 1, block[20:30]),
        raw(CONTINUATION, END_HEADERS, 1, block[30:]),
        raw(0xFA, 0xFF, 1, b"unknown"),
        setting((INITIAL_WINDOW, 70000), (0x4A4A, 1)),
        raw(DATA, PADDED, 1, bytes([5]) + body[:3] + bytes(5)),
        raw(DATA, NONE, 1),
        update(0, 10),
        update(1, 10),
        raw(DATA, NONE, 1, body[3:9]),
        raw(DATA, END_STREAM | PADDED, 1, bytes([0]) + body[9:]),
    ]


def answered(peer):
    return peer.answer(1).status == OK and peer.answer(1).message == b"cut anywhere"


@pytest.mark.parametrize(
    "start",
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\rX",
        b"pri * http/2.0\r\n\r\nsm\r\n\r\n",
        b"PRI * HTTP/2.1\r\n\r\nSM\r\n\r\n",
        b"\r\n" + PREFACE,
        PREFACE[12:] + bytes(12),
    ],
    ids=["last-byte", "lower-case", "version", "line-before", "half"],
)
def test_a_wrong_preface_ends_the_connection(host, start):
    with host.connect(silent=True) as peer:
        peer.send(start, setting(), bytes(50))

        assert peer.goaway() in {None, ErrorCodes.PROTOCOL_ERROR}


@pytest.mark.parametrize(
    "first",
    [raw(PING, NONE, 0, bytes(8)), raw(DATA, NONE, 0), update(0, 1), raw(0xFA, NONE, 0), reset(1)],
    ids=["ping", "data", "window-update", "unknown", "reset"],
)
def test_a_preface_without_settings_ends_the_connection(host, first):
    with host.connect(silent=True) as peer:
        peer.send(PREFACE, first, setting())

        assert peer.goaway() in {None, ErrorCodes.PROTOCOL_ERROR}


def test_the_server_begins_with_its_settings_and_acknowledges_the_clients(peer):
    assert peer.alive()

    first, *rest = peer.frames
    acknowledgements = [one for one in rest if isinstance(one, frames.SettingsFrame)]
    assert isinstance(first, frames.SettingsFrame)
    assert "ACK" not in first.flags
    assert ["ACK" in one.flags for one in acknowledgements] == [True]
    assert peer.theirs.get(ENABLE_PUSH, 0) == 0


def test_a_client_need_not_wait_for_the_server(host):
    with host.connect(silent=True) as peer:
        peer.send(*conversation())

        assert answered(peer)


def test_a_conversation_may_be_cut_anywhere(host):
    whole = b"".join(conversation())
    for cut in range(1, len(whole)):
        with host.connect(silent=True) as peer:
            peer.send(whole[:cut])
            host.taken(peer)
            peer.send(whole[cut:])

            assert answered(peer), f"cut after byte {cut}"


def test_a_conversation_may_come_byte_by_byte(host):
    with host.connect(silent=True) as peer:
        for byte in b"".join(conversation()):
            peer.send(bytes([byte]))
            host.taken(peer)

        assert answered(peer)


def test_many_calls_may_come_in_one_segment(peer):
    calls = [(peer.stream(), str(number).encode()) for number in range(100)]
    peer.send(*(peer.headers(stream, request()) + data(stream, frame(message)) for stream, message in calls))

    assert [peer.answer(stream).message for stream, _ in calls] == [message for _, message in calls]


@pytest.mark.parametrize(
    "start", [b"", PREFACE[:10], PREFACE, HELLO[:-1]], ids=["nothing", "half", "no-settings", "half-settings"]
)
def test_a_connection_that_does_not_get_going_is_closed(start):
    with hosted(replace(DEFAULTS, handshake_timeout=0.2)) as host, host.connect(silent=True) as peer:
        peer.send(start)

        assert peer.goaway() in {None, *ErrorCodes}


def test_a_connection_that_got_going_is_not_closed_by_the_handshakes_limit():
    with hosted(replace(DEFAULTS, handshake_timeout=0.1)) as host, host.connect() as peer:
        with host.connect(silent=True) as silent:
            silent.goaway()

        assert peer.alive()
