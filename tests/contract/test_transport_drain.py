"""What every transport promises (server/transports/base.py) about its end."""

import asyncio
import threading
import time

import grpc
import pytest

from server.transports.base import Fast, StatusCode, Streaming, Unary
from tests.transports import DEFAULTS, EVERY_KIND, WAIT, echo, end_of, eventually, serving, within_reason

pytestmark = EVERY_KIND
GONE = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
"""What the core answers to calls it does not accept any more: the second until its GOAWAY has reached the caller."""


class Later:
    """A fast method that answers 20 ms later from a thread of its own, and knows what it was given."""

    def __init__(self):
        self.accepted = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __call__(self, call, message):
        self.accepted += 1
        self._loop.call_soon_threadsafe(self._loop.call_later, 0.02, call.reply, message)


async def test_a_drain_under_load_finishes_every_call_that_was_accepted(kind):
    answered, refused = [], []

    async def load(channel):
        while True:
            end = await end_of(channel.unary_unary("/t.S/Later")(b"x", timeout=10))
            if end.code is not grpc.StatusCode.OK:
                refused.append(end)
                return
            answered.append(end)

    with Later() as later:
        async with serving(kind, {"/t.S/Later": Fast(later)}) as server:
            channels = [server.channel() for _ in range(4)]
            callers = [asyncio.create_task(load(channel)) for channel in channels for _ in range(8)]
            await eventually(lambda: len(answered) > 200, "some load")
            began = time.monotonic()
            await within_reason(server.transport.drain(10))
            took = time.monotonic() - began
            await within_reason(asyncio.gather(*callers))
            await asyncio.gather(*(channel.close() for channel in channels))

    assert later.accepted == len(answered)
    assert {end.code for end in refused} <= GONE
    assert took < 5


async def test_a_drain_lets_slow_methods_and_streams_finish(kind):
    may_finish, running = asyncio.Event(), []

    async def slow(_, message):
        running.append(message)
        await may_finish.wait()
        return message

    async def stream(one):
        running.append(b"")
        await may_finish.wait()
        await one.send(b"last word")

    methods = {"/t.S/Slow": Unary(slow), "/t.S/Stream": Streaming(stream)}
    async with serving(kind, methods) as server, server.channel() as c, server.channel() as late:
        answer = c.unary_unary("/t.S/Slow")(b"slow")
        words = c.unary_stream("/t.S/Stream")(b"")
        await eventually(lambda: len(running) == 2, "both to begin")
        draining = asyncio.create_task(server.transport.drain(10))
        refused = await end_of(late.unary_unary("/t.S/Slow")(b"late", timeout=5))
        assert not draining.done()
        may_finish.set()

        assert await within_reason(answer) == b"slow"
        assert await within_reason(words.read()) == b"last word"
        await within_reason(draining)
    assert refused.code is grpc.StatusCode.UNAVAILABLE
    assert len(running) == 2


@pytest.mark.parametrize("end", ["drain", "close"])
async def test_what_does_not_finish_in_time_is_cancelled(kind, end):
    calls, told = [], []

    def never(call, _):
        call.on_cancel(lambda: told.append("fast"))
        calls.append(call)

    async def forever(*_):
        calls.append(None)
        try:
            await asyncio.Event().wait()
        finally:
            told.append("task")

    methods = {"/t.S/Fast": Fast(never), "/t.S/Slow": Unary(forever), "/t.S/Stream": Streaming(forever)}
    async with serving(kind, methods) as server, server.channel() as c:
        asking = [c.unary_unary("/t.S/Fast")(b""), c.unary_unary("/t.S/Slow")(b""), c.unary_stream("/t.S/Stream")(b"")]
        await eventually(lambda: len(calls) == 3, "all to begin")
        began = time.monotonic()
        await within_reason(server.transport.drain(0.2) if end == "drain" else server.transport.close())
        took = time.monotonic() - began
        ends = [await end_of(call) for call in asking]
        for call in calls:
            if call is not None:
                call.fail(StatusCode.INTERNAL, "after everything is over")

    assert took < 2
    assert {end.code for end in ends} <= GONE
    assert sorted(told) == ["fast", "task", "task"]


async def test_closing_is_idempotent_whatever_came_before(kind):
    never_started = kind({}, DEFAULTS)
    await never_started.drain(1)
    await never_started.close()
    async with serving(kind, {"/t.S/Echo": Fast(echo)}) as server, server.channel() as c:
        assert await c.unary_unary("/t.S/Echo")(b"x") == b"x"
        await within_reason(asyncio.gather(server.transport.drain(5), server.transport.close()))
        await within_reason(server.transport.drain(5))
        await within_reason(server.transport.close())


async def test_the_port_is_free_again_after_the_end(kind):
    async with serving(kind, {"/t.S/Echo": Fast(echo)}) as server:
        await server.transport.drain(1)
        successor = kind({"/t.S/Echo": Fast(echo)}, DEFAULTS)

        assert await successor.start("127.0.0.1", server.port) == server.port
        await successor.close()


async def test_a_call_kept_after_its_answer_does_not_hold_up_the_end(kind):
    kept = []

    def keep(call, message):
        kept.append(call)
        call.reply(message)

    async with serving(kind, {"/t.S/Keep": Fast(keep)}) as server, server.channel() as c:
        for _ in range(10):
            await c.unary_unary("/t.S/Keep")(b"x")
        began = time.monotonic()
        await within_reason(server.transport.drain(10))

    assert time.monotonic() - began < 5
    assert kept[0].peer.startswith("ipv4:")
    assert kept[0].deadline is None


async def test_answers_given_while_the_transport_closes_harm_nobody(kind):
    calls, closing = [], threading.Event()

    def answer_all():
        assert closing.wait(WAIT)
        for call in calls:
            call.reply(b"x")

    for _ in range(5):
        calls.clear()
        closing.clear()
        thread = threading.Thread(target=answer_all)
        thread.start()
        method = Fast(lambda call, _: calls.append(call))
        async with serving(kind, {"/t.S/Wait": method}) as server, server.channel() as c:
            asking = [c.unary_unary("/t.S/Wait")(b"") for _ in range(300)]
            await eventually(lambda: len(calls) == 300, "every call to arrive")
            end = asyncio.create_task(server.transport.close())
            await asyncio.sleep(0)
            closing.set()
            await within_reason(end)
            ends = [await end_of(call) for call in asking]
        thread.join()

        assert {one.code for one in ends} <= {*GONE, grpc.StatusCode.OK}
