"""The life of a stream (RFC 9113, 5.1): what ends one, what is tolerated on one, and what must not disturb others."""

import itertools
import struct
from dataclasses import replace

import pytest
from h2.errors import ErrorCodes

from tests.http2.frames import (
    ACK,
    CONTINUATION,
    DATA,
    ECHO,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    HOLD,
    NONE,
    OK,
    PADDED,
    PING,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    UNIMPLEMENTED,
    WINDOW_UPDATE,
    WITH_PRIORITY,
    data,
    raw,
    request,
    reset,
    update,
)
from tests.http2.host import hosted, wait_for
from tests.transports import DEFAULTS, frame

PROTOCOL, CLOSED, FRAME_SIZE = ErrorCodes.PROTOCOL_ERROR, ErrorCodes.STREAM_CLOSED, ErrorCodes.FRAME_SIZE_ERROR
FLOW, REFUSED = ErrorCodes.FLOW_CONTROL_ERROR, ErrorCodes.REFUSED_STREAM
OPEN, HALF_CLOSED = NONE, END_STREAM
SELF = struct.pack(">IB", 1, 16)
"""A priority that says stream 1 depends on itself: an error once, meaningless since RFC 9113."""

CASES = {
    "window-update-by-0": ({PROTOCOL}, OPEN, lambda peer: update(1, 0)),
    "window-update-by-0-half-closed": ({PROTOCOL}, HALF_CLOSED, lambda peer: update(1, 0)),
    "window-update-overflow": ({FLOW}, OPEN, lambda peer: update(1, (1 << 31) - 1)),
    "window-update-overflow-half-closed": ({FLOW}, HALF_CLOSED, lambda peer: update(1, (1 << 31) - 1)),
    "priority-of-4-bytes": ({FRAME_SIZE}, OPEN, lambda peer: raw(PRIORITY, NONE, 1, bytes(4))),
    "padding-as-long-as-the-frame": ({PROTOCOL}, OPEN, lambda peer: raw(DATA, PADDED, 1, b"\5abcd")),
    "padding-without-a-length": ({PROTOCOL, FRAME_SIZE}, OPEN, lambda peer: raw(DATA, PADDED, 1)),
    "large-data": ({FRAME_SIZE}, OPEN, lambda peer: raw(DATA, NONE, 1, bytes(16385))),
    "data-after-the-end": ({CLOSED}, HALF_CLOSED, lambda peer: raw(DATA, NONE, 1, b"x")),
    "no-data-after-the-end": ({CLOSED}, HALF_CLOSED, lambda peer: raw(DATA, END_STREAM, 1)),
    "headers-after-the-end": ({CLOSED}, HALF_CLOSED, lambda peer: peer.headers(1, request())),
    "trailers-after-the-end": ({CLOSED}, HALF_CLOSED, lambda peer: peer.headers(1, [("a", "b")], 5)),
    "continuation-after-the-end": ({CLOSED, PROTOCOL}, HALF_CLOSED, lambda peer: raw(CONTINUATION, 4, 1)),
    "headers-twice": ({PROTOCOL}, OPEN, lambda peer: peer.headers(1, request())),
    "trailers-without-the-end": ({PROTOCOL}, OPEN, lambda peer: peer.headers(1, [("a", "b")])),
    "trailers-with-a-pseudo-header": ({PROTOCOL}, OPEN, lambda peer: peer.headers(1, [(":path", "/")], 5)),
    "trailers-in-upper-case": ({PROTOCOL}, OPEN, lambda peer: peer.headers(1, [("A", "b")], 5)),
}


def hold(peer, host, flags=HALF_CLOSED, *, number=None):
    """Start a call that is not answered; return its stream."""
    number = number or peer.stream()
    before = len(host.held.calls)
    peer.send(peer.headers(number, request(HOLD)), data(number, frame(b"x"), flags))
    if flags == HALF_CLOSED:
        wait_for(lambda: len(host.held.calls) > before, "the call to arrive")
    return number


def release(host):
    """Answer every call that is held."""
    for call in host.held.calls:
        call.reply(b"held")
    host.held.calls.clear()
    host.held.gone.clear()


@pytest.mark.parametrize(("codes", "state", "wrong"), CASES.values(), ids=CASES.keys())
def test_a_mistake_on_a_stream_ends_it_and_its_call(peer, host, codes, state, wrong):
    release(host)
    number = hold(peer, host, state)
    peer.send(wrong(peer))

    assert peer.verdict(number) in codes
    assert peer.gone or peer.alive()
    wait_for(lambda: host.held.gone == host.held.calls, "the call to be cancelled")


TOLERATED = {
    "priority": lambda peer: raw(PRIORITY, NONE, 1, struct.pack(">IB", 0, 255)),
    "exclusive-priority-of-an-idle-stream": lambda peer: raw(PRIORITY, NONE, 77, struct.pack(">IB", 1 | 1 << 31, 0)),
    "priority-of-an-even-stream": lambda peer: raw(PRIORITY, NONE, 2, bytes(5)),
    "window-update": lambda peer: update(1, 1),
    "window-update-with-the-reserved-bit": lambda peer: update(1, 1 | 1 << 31),
    "an-unknown-frame": lambda peer: raw(0xFA, 0xFF, 1, b"x" * 100),
    "an-empty-unknown-frame-on-an-idle-stream": lambda peer: raw(0xFA, NONE, 99),
    "unknown-flags": lambda peer: raw(WINDOW_UPDATE, 0xFF, 1, b"\0\0\0\1") + raw(PING, 0xFE, 0, bytes(8)),
    "a-reserved-bit": lambda peer: raw(PING, NONE, 1 << 31, bytes(8)),
    "an-answer-to-no-ping": lambda peer: raw(PING, ACK, 0, bytes(8)),
    "goaway": lambda peer: raw(GOAWAY, NONE, 0, bytes(8)),
    "goaway-for-a-reason-nobody-knows": lambda peer: raw(GOAWAY, NONE, 0, bytes(4) + b"\0\0\0\xff" + b"why" * 30),
    "a-second-goaway": lambda peer: 2 * raw(GOAWAY, NONE, 0, bytes(8)),
    "acknowledged-settings": lambda peer: raw(SETTINGS, ACK, 0),
}


@pytest.mark.parametrize("odd", TOLERATED.values(), ids=TOLERATED.keys())
def test_what_is_only_odd_disturbs_no_call(peer, host, odd):
    release(host)
    number = hold(peer, host)
    peer.send(odd(peer))
    assert peer.pong()
    release(host)

    assert peer.answer(number).message == b"held"


def test_a_stream_that_depends_on_itself_is_served_or_refused(peer):
    number = peer.stream()
    peer.send(raw(HEADERS, END_HEADERS | WITH_PRIORITY, number, SELF + peer.encoder.encode(request())))
    peer.send(data(number, frame(b"x")))

    assert peer.answer(number).status == OK or peer.verdict(number) == PROTOCOL


def test_padding_and_priority_of_headers_are_skipped(peer):
    number = peer.stream()
    block = peer.encoder.encode(request())
    peer.send(raw(HEADERS, 0x2C, number, bytes([255]) + struct.pack(">IB", 0, 1) + block + bytes(255)))
    peer.send(data(number, frame(b"x")))

    assert peer.answer(number).message == b"x"


def test_trailers_of_a_caller_end_its_request(peer):
    number = peer.stream()
    peer.send(peer.headers(number, request()), data(number, frame(b"x"), NONE))
    peer.send(peer.headers(number, [("x-checksum", "1")], END_HEADERS | END_STREAM))

    assert peer.answer(number).message == b"x"


@pytest.mark.parametrize("code", [ErrorCodes.CANCEL, ErrorCodes.NO_ERROR, 0xFFFF], ids=["cancel", "none", "unknown"])
def test_a_reset_tells_the_handler_and_nothing_is_said_on_the_stream_again(peer, host, code):
    release(host)
    number = hold(peer, host)
    peer.send(reset(number, code))
    wait_for(lambda: host.held.gone, "the handler to be told")
    assert host.held.gone == host.held.calls
    release(host)

    assert peer.alive()
    assert number not in {one.stream_id for one in peer.frames}


def test_a_caller_who_says_goaway_still_gets_its_answers(peer, host):
    release(host)
    number = hold(peer, host)
    peer.send(raw(GOAWAY, NONE, 0, bytes(8)))
    assert peer.pong()
    release(host)

    assert peer.answer(number).message == b"held"
    assert host.held.gone == []


def ended_by_an_answer(peer):
    number = peer.call(ECHO)
    peer.answer(number)
    return number


def ended_by_a_reset(peer):
    number = peer.stream()
    peer.send(peer.headers(number, request()), reset(number))
    return number


def ended_by_the_server(peer):
    number = peer.stream()
    peer.send(peer.headers(number, request()), update(number, 0))
    return number


@pytest.mark.parametrize("end", [ended_by_an_answer, ended_by_a_reset, ended_by_the_server])
@pytest.mark.parametrize(
    "late",
    [
        lambda peer, number: data(number, frame(bytes(1000))),
        lambda peer, number: peer.headers(number, [*request(), ("x-new", "entry")], 5),
        lambda peer, number: peer.headers(number, [("x-new", "trailer")], 5),
        lambda peer, number: update(number, 5),
        lambda peer, number: reset(number),
        lambda peer, number: raw(PRIORITY, NONE, number, bytes(5)),
    ],
    ids=["data", "headers", "trailers", "window-update", "reset", "priority"],
)
def test_what_comes_after_a_streams_end_is_ignored_or_refused(peer, end, late):
    number = end(peer)
    known = len(peer.frames)
    odd = late(peer, number)
    harmless = odd[3] in {WINDOW_UPDATE, RST_STREAM, PRIORITY} or end is ended_by_the_server
    peer.send(odd, peer.headers(101, request(ECHO, ("x-new", "entry"), ("x-new", "trailer"))), data(101, frame(b"x")))
    served = peer.answer(101).status == OK

    resets = {one.error_code for one in peer.frames[known:] if one.type == RST_STREAM and one.stream_id == number}
    assert resets <= {CLOSED, PROTOCOL}
    assert served or peer.goaway() in {CLOSED, PROTOCOL}
    assert served or not harmless


def test_streams_may_be_skipped_but_not_taken_up_again(peer):
    for number in (1, 5, 101, (1 << 31) - 3):
        peer.send(peer.headers(number, request()), data(number, frame(b"x")))
        assert peer.answer(number).message == b"x"
    peer.send(peer.headers(99, request()))

    assert peer.goaway() in {PROTOCOL, CLOSED}


def test_the_last_stream_of_all_is_served(peer):
    last = (1 << 31) - 1
    peer.send(peer.headers(last, request()), data(last, frame(b"x")))

    assert peer.answer(last).message == b"x"


def test_one_stream_too_many_is_refused_and_the_next_one_served():
    with hosted(replace(DEFAULTS, max_concurrent_streams=3)) as host, host.connect() as peer:
        peer.until(lambda: peer.frames)
        held = [hold(peer, host) for _ in range(3)]
        surplus = [peer.call(ECHO, b"x", ("x-new", str(number))) for number in range(5)]
        verdicts = {peer.verdict(number) for number in surplus}
        release(host)

        assert verdicts == {REFUSED}
        assert {peer.answer(number).message for number in held} == {b"held"}
        assert peer.ask(ECHO, b"next", *(("x-new", str(number)) for number in range(5))).message == b"next"


def test_a_stream_counts_until_both_sides_have_ended_it():
    with hosted(replace(DEFAULTS, max_concurrent_streams=2)) as host, host.connect() as peer:
        for number in itertools.islice(itertools.count(1, 2), 50):
            peer.send(peer.headers(number, request("/t.S/Unknown"), 5))
            assert peer.answer(number).status == UNIMPLEMENTED
        assert peer.send(peer.headers(201, request()), data(201, frame(b"x"))) is None

        assert peer.answer(201).message == b"x"
