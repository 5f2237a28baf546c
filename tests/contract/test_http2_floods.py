"""Callers who send cheap frames without end: they are slowed down or cut off, and nobody else notices.

Most have a CVE of 2019 or later; the worst keep a server writing answers that nobody reads.
"""

import contextlib
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import psutil
import pytest
from h2.errors import ErrorCodes

from tests.http2.frames import (
    ACK,
    BIG,
    CHAT,
    CONTINUATION,
    DATA,
    ECHO,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    HOLD,
    INITIAL_WINDOW,
    NONE,
    PADDED,
    PING,
    PRIORITY,
    SETTINGS,
    data,
    raw,
    request,
    reset,
    setting,
    update,
)
from tests.http2.host import hosted, wait_for
from tests.transports import DEFAULTS, WAIT, frame

MIB = 1 << 20


def resident():
    return psutil.Process().memory_info().rss


def blast(peer, piece, size):
    """Send a piece again and again, up to this many bytes, without reading, until the server has had enough."""
    chunk = piece * max(1, (64 << 10) // len(piece))
    peer.socket.settimeout(1)
    try:
        for _ in range(size // len(chunk)):
            peer.send(chunk)
    except (TimeoutError, ConnectionError):
        return
    finally:
        peer.socket.settimeout(WAIT)


def outcome(peer):
    """Read on; tell how it ended for the attacker: an error code, or None when the server serves it still."""
    peer.send(reset(1)) if peer.answers else None
    return None if peer.alive() else peer.goaway()


@pytest.fixture
def calm():
    """A server that minds no pings, so that nothing but the amount of them can stop them."""
    with hosted(replace(DEFAULTS, min_ping_interval=0.0)) as host:
        yield host


ANSWERED = {
    "pings": raw(PING, NONE, 0, bytes(8)),  # CVE-2019-9512
    "settings": setting((INITIAL_WINDOW, 5)),  # CVE-2019-9515
    "data-of-no-stream": raw(DATA, NONE, 1, b"x"),  # CVE-2019-9514
}


@pytest.mark.parametrize("piece", ANSWERED.values(), ids=ANSWERED.keys())
def test_who_does_not_read_the_answers_is_not_heard_for_ever(calm, piece):
    with calm.connect() as peer:
        peer.answer(peer.call(ECHO))
        before = resident()
        with calm.busy():
            blast(peer, piece, 24 * MIB)
        assert resident() - before < 16 * MIB


UNANSWERED = {
    "priority": raw(PRIORITY, NONE, 9, bytes(5)),
    "window-updates": update(0, 1),
    "window-updates-of-a-stream": update(1, 1),
    "unknown-frames": raw(0xFA, NONE, 0),
    "empty-data": raw(DATA, NONE, 1),  # CVE-2019-9518
    "padding": raw(DATA, PADDED, 1, b"\0"),
    "acknowledged-pings": raw(PING, ACK, 0, bytes(8)),
    "acknowledged-settings": raw(SETTINGS, ACK, 0),
    "goaways": raw(GOAWAY, NONE, 0, bytes(8)),
}


@pytest.mark.parametrize("piece", UNANSWERED.values(), ids=UNANSWERED.keys())
def test_frames_that_carry_nothing_cost_nobody_else_anything(host, piece):
    with host.connect() as peer:
        stream = peer.stream()
        peer.send(peer.headers(stream, request(CHAT)))
        before = resident()
        with host.busy():
            blast(peer, piece, 2 * MIB)
        assert resident() - before < 16 * MIB
        assert outcome(peer) in {None, ErrorCodes.ENHANCE_YOUR_CALM, ErrorCodes.PROTOCOL_ERROR}


def open_block(peer):
    stream = peer.stream()
    peer.send(raw(HEADERS, NONE, stream, peer.encoder.encode(request())[:5]))
    return stream


@pytest.mark.parametrize(
    "payload",
    [b"", b"\x83", b"\x83" * 16384, b"\x00\x01a\x7f\x81\x7f" + b"y" * 16378],
    ids=["none", "byte", "full", "y"],
)
def test_a_header_block_without_an_end_is_cut_off(host, payload):
    with host.connect() as peer:
        stream = open_block(peer)
        before = resident()
        with host.busy():
            blast(peer, raw(CONTINUATION, NONE, stream, payload), 32 * MIB)
        assert resident() - before < 16 * MIB
        assert peer.goaway() in {
            None,
            ErrorCodes.ENHANCE_YOUR_CALM,
            ErrorCodes.PROTOCOL_ERROR,
            ErrorCodes.COMPRESSION_ERROR,
        }


def test_streams_without_end_are_refused_and_their_resets_do_not_pile_up():
    """Opened and never ended, the 101st and all after it refused; the refusals are not read."""
    with hosted(replace(DEFAULTS, max_concurrent_streams=100)) as host, host.connect() as peer:
        block = peer.encoder.encode(request())
        small = peer.encoder.encode(request())
        peer.send(raw(HEADERS, END_HEADERS, peer.stream(), block))
        before = resident()
        with host.busy():
            peer.socket.settimeout(1)
            try:
                for _ in range(500):
                    peer.send(*(raw(HEADERS, END_HEADERS, peer.stream(), small) for _ in range(500)))
            except (TimeoutError, ConnectionError):
                pass
        assert resident() - before < 24 * MIB


def test_calls_that_their_caller_makes_the_server_reset_are_over():
    """CVE-2025-8671: each stream is opened and spoilt at once, so that it never counts as open."""
    with hosted() as host, host.connect() as peer:
        for _ in range(20):
            streams = [peer.stream() for _ in range(100)]
            peer.send(
                *(peer.headers(one, request(HOLD)) + data(one, frame(b"x")) + update(one, 0) for one in streams),
            )
            peer.until(lambda streams=streams: all(peer.answers[one].over for one in streams))
        wait_for(lambda: len(host.held.gone) == len(host.held.calls), "every handler to be told")

        assert peer.gone or peer.alive()


@pytest.mark.parametrize("path", [ECHO, HOLD, CHAT])
def test_whole_calls_that_are_reset_at_once_pile_up_nowhere(path):
    """CVE-2023-44487, with a message in each call, so that a handler would run for it."""
    with hosted() as host, host.connect() as peer:
        first, block = peer.headers(peer.stream(), request(path)), peer.encoder.encode(request(path))

        def attack():
            peer.send(first, reset(1))
            for _ in range(50):
                streams = [peer.stream() for _ in range(400)]
                peer.send(
                    *(raw(HEADERS, 4, one, block) + data(one, frame(b"x" * 50)) + reset(one) for one in streams),
                )

        with contextlib.suppress(ConnectionError):  # it may well have had enough
            assert slowest(host, attack) < 2
        wait_for(lambda: len(host.transport._loop._backlog) == 0, "nothing to be left to do")
        wait_for(lambda: len(host.held.gone) == len(host.held.calls), "every handler to be told")


def blocked(peer, streams=900):
    """Have many answers wait for a window."""
    peer.settings((INITIAL_WINDOW, 0))
    for _ in range(streams):
        peer.call(BIG, b"1000")
    peer.until(lambda: len(peer.answers) == streams)


def slowest(host, attack):
    """Return the longest that the honest caller waited while an attack went on, and somewhat beyond."""
    waits, enough = [], threading.Event()

    def call_on_and_on():
        while not enough.is_set() or len(waits) < 5:
            began = time.monotonic()
            host.check()
            waits.append(time.monotonic() - began)

    thread = threading.Thread(target=call_on_and_on)
    thread.start()
    attack()
    enough.set()
    thread.join()
    return max(waits)


@pytest.mark.parametrize(
    "piece",
    [update(0, 1), setting(*[(INITIAL_WINDOW, 0)] * 2700), setting(*[(INITIAL_WINDOW, 0), (INITIAL_WINDOW, 1)] * 1300)],
    ids=["the-connections", "the-streams", "back-and-forth"],
)
def test_windows_that_change_all_the_time_while_many_answers_wait_for_them(host, piece):
    with host.connect() as peer:
        blocked(peer)

        assert slowest(host, lambda: blast(peer, piece, MIB // 2)) < 2


def test_headers_that_are_all_different_are_not_remembered_for_ever(host):
    """32 MB of them, each within what a frame may have and four times as large as a call's may be."""
    before = resident()
    for _ in range(4):
        with host.connect() as peer:
            for number in range(256):
                value = struct.pack(">I", number).hex().encode() * 4080
                block = peer.encoder.encode(request()) + b"\x00\x01x\x7f\x81\x7e" + value[: 16384 - 256]
                stream = peer.stream()
                peer.send(raw(HEADERS, END_HEADERS | END_STREAM, stream, block[:16384]))
                if peer.answer(stream).status is None:
                    break
            assert resident() - before < 16 * MIB


def test_one_connection_with_very_many_calls_leaves_time_for_others(host):
    with host.connect() as peer, ThreadPoolExecutor(1) as pool:
        first = peer.headers(peer.stream(), request()) + data(1, frame(b"x"))
        block = peer.encoder.encode(request())
        streams = [peer.stream() for _ in range(5000)]
        calls = [raw(HEADERS, END_HEADERS, stream, block) + data(stream, frame(b"x")) for stream in streams]
        reading = pool.submit(peer.until, lambda: peer.answers[streams[-1]].over)

        assert slowest(host, lambda: peer.send(first, *calls)) < 2
        reading.result(WAIT)
