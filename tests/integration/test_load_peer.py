"""The load generator against a server that does what a script says, held to the rules by the h2 library: calls."""

import ssl
import time

import pytest
from h2.errors import ErrorCodes
from h2.events import SettingsAcknowledged
from h2.settings import SettingCodes

from server.load.generator import Generator
from tests.http2 import frames as wire
from tests.http2.scripted import DEADLINE, PATH, load, played, sent

OK, CANCELLED, DEADLINE_EXCEEDED, PERMISSION_DENIED, RESOURCE_EXHAUSTED, INTERNAL, UNAVAILABLE = 0, 1, 4, 7, 8, 13, 14


def test_calls_arrive_as_they_were_meant_and_each_answer_counts_once():
    def script(caller):
        caller.greet()
        for stream in caller.calls(30):
            if stream % 3:
                caller.answer(stream, b"well")
            else:
                caller.refuse(stream, RESOURCE_EXHAUSTED)
        caller.say()

    seen = []
    with (
        played(script) as server,
        load(server, b"body", metadata=[("key", "x")]) as generator,
    ):
        outcome = generator.open_loop([0.0] * 30, check=lambda *answer: seen.append(answer))
    (caller,) = server.callers

    assert outcome.codes == {OK: 20, RESOURCE_EXHAUSTED: 10}
    assert (outcome.sent, len(outcome.latencies), len(outcome.instants)) == (30, 20, 20)
    assert sorted(seen) == [(OK, b"well")] * 20 + [(RESOURCE_EXHAUSTED, b"")] * 10
    assert list(caller.requests) == list(range(1, 61, 2))
    assert set(caller.bodies.values()) == {b"\0\0\0\0\4body"}
    for headers in caller.requests.values():
        timeout = headers.pop("grpc-timeout")
        assert 0 < int(timeout.removesuffix("m")) <= DEADLINE * 1000
        assert headers == {
            ":method": "POST",
            ":scheme": "http",
            ":path": PATH,
            ":authority": server.address,
            "te": "trailers",
            "content-type": "application/grpc",
            "key": "x",
        }


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (ErrorCodes.REFUSED_STREAM, UNAVAILABLE),
        (ErrorCodes.CANCEL, CANCELLED),
        (ErrorCodes.ENHANCE_YOUR_CALM, RESOURCE_EXHAUSTED),
        (ErrorCodes.INADEQUATE_SECURITY, PERMISSION_DENIED),
        (ErrorCodes.PROTOCOL_ERROR, INTERNAL),
        (ErrorCodes.NO_ERROR, INTERNAL),
    ],
)
def test_a_reset_instead_of_an_answer_is_what_grpc_says_it_is(code, status):
    def script(caller):
        caller.greet()
        one, other = caller.calls(2)
        caller.h2.reset_stream(one, code)
        caller.answer(other)
        caller.say()

    with played(script) as server:
        outcome = sent(server, 2)

    assert outcome.codes == {OK: 1, status: 1}


def test_a_reset_at_the_deadline_is_the_deadline():
    """So gRPC's core ends a call whose deadline has passed."""

    def script(caller):
        caller.greet()
        (stream,) = caller.calls(1)
        over = time.monotonic() + 0.1
        while time.monotonic() < over:
            caller.wait_for_ping()
        caller.h2.reset_stream(stream, ErrorCodes.CANCEL)
        caller.say()

    seen = []
    with played(script) as server, load(server, deadline=0.1) as generator:
        outcome = generator.open_loop([0.0], check=lambda status, _: seen.append(status))

    assert outcome.codes == {DEADLINE_EXCEEDED: 1}
    assert seen == [DEADLINE_EXCEEDED]


@pytest.mark.parametrize("code", [ErrorCodes.NO_ERROR, ErrorCodes.CANCEL, ErrorCodes.REFUSED_STREAM])
def test_a_reset_behind_an_answer_changes_nothing(code):
    """Above all, it does not count as the end of another call that is still open."""

    def script(caller):
        caller.greet()
        one, *others, last = caller.calls(6)
        caller.answer(one)
        caller.say(wire.reset(one, code))
        for stream in others:
            caller.refuse(stream, RESOURCE_EXHAUSTED)
            caller.say(wire.reset(stream, code), wire.reset(stream, code))
        caller.wait_for_ping()
        caller.answer(last)
        caller.say()

    seen = []
    with (
        played(script) as server,
        load(server) as generator,
    ):
        outcome = generator.open_loop([0.0] * 6, check=lambda status, _: seen.append(status))

    assert outcome.codes == {OK: 2, RESOURCE_EXHAUSTED: 4}
    assert sorted(seen) == [OK, OK] + [RESOURCE_EXHAUSTED] * 4


def test_no_more_calls_are_open_than_the_server_allows_nor_a_table_used_that_it_does_not_keep():
    def script(caller):
        caller.greet({SettingCodes.MAX_CONCURRENT_STREAMS: 1, SettingCodes.HEADER_TABLE_SIZE: 0})
        for _ in range(20):
            caller.answer(*caller.calls(1))
            caller.say()

    with played(script) as server:
        outcome = sent(server, 20)
    (caller,) = server.callers

    assert outcome.codes == {OK: 20}
    assert caller.most_open == 1
    assert {headers[":path"] for headers in caller.requests.values()} == {PATH}


def test_a_closed_loop_keeps_as_many_calls_going_as_were_asked_for():
    def script(caller):
        caller.greet()
        for stream in caller.calls(7):
            caller.answer(stream)
        caller.say()
        caller.serve()

    with (
        played(script) as server,
        load(server) as generator,
    ):
        outcome = generator.closed_loop(7, 0.1)

    assert server.callers[0].most_open == 7
    assert outcome.codes == {OK: outcome.sent}
    assert outcome.sent >= 7


def test_a_table_given_up_in_the_middle_is_used_no_more():
    def script(caller):
        caller.greet({SettingCodes.MAX_CONCURRENT_STREAMS: 2})
        first = caller.calls(2)
        caller.h2.update_settings({SettingCodes.HEADER_TABLE_SIZE: 0})
        for stream in first:
            caller.answer(stream)
        caller.say()
        for _ in range(10):
            caller.answer(*caller.calls(1))
            caller.say()

    with played(script) as server:
        outcome = sent(server, 12)

    assert outcome.codes == {OK: 12}
    assert server.callers[0].h2.decoder.max_allowed_table_size == 0


def test_what_is_not_an_answers_business_is_acknowledged_or_passed_over():
    def script(caller):
        caller.greet()
        (stream,) = caller.calls(1)
        caller.wait_for_ping(
            wire.raw(0x0C, 0xFF, 0, b"of a type made up later"),
            wire.raw(wire.PRIORITY, 0, stream, bytes(5)),
            wire.update(stream, 5),
        )
        caller.h2.update_settings({SettingCodes.MAX_CONCURRENT_STREAMS: 5})
        caller.wait_for_ping()
        assert sum(isinstance(event, SettingsAcknowledged) for event in caller.events) == 2, "one for each SETTINGS"
        caller.answer(stream)
        caller.say()

    with played(script) as server:
        outcome = sent(server, 1)

    assert outcome.codes == {OK: 1}


def test_the_longest_timeout_is_the_longest_that_grpc_can_say():
    def script(caller):
        caller.greet()
        caller.serve()

    with played(script) as server:
        outcome = sent(server, 1, deadline=1e9)

    assert outcome.codes == {OK: 1}
    assert server.callers[0].requests[1]["grpc-timeout"] == "99999999m"


@pytest.mark.parametrize(("tls", "scheme"), [(None, b"http"), (ssl.create_default_context(), b"https")])
def test_the_scheme_says_whether_the_connection_is_secured(tls, scheme):
    assert (b":scheme", scheme) in Generator("127.0.0.1:1", PATH, b"", tls=tls)._headers
