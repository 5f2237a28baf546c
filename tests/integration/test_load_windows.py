"""The load generator keeps within the windows of its peer, and its messages arrive whole; h2 counts."""

import pytest
from h2.errors import ErrorCodes
from h2.settings import SettingCodes

from tests.http2.scripted import goaway, played, sent
from tests.transports import frame as grpc_frame

OK, RESOURCE_EXHAUSTED = 0, 8
WINDOW = 65535
LARGE = bytes(range(256)) * 400
"""A message for which neither a stream nor a connection has a window at first."""


def test_messages_keep_within_the_window_of_the_connection():
    message = bytes(10_000)

    def script(caller):
        caller.greet()
        for _ in range(30):
            (stream,) = caller.calls(1)
            assert len(caller.bodies[stream]) == 10_005
            caller.answer(stream)
            caller.say()

    with played(script) as server:
        outcome = sent(server, 30, message)

    assert outcome.codes == {OK: 30}
    assert server.callers[0].most_open <= 6


@pytest.mark.parametrize("window", [1000, WINDOW, 1 << 20], ids=["tiny", "usual", "wide"])
def test_a_message_that_is_larger_than_a_window_arrives_whole(window):
    def script(caller):
        caller.greet({SettingCodes.INITIAL_WINDOW_SIZE: window})
        for _ in range(4):
            (stream,) = caller.calls(1)
            assert caller.bodies[stream] == grpc_frame(LARGE)
            caller.answer(stream)
            caller.say()

    with played(script) as server:
        outcome = sent(server, 4, LARGE)

    assert outcome.codes == {OK: 4}


def test_a_message_goes_on_when_the_server_allows_more_at_last():
    def script(caller):
        caller.greet()
        caller.grants = False
        stream = caller.received(WINDOW)
        caller.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 1 << 20})
        caller.h2.increment_flow_control_window(1 << 20)
        caller.say()

        assert caller.calls(1) == [stream]
        assert caller.bodies[stream] == grpc_frame(LARGE)
        caller.answer(stream)
        caller.say()

    with played(script) as server:
        outcome = sent(server, 1, LARGE)

    assert outcome.codes == {OK: 1}


@pytest.mark.parametrize("by_reset", [True, False])
def test_a_call_that_is_refused_in_the_middle_of_its_message_is_sent_no_further(by_reset):
    def script(caller):
        caller.greet()
        caller.grants = False
        first = caller.received(WINDOW)
        if by_reset:
            caller.h2.reset_stream(first, ErrorCodes.ENHANCE_YOUR_CALM)
        else:
            caller.refuse(first, RESOURCE_EXHAUSTED)
        caller.h2.increment_flow_control_window(WINDOW)
        caller.grants = True
        caller.say()
        (second,) = caller.calls(1)
        assert caller.bodies[second] == grpc_frame(LARGE)
        assert len(caller.bodies[first]) == WINDOW
        assert caller.was_reset(first) != by_reset, "a reset must not answer a reset"
        caller.answer(second)
        caller.say()

    with played(script) as server:
        outcome = sent(server, 2, LARGE)

    assert outcome.codes == {RESOURCE_EXHAUSTED: 1, OK: 1}


def test_a_server_that_leaves_gets_the_rest_of_the_message_it_is_reading():
    def leaves(caller):
        caller.greet()
        caller.grants = False
        stream = caller.received(WINDOW)
        caller.wait_for_ping(goaway(stream))
        caller.grants = True
        caller.h2.increment_flow_control_window(WINDOW)
        caller.h2.increment_flow_control_window(WINDOW, stream)
        caller.say()
        caller.answer(*caller.calls(1))
        caller.say()

    def goes_on(caller):
        caller.greet()
        caller.answer(*caller.calls(1))
        caller.say()

    with played(leaves, goes_on) as server:
        outcome = sent(server, 2, LARGE)

    assert outcome.codes == {OK: 2}
