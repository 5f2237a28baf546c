"""What every transport promises about calls that their handler would only refuse (`server/transports/base.Shed`)."""

import asyncio

import grpc
import pytest

from server.transports.base import Fast, StatusCode, StatusError
from tests.transports import EVERY_KIND, End, end_of, eventually, serving, within_reason

pytestmark = EVERY_KIND
PUSHBACK = ("grpc-retry-pushback-ms", "50")
NO_ROOM = End(grpc.StatusCode.RESOURCE_EXHAUSTED, "no room", (PUSHBACK,))


class Method:
    """Refuses messages that begin with "full", echoes the others, and remembers everything."""

    status = StatusError(StatusCode.UNAVAILABLE, "never said here")

    def __init__(self):
        self.asked, self.handled, self.told = [], [], []
        self.recent = "something, perhaps"
        self.refused = self.counted = 0

    def refuse(self, message, seconds, metadata, waited):
        self.asked.append((message, seconds, waited, dict(metadata).get("x-who")))
        return Refusal(self) if message.startswith(b"full") else None

    def count(self, calls):
        """Hear of those shed by their headers, of which there are none, and that those refused want to be counted."""
        self.told.append(calls)
        self.counted, self.refused = self.counted + self.refused, 0

    def handle(self, call, message):
        self.handled.append(message)
        call.reply(message)


class Refusal:
    status = StatusError(StatusCode.RESOURCE_EXHAUSTED, "no room", (PUSHBACK,))
    alike = 4

    def __init__(self, method):
        self._method = method

    def count(self, calls):
        self._method.refused += calls


@pytest.fixture
def method():
    return Method()


async def test_a_refused_call_hears_so_is_counted_and_never_reaches_its_handler(kind, method):
    async with serving(kind, {"/t.S/M": Fast(method.handle, method)}) as server, server.channel() as c:
        call = c.unary_unary("/t.S/M")
        ends = [await end_of(call(b"full %d" % number, timeout=20)) for number in range(3)]
        welcome = await within_reason(call(b"welcome", timeout=20))
        await eventually(lambda: method.counted == 3, "the refused ones to be counted")

    assert ends == [NO_ROOM] * 3
    assert (welcome, method.handled) == (b"welcome", [b"welcome"])
    assert (method.refused, set(method.told)) == (0, {0})


async def test_calls_side_by_side_are_each_answered_and_counted_once(kind, method):
    messages = [(b"full" if number % 3 else b"welcome") + b" %d" % number for number in range(300)]
    async with serving(kind, {"/t.S/M": Fast(method.handle, method)}) as server, server.channel() as c:
        call = c.unary_unary("/t.S/M")
        ends = await within_reason(asyncio.gather(*(end_of(call(message, timeout=20)) for message in messages)))
        await eventually(lambda: method.counted == 200, "the refused ones to be counted")

    assert [end == NO_ROOM for end in ends] == [message.startswith(b"full") for message in messages]
    assert sorted(method.handled) == sorted(message for message in messages if message.startswith(b"welcome"))
    assert method.refused == 0


async def test_who_is_asked_is_told_the_message_the_time_left_and_who_calls(kind, method):
    async with serving(kind, {"/t.S/M": Fast(method.handle, method)}) as server, server.channel() as c:
        await end_of(c.unary_unary("/t.S/M")(b"full", timeout=20, metadata=(("x-who", "me"),)))

    assert {(message, who) for message, _, _, who in method.asked} == {(b"full", "me")}
    assert all(19 < seconds <= 20.1 for _, seconds, _, _ in method.asked)
    assert all(0 <= waited < 1 for _, _, waited, _ in method.asked)


async def test_a_call_without_a_deadline_is_handled_whatever_it_says(kind, method):
    async with serving(kind, {"/t.S/M": Fast(method.handle, method)}) as server, server.channel() as c:
        assert await within_reason(c.unary_unary("/t.S/M")(b"full")) == b"full"

    assert (method.handled, method.asked, method.told) == ([b"full"], [], [])


async def test_a_method_that_does_not_shed_hears_of_every_call(kind, method):
    async with serving(kind, {"/t.S/M": Fast(method.handle)}) as server, server.channel() as c:
        assert await within_reason(c.unary_unary("/t.S/M")(b"full", timeout=20)) == b"full"

    assert method.asked == []
