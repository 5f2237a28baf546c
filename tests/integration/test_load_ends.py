"""How connections of the load generator end, and what became of the calls on them."""

import select
import time
from contextlib import closing

import pytest
from h2.errors import ErrorCodes
from h2.settings import SettingCodes

from server.load import connection as connections
from server.load.connection import Connection
from tests.http2 import frames as wire
from tests.http2.scripted import DEADLINE, goaway, load, played, sent
from tests.transports import WAIT

OK, UNAVAILABLE = 0, 14
CALL = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/a.B/C"), (b":authority", b"x")]


def test_a_server_that_leaves_gets_its_last_calls_answered_and_the_next_ones_go_elsewhere():
    """It may wait for the answer to a PING before it goes on, as gRPC's own servers do."""

    def leaves(caller):
        caller.greet({SettingCodes.MAX_CONCURRENT_STREAMS: 5})
        streams = caller.calls(5)
        caller.wait_for_ping(goaway(2**31 - 1), goaway(5))
        for stream in streams[:3]:
            caller.answer(stream)
        caller.say()
        caller.close()

    def goes_on(caller):
        caller.greet()
        for stream in caller.calls(4):
            caller.answer(stream)
        caller.say()

    with played(leaves, goes_on) as server:
        outcome = sent(server, 9)

    assert outcome.codes == {OK: 3 + 4, UNAVAILABLE: 2}


def test_an_answer_to_a_call_that_was_given_up_comes_too_late():
    def leaves(caller):
        caller.greet()
        one, other = caller.calls(2)
        caller.wait_for_ping(goaway(one))
        caller.answer(other)
        caller.answer(one)
        caller.say()

    with played(leaves) as server:
        outcome = sent(server, 2)

    assert outcome.codes == {OK: 1, UNAVAILABLE: 1}


def test_what_is_open_when_the_server_is_gone_was_unavailable():
    def goes(caller):
        caller.greet()
        streams = caller.calls(5)
        for stream in streams[:2]:
            caller.answer(stream)
        caller.say()
        caller.close()

    with played(goes) as server:
        outcome = sent(server, 5)

    assert outcome.codes == {OK: 2, UNAVAILABLE: 3}


def test_a_closed_loop_goes_on_with_a_server_that_is_back():
    def goes(caller):
        caller.greet()
        caller.calls(5)
        caller.close()

    def is_back(caller):
        caller.greet()
        caller.calls(5)
        caller.close()

    def serves(caller):
        caller.greet()
        caller.serve()

    with (
        played(goes, is_back, serves) as server,
        load(server) as generator,
    ):
        outcome = generator.closed_loop(5, 1.0)

    assert outcome.codes == {OK: outcome.sent - 10, UNAVAILABLE: 10}
    assert outcome.codes[OK] >= 5


def test_answers_are_heard_that_came_before_a_write_failed():
    def script(caller):
        caller.greet()
        caller.answer(*caller.calls(1))
        caller.say()
        caller.abort()

    with played(script) as server, closing(Connection(server.address, CALL, b"", DEADLINE)) as connection:
        connection.start([time.monotonic()], time.monotonic())
        connection.flush()
        reset = select.poll()
        reset.register(connection.socket, 0)
        assert reset.poll(WAIT * 1000), "the server's end did not arrive"
        connection.start([time.monotonic()], time.monotonic())
        connection.flush()

        assert (connection.leaving, connection.lost, connection.wants_to_write) == (True, False, False)
        assert [connection.receive(), connection.receive(), connection.open] == [1, 1, 0]
        assert connection.lost
        assert [status for _, _, status in connection.results()] == [OK, UNAVAILABLE]


def test_an_error_of_the_connection_ends_the_run_with_the_servers_words():
    def script(caller):
        caller.greet()
        caller.calls(2)
        caller.say(goaway(1, ErrorCodes.ENHANCE_YOUR_CALM, b"too_many_pings"))

    with played(script) as server, pytest.raises(ConnectionError, match="HTTP/2 error 11: too_many_pings"):
        sent(server, 2)


@pytest.mark.parametrize(
    ("kind", "body", "words"),
    [
        ("SETTINGS", b"12345", "cannot be read"),
        ("GOAWAY", b"1234", "cannot be read"),
        ("WINDOW_UPDATE", b"1", "cannot be read"),
        ("RST_STREAM", b"", "cannot be read"),
        ("PUSH_PROMISE", b"\0\0\0\2\x82", "in one frame"),
        ("CONTINUATION", b"\x82", "in one frame"),
        ("HEADERS", b"\x88", "in one frame"),
    ],
)
def test_a_frame_that_must_not_come_ends_the_run_with_words(kind, body, words):
    def script(caller):
        caller.greet()
        (stream,) = caller.calls(1)
        number = getattr(wire, kind)
        caller.socket.sendall(wire.raw(number, 0, stream if kind in {"RST_STREAM", "HEADERS"} else 0, body))

    with played(script) as server, pytest.raises(ConnectionError, match=words):
        sent(server, 1)


def test_a_server_that_never_greets_is_given_up(monkeypatch):
    monkeypatch.setattr(connections, "_PATIENCE", 0.1)
    with (
        played(lambda caller: caller.wait_for_end()) as server,
        pytest.raises(ConnectionError, match="speak HTTP/2 within 0 s"),
    ):
        sent(server, 1)


@pytest.mark.parametrize("words", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_a_server_that_closes_instead_of_greeting_is_no_server(words):
    def script(caller):
        caller.socket.sendall(words)
        caller.close()

    with played(script) as server, pytest.raises(ConnectionError, match="closed the connection before it greeted"):
        sent(server, 1)


@pytest.mark.parametrize("address", ["localhost", ":1", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:http", "h:-1"])
def test_an_address_that_is_none_is_refused_with_words(address):
    with pytest.raises(ConnectionError, match="host:port"):
        Connection(address, CALL, b"", DEADLINE)
