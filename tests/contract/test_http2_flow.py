"""Flow control (RFC 9113, 5.2 and 6.9): answers wait for windows, and what callers send is paid for.

That the server keeps within the windows is what `Peer` asserts with every DATA frame.
"""

import asyncio
from dataclasses import replace

import pytest
from h2.errors import ErrorCodes

from server.transports.base import Streaming
from tests.http2.frames import (
    BIG,
    CHAT,
    DATA,
    DEADLINE_EXCEEDED,
    ECHO,
    END_STREAM,
    HOLD,
    INITIAL_WINDOW,
    MAX_FRAME,
    NONE,
    OK,
    PADDED,
    UNIMPLEMENTED,
    WINDOW,
    raw,
    request,
    reset,
)
from tests.http2.host import hosted
from tests.transports import DEFAULTS, WAIT, frame

FLOW = ErrorCodes.FLOW_CONTROL_ERROR
LARGE = 300_000
MUCH = (1 << 31) - 1 - WINDOW
"""What opens a window that begins at 65535 as far as it goes."""


def ask_big(peer, size=LARGE):
    return peer.call(BIG, str(size).encode())


def received(peer, stream):
    """Return how much of an answer has come once everything that was sent before has been acted upon."""
    assert peer.pong()
    return len(peer.answers[stream].body)


@pytest.fixture
def patient():
    """A server that takes any number of pings, which is how a test waits until something does not come."""
    with hosted(replace(DEFAULTS, min_ping_interval=0.0)) as host:
        yield host


def test_an_answer_larger_than_the_windows_waits_and_arrives_complete(patient):
    with patient.connect() as peer:
        stream = ask_big(peer)
        assert received(peer, stream) == WINDOW
        peer.send(peer.grant(stream, LARGE))
        assert received(peer, stream) == WINDOW
        peer.send(peer.grant(0, 1))
        assert received(peer, stream) == WINDOW + 1
        peer.send(peer.grant(0, LARGE))

        assert peer.answer(stream).message == bytes(LARGE)
        assert peer.answer(stream).status == OK


@pytest.mark.parametrize("window", [0, 1, 5])
def test_a_tiny_window_is_filled_and_no_more(patient, window):
    with patient.connect((INITIAL_WINDOW, window)) as peer:
        stream = peer.call(ECHO, b"0123456789")
        assert received(peer, stream) == window
        for size in range(window + 1, 15):
            peer.send(peer.grant(stream, 1))
            assert received(peer, stream) == size
        peer.send(peer.grant(stream, 1))

        assert peer.answer(stream).message == b"0123456789"


def test_an_empty_answer_and_a_status_need_no_window(patient):
    with patient.connect((INITIAL_WINDOW, 0)) as peer:
        assert peer.ask("/t.S/Unknown").status == UNIMPLEMENTED


def test_settings_move_the_windows_of_open_streams_even_below_zero(patient):
    with patient.connect() as peer:
        peer.send(peer.grant(0, 10 * LARGE))
        stream = ask_big(peer)
        assert received(peer, stream) == WINDOW
        peer.settings((INITIAL_WINDOW, 0))
        peer.send(peer.grant(stream, WINDOW))
        assert received(peer, stream) == WINDOW
        peer.send(peer.grant(stream, 10))
        assert received(peer, stream) == WINDOW + 10
        peer.settings((INITIAL_WINDOW, 1000))
        assert received(peer, stream) == WINDOW + 1010
        peer.settings((INITIAL_WINDOW, 5), (INITIAL_WINDOW, LARGE))

        assert peer.answer(stream).message == bytes(LARGE)


def test_only_the_last_of_two_values_in_one_frame_counts(patient):
    with patient.connect((INITIAL_WINDOW, 100), (INITIAL_WINDOW, 3)) as peer:
        peer._ours[INITIAL_WINDOW] = 3

        assert received(peer, peer.call(ECHO, b"0123456789")) == 3


@pytest.mark.parametrize("limit", [16384, 20_000, (1 << 24) - 1])
def test_frames_are_no_larger_than_the_caller_takes(host, limit):
    with host.connect((MAX_FRAME, limit), (INITIAL_WINDOW, 1 << 30)) as peer:
        peer.send(peer.grant(0, MUCH))
        sizes = peer.answer(ask_big(peer, 3_000_000)).chunks

        assert sum(sizes) == 3_000_005
        assert max(sizes) <= limit


def test_large_answers_share_the_connections_window(host):
    with host.connect((INITIAL_WINDOW, 1 << 30)) as peer:
        streams = [ask_big(peer, 1 << 20) for _ in range(4)]
        peer.send(peer.grant(0, 2 << 20))
        peer.until(lambda: sum(len(peer.answers[stream].body) for stream in streams) == WINDOW + (2 << 20))
        shares = [len(peer.answers[stream].body) for stream in streams]
        peer.send(peer.grant(0, 4 << 20))

        assert min(shares) > 200_000
        assert all(peer.answer(stream).message == bytes(1 << 20) for stream in streams)


def test_an_answer_that_waits_for_its_stream_holds_nobody_up(host):
    with host.connect() as peer:
        peer.send(peer.grant(0, 10 * LARGE))
        stuck = ask_big(peer)
        peer.until(lambda: len(peer.answers[stuck].body) == WINDOW)

        assert [len(peer.ask(BIG, b"50000").message) for _ in range(5)] == [50_000] * 5
        assert not peer.answers[stuck].over


def test_an_answer_whose_caller_leaves_gives_its_place_to_others(host):
    with host.connect((INITIAL_WINDOW, 1 << 30)) as peer:
        abandoned = [ask_big(peer) for _ in range(5)]
        peer.until(lambda: peer._receivable == 0)
        stream = ask_big(peer, 100_000)
        peer.send(*(reset(one) for one in abandoned), peer.grant(0, 100_005))
        peer.until(lambda: peer._receivable == 0 or peer.answers[stream].over)
        peer.send(peer.grant(0, 100_005))

        assert peer.answer(stream).message == bytes(100_000)


def test_a_deadline_ends_an_answer_that_nobody_fetches(host):
    with host.connect((INITIAL_WINDOW, 10)) as peer:
        stream = peer.call(BIG, b"1000", ("grpc-timeout", "100m"))
        answer = peer.answer(stream)

        assert answer.reset is not None or answer.status == DEADLINE_EXCEEDED


def test_whatever_becomes_of_a_callers_bytes_their_window_is_given_back(host):
    """Of every kind more than any window holds; `upload` waits for the windows, so a leak is a timeout."""
    body = frame(bytes(60_000))
    with host.connect() as peer:
        for number in range(200):
            stream, path = peer.stream(), ("/t.S/Unknown", ECHO, HOLD, CHAT)[number % 4]
            peer.send(peer.headers(stream, request(path)))
            peer.upload(stream, body[: 60_000 if path in {HOLD, CHAT} else None], NONE if path in {HOLD, CHAT} else 1)
            if path == ECHO:
                peer.send(peer.grant(0, 60_005), peer.grant(stream, 1))
                peer.answer(stream)
            peer.send(b"" if path == ECHO else reset(stream))

        assert peer.alive()


def test_padding_counts_and_is_given_back(host):
    with host.connect() as peer:
        assert peer.alive()
        stream, size = peer.stream(), peer.sendable[0] // 257 + 1
        peer.send(peer.headers(stream, request()))
        for byte in frame(bytes(size)):
            peer.until(lambda: min(peer.sendable[0], peer.sendable[stream]) >= 257)
            peer.sendable[0] -= 257
            peer.sendable[stream] -= 257
            peer.send(raw(DATA, PADDED, stream, bytes([255, byte]) + bytes(255)))
        peer.send(raw(DATA, END_STREAM, stream))

        assert peer.answer(stream).message == bytes(size)


async def never_read(_):
    await asyncio.Event().wait()


def test_more_than_the_servers_window_ends_the_stream():
    with hosted(Never=Streaming(never_read)) as host, host.connect() as peer:
        stream, chunk = peer.stream(), frame(bytes(16379))
        peer.send(peer.headers(stream, request("/t.S/Never")))
        peer.socket.settimeout(1)  # a server may just as well not read on
        try:
            for _ in range(4000):
                peer.send(raw(DATA, NONE, stream, chunk))
        except (TimeoutError, ConnectionError):
            pass
        peer.socket.settimeout(WAIT)

        assert peer.verdict(stream) == FLOW
