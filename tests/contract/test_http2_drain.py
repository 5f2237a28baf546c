"""How the server says goodbye (RFC 9113, 6.8): first that it will, then to which calls it did; nobody loses a call."""

import asyncio
import time
from dataclasses import replace

import pytest
from h2.errors import ErrorCodes

from server.transports.base import Fast
from tests.http2.frames import BIG, CHAT, DATA, ECHO, GOAWAY, HOLD, NONE, OK, UNAVAILABLE, WINDOW, data, raw, request
from tests.http2.host import hosted, wait_for
from tests.transports import DEFAULTS, KINDS, WAIT, end_of, eventually, frame, serving, within_reason

LAST = (1 << 31) - 1
"""The stream of a GOAWAY that only announces another."""


def goaways(peer):
    return [one for one in peer.frames if one.type == GOAWAY]


def held(peer, host):
    """Send a call that is not answered yet."""
    before = len(host.held.calls)
    stream = peer.call(HOLD, b"x")
    wait_for(lambda: len(host.held.calls) > before, "the call to arrive")
    return stream


def test_calls_under_way_finish_and_the_connection_ends_with_the_last_of_them():
    with hosted(gone=True) as host, host.connect() as peer:
        stream = held(peer, host)
        draining = host.start(host.transport.drain(10))
        peer.until(lambda: goaways(peer) and goaways(peer)[-1].last_stream_id < LAST)
        assert not draining.done()
        host.held.calls[0].reply(b"finished")

        assert peer.answer(stream).message == b"finished"
        assert peer.goaway() is ErrorCodes.NO_ERROR
        assert [one.last_stream_id for one in goaways(peer)] == [LAST, stream]
        peer.close()
        draining.result(WAIT)


def test_a_call_that_crosses_the_announcement_is_served_or_certain_not_to_have_been():
    with hosted(gone=True) as host, host.connect() as peer:
        stream = held(peer, host)
        draining = host.start(host.transport.drain(10))
        peer.until(lambda: goaways(peer))
        late = peer.call(ECHO, b"crossing")
        host.held.calls[0].reply(b"finished")
        assert peer.answer(stream).message == b"finished"
        peer.goaway()

        answer = peer.answers[late]
        assert (
            (answer.ended and answer.message == b"crossing")
            or answer.reset is ErrorCodes.REFUSED_STREAM
            or goaways(peer)[-1].last_stream_id < late
        )
        peer.close()
        draining.result(WAIT)


def test_a_stream_begun_after_the_last_goaway_is_not_served():
    seen = []
    with hosted(gone=True, Look=Fast(lambda call, message: seen.append(message))) as host, host.connect() as peer:
        held(peer, host)
        draining = host.start(host.transport.drain(10))
        peer.until(lambda: goaways(peer) and goaways(peer)[-1].last_stream_id < LAST)
        late = peer.call("/t.S/Look", b"late")
        peer.pong()
        host.held.calls[0].reply(b"finished")
        peer.goaway()
        peer.close()
        draining.result(WAIT)

    assert peer.answers[late].reset in {None, ErrorCodes.REFUSED_STREAM}
    assert seen == []


def test_a_body_under_way_is_read_to_its_end_and_answered():
    with hosted(gone=True) as host, host.connect() as peer:
        stream = peer.stream()
        peer.send(peer.headers(stream, request(CHAT)), raw(DATA, NONE, stream, frame(b"one")[:3]))
        assert peer.pong()
        draining = host.start(host.transport.drain(10))
        peer.until(lambda: goaways(peer) and goaways(peer)[-1].last_stream_id < LAST)
        peer.send(raw(DATA, NONE, stream, frame(b"one")[3:]), data(stream, frame(b"two")))

        assert bytes(peer.answer(stream).body) == frame(b"one") + frame(b"two")
        assert peer.answer(stream).status == OK
        peer.close()
        draining.result(WAIT)


def test_an_answer_under_way_waits_for_its_windows():
    with hosted(gone=True) as host, host.connect() as peer:
        stream = peer.call(BIG, b"200000")
        peer.until(lambda: len(peer.answers[stream].body) == WINDOW)
        draining = host.start(host.transport.drain(10))
        peer.until(lambda: goaways(peer) and goaways(peer)[-1].last_stream_id < LAST)
        peer.send(peer.grant(0, 200_000), peer.grant(stream, 200_000))

        assert len(peer.answer(stream).message) == 200_000
        peer.close()
        draining.result(WAIT)


@pytest.mark.parametrize("waits", ["silent", "greeted", "deaf"])
def test_callers_who_do_not_cooperate_do_not_hold_up_the_end(waits):
    with hosted(gone=True) as host, host.connect(silent=waits == "silent") as peer:
        if waits != "silent":
            assert peer.alive()
        if waits == "deaf":
            held(peer, host)
        began = time.monotonic()
        host.start(host.transport.drain(0.3 if waits == "deaf" else 10)).result(WAIT)

        assert time.monotonic() - began < 5
        peer.goaway()


def test_what_is_left_after_the_grace_is_told():
    with hosted(gone=True) as host, host.connect() as peer:
        stream = held(peer, host)
        host.start(host.transport.drain(0.2)).result(WAIT)
        peer.goaway()

        assert host.held.gone == host.held.calls
        assert peer.answers[stream].status == UNAVAILABLE or peer.answers[stream].reset is not None


async def test_callers_notice_nothing_when_a_successor_shares_the_port():
    """A rolling restart under load: every call is answered, without a retry of the caller's own."""
    options = replace(DEFAULTS, reuse_port=True)
    served = {"old": 0, "new": 0}

    def methods(name):
        def handler(call, message):
            served[name] += 1
            call.reply(message)

        return {ECHO: Fast(handler)}

    async def load(channel):
        while served["new"] < 500:
            call = channel.unary_unary(ECHO)(b"x", wait_for_ready=True, timeout=WAIT)
            ends.append(await end_of(call))

    ends = []
    async with serving(KINDS["http2"], methods("old"), options) as old:
        channels = [old.channel() for _ in range(4)]
        callers = [asyncio.create_task(load(channel)) for channel in channels for _ in range(4)]
        await eventually(lambda: served["old"] > 300, "some load")
        successor = KINDS["http2"](methods("new"), options)
        await successor.start("127.0.0.1", old.port)
        await within_reason(old.transport.drain(10))
        await within_reason(asyncio.gather(*callers))
        await asyncio.gather(*(channel.close() for channel in channels))
        await successor.close()

    assert {end.code.name for end in ends} == {"OK"}
    assert len(ends) == served["old"] + served["new"]
