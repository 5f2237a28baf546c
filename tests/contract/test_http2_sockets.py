"""Callers at the end of bad lines, or bad ones: who do not read, read slowly, hang up in the midst, come and go."""

import socket
from dataclasses import replace

import psutil
import pytest

from server.transports.base import Fast, Streaming
from tests.http2.frames import (
    BIG,
    CHAT,
    DATA,
    ECHO,
    HEADERS,
    HOLD,
    INITIAL_WINDOW,
    NONE,
    OK,
    PREFACE,
    WINDOW,
    raw,
    request,
    reset,
)
from tests.http2.host import hosted, wait_for
from tests.transports import DEFAULTS, frame

MIB = 1 << 20
ANSWER = bytes(MIB)
"""One for all calls, so that memory grows by what the transport keeps of it."""


def megabyte(call, _):
    call.reply(ANSWER)


def small_buffers(plain):
    """Keep the kernel from holding much of what is not read."""
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
    return plain


def open_files():
    return psutil.Process().num_fds()


def test_answers_that_are_not_read_are_not_kept_twice():
    """100 MB of answers, and windows for all of it."""
    wide = (INITIAL_WINDOW, (1 << 31) - 1)
    with hosted(Megabyte=Fast(megabyte)) as host, host.connect(wide, wrap=small_buffers) as peer:
        peer.send(peer.grant(0, (1 << 31) - 1 - WINDOW))
        peer.until(lambda: peer.frames)
        before = psutil.Process().memory_info().rss
        streams = [peer.call("/t.S/Megabyte") for _ in range(100)]
        host.taken(peer)
        with host.busy():
            pass
        assert psutil.Process().memory_info().rss - before < 24 * MIB
        for stream in streams:
            assert len(peer.answer(stream).body) == MIB + 5
            peer.answers[stream].body.clear()


def test_a_streams_writer_waits_for_its_reader():
    sent = [0]

    async def pour(stream):
        for _ in range(200):
            await stream.send(ANSWER)
            sent[0] += 1

    with hosted(Pour=Streaming(pour)) as host, host.connect((INITIAL_WINDOW, (1 << 31) - 1)) as peer:
        peer.send(peer.grant(0, (1 << 31) - 1 - WINDOW))
        stream = peer.call("/t.S/Pour")
        wait_for(lambda: sent[0], "the first to be sent")
        with host.busy():
            pass
        assert sent[0] < 50
        peer.until(lambda: len(peer.answers[stream].body) > 60 * MIB)
        assert sent[0] >= 59
        peer.send(reset(stream))


def test_a_caller_that_reads_slowly_gets_everything():
    with hosted(Megabyte=Fast(megabyte)) as host, host.connect((INITIAL_WINDOW, 4 * MIB), wrap=small_buffers) as peer:
        peer.send(peer.grant(0, 4 * MIB))
        stream, reads = peer.call("/t.S/Megabyte"), []
        while not peer.answers[stream].over:
            peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
            reads.append(peer.read())
            if len(reads) % 16 == 0:
                host.check()

        assert peer.answers[stream].message == ANSWER


def close(peer):
    peer.close()


def abort(peer):
    peer.abort()


def half_close(peer):
    """Say that nothing more comes, and read on: to gRPC's core that is a caller who has gone, so it may be to us."""
    peer.end()
    peer.goaway()


@pytest.mark.parametrize("leave", [close, abort, half_close])
@pytest.mark.parametrize(
    "midst", ["a-call", "a-header-block", "a-message", "a-frame", "an-answer", "nothing", "preface"]
)
def test_a_caller_who_hangs_up_leaves_nothing_behind(host, leave, midst):
    host.held.calls.clear(), host.held.gone.clear()
    files = open_files()
    with host.connect(silent=midst == "preface") as peer:
        if midst == "a-call":
            peer.call(HOLD)
            wait_for(lambda: host.held.calls, "the call to arrive")
        elif midst == "a-header-block":
            peer.send(raw(HEADERS, NONE, 1, b"\x83"))
        elif midst == "a-message":
            peer.send(peer.headers(1, request(CHAT)), raw(DATA, NONE, 1, frame(bytes(10_000))[:5000]))
        elif midst == "a-frame":
            peer.send(peer.headers(1, request(CHAT)), raw(DATA, NONE, 1, frame(bytes(10_000)))[:5000])
        elif midst == "an-answer":
            peer.call(BIG, b"1000000")
            peer.until(lambda: any(answer.body for answer in peer.answers.values()))
        elif midst == "preface":
            peer.send(PREFACE[:10])
        host.taken(peer)
        if leave is half_close:
            for call in host.held.calls:
                call.reply(b"x")
        leave(peer)
        if leave is not half_close:
            wait_for(lambda: host.held.gone == host.held.calls, "the handler to be told")
    wait_for(lambda: open_files() <= files, "the socket to be closed")
    assert host.transport._loop._held.bytes == 0


@pytest.mark.parametrize("what", ["nothing", "a-preface", "a-call"])
def test_a_thousand_connections_come_and_go(what):
    with hosted(replace(DEFAULTS, max_connections=50)) as host:
        files = open_files()
        for number in range(1000):
            # a server that has not yet heard of those who left has no room for the next one
            wait_for(lambda: open_files() < files + 40, "connections to be closed")
            with host.connect(silent=what == "nothing") as peer:
                assert what != "a-call" or peer.ask(ECHO, str(number).encode()).status == OK
        wait_for(lambda: open_files() <= files, "every connection to be closed")


def test_connections_beyond_the_limit_are_closed_and_there_is_room_when_others_leave():
    with hosted(replace(DEFAULTS, max_connections=10)) as host:
        here = [host.connect() for _ in range(9)]
        assert all(peer.alive() for peer in here)
        assert not is_let_in(host)
        here.pop().close()
        wait_for(lambda: is_let_in(host), "room for one more")
        for peer in here:
            peer.close()


def is_let_in(host):
    with host.connect(silent=True) as peer:
        return peer.read() is not None
