"""What every transport promises (server/transports/base.py) about unary calls, with unmodified gRPC clients."""

import asyncio
import statistics
import threading
import time

import grpc
import grpc.aio
import pytest

from server.transports.base import Fast, StatusCode, StatusError, Unary
from tests.transports import EVERY_KIND, End, echo, end_of, eventually, serving, within_reason

pytestmark = EVERY_KIND
INTERNAL = End(grpc.StatusCode.INTERNAL, "internal error")


async def double(_, message):
    return message * 2


@pytest.mark.parametrize("message", [b"", b"x", b"hello" * 1000], ids=["empty", "byte", "5k"])
async def test_a_fast_and_a_slow_method_answer_an_aio_client(kind, message):
    async with serving(kind, {"/t.S/Fast": Fast(echo), "/t.S/Slow": Unary(double)}) as server, server.channel() as c:
        assert message == await c.unary_unary("/t.S/Fast")(message)
        assert message * 2 == await c.unary_unary("/t.S/Slow")(message)


async def test_a_blocking_client_is_served_as_well(kind):
    def ask(target):
        with grpc.insecure_channel(target) as channel:
            return channel.unary_unary("/t.S/Fast")(b"sync", timeout=10)

    async with serving(kind, {"/t.S/Fast": Fast(echo)}) as server:
        assert await asyncio.to_thread(ask, server.target) == b"sync"


async def test_metadata_arrives_in_lower_case_with_its_bytes(kind):
    seen = []

    def look(call, _):
        seen.append((call.method, dict(call.metadata), call.peer))
        call.reply(b"")

    async with serving(kind, {"/t.S/Fast": Fast(look)}) as server, server.channel() as c:
        await c.unary_unary("/t.S/Fast")(b"", metadata=(("x-text", "a b"), ("x-raw-bin", b"\x00\xff")))

    method, metadata, peer = seen[0]
    assert method == "/t.S/Fast"
    assert metadata["x-text"] == "a b"
    assert metadata["x-raw-bin"] == b"\x00\xff"
    assert peer.startswith("ipv4:127.0.0.1:")


STATUS = StatusError(StatusCode.RESOURCE_EXHAUSTED, "später", (("grpc-retry-pushback-ms", "50"), ("why-bin", b"\x01")))


async def refuse(*_):
    raise STATUS


@pytest.mark.parametrize(
    "method",
    [Fast(lambda call, _: call.fail(STATUS.code, STATUS.details, STATUS.trailers)), Unary(refuse)],
    ids=["fast", "slow"],
)
async def test_a_status_arrives_with_details_and_trailers(kind, method):
    async with serving(kind, {"/t.S/M": method}) as server, server.channel() as c:
        end = await end_of(c.unary_unary("/t.S/M")(b""))

    assert end.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert end.details == "später"
    assert set(end.trailers) == {("grpc-retry-pushback-ms", "50"), ("why-bin", b"\x01")}


async def test_the_handler_sees_the_deadline_and_its_absence(kind):
    seen = []

    def look(call, _):
        seen.append(call.deadline and call.deadline - time.monotonic())
        call.reply(b"")

    async with serving(kind, {"/t.S/Fast": Fast(look)}) as server, server.channel() as c:
        await c.unary_unary("/t.S/Fast")(b"")
        await c.unary_unary("/t.S/Fast")(b"", timeout=5)

    assert seen[0] is None
    assert 4 < seen[1] < 5.1


async def test_a_cancellation_reaches_the_handler_within_100_ms(kind):
    async def once(c):
        asking = c.unary_unary("/t.S/Fast")(b"")
        await eventually(lambda: waiting, "the call to arrive")
        asking.cancel()
        cancelled = time.monotonic()
        await eventually(lambda: gone, "on_cancel to be called")
        waiting.clear()
        return gone.pop() - cancelled

    waiting, gone = [], []

    def wait(call, _):
        call.on_cancel(lambda: gone.append(time.monotonic()))
        waiting.append(call)

    async with serving(kind, {"/t.S/Fast": Fast(wait)}) as server, server.channel() as c:
        delays = [await once(c) for _ in range(5)]

    assert statistics.median(delays) <= 0.1


async def test_a_missed_deadline_is_a_cancellation(kind):
    gone = threading.Event()
    method = Fast(lambda call, _: call.on_cancel(gone.set))
    async with serving(kind, {"/t.S/Fast": method}) as server, server.channel() as c:
        end = await end_of(c.unary_unary("/t.S/Fast")(b"", timeout=0.03))
        await eventually(gone.is_set, "on_cancel to be called")

    assert end.code is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_callback_given_after_the_caller_left_is_called_at_once(kind):
    calls, told = [], []

    def wait(call, _):
        call.on_cancel(lambda: told.append("first"))
        calls.append(call)

    async with serving(kind, {"/t.S/Fast": Fast(wait)}) as server, server.channel() as c:
        await end_of(c.unary_unary("/t.S/Fast")(b"", timeout=0.03))
        await eventually(lambda: told, "the first callback")
        calls[0].on_cancel(lambda: told.append("late"))

    assert told == ["first", "late"]


async def test_an_answer_to_a_caller_who_left_is_ignored(kind):
    calls, gone = [], threading.Event()

    def wait(call, _):
        call.on_cancel(gone.set)
        calls.append(call)

    async with serving(kind, {"/t.S/Wait": Fast(wait), "/t.S/Echo": Fast(echo)}) as server, server.channel() as c:
        await end_of(c.unary_unary("/t.S/Wait")(b"", timeout=0.03))
        await eventually(gone.is_set, "on_cancel to be called")
        calls[0].reply(b"too late")
        calls[0].fail(StatusCode.INTERNAL, "too late")

        assert await c.unary_unary("/t.S/Echo")(b"still here") == b"still here"


async def test_only_the_first_answer_counts_and_nobody_is_told_of_a_cancellation(kind):
    told = []

    def twice(call, _):
        call.on_cancel(lambda: told.append("gone"))
        call.reply(b"first")
        call.reply(b"second")
        call.fail(StatusCode.INTERNAL, "third")

    async with serving(kind, {"/t.S/Fast": Fast(twice)}) as server, server.channel() as c:
        answers = [await c.unary_unary("/t.S/Fast")(b"") for _ in range(3)]

    assert answers == [b"first"] * 3
    assert told == []


async def test_a_thousand_calls_are_answered_from_another_thread(kind):
    waiting, everybody_is_here = [], threading.Event()

    def wait(call, message):
        waiting.append((call, message))
        if len(waiting) == 1000:
            everybody_is_here.set()

    def answer_all():
        assert everybody_is_here.wait(20)
        for call, message in reversed(waiting):
            call.reply(message)

    thread = threading.Thread(target=answer_all)
    thread.start()
    async with serving(kind, {"/t.S/Fast": Fast(wait)}) as server, server.channel() as c:
        method = c.unary_unary("/t.S/Fast")
        numbers = [str(number).encode() for number in range(1000)]
        answers = await within_reason(asyncio.gather(*(method(number) for number in numbers)))
    thread.join()

    assert answers == numbers


async def crash(*_):
    raise LookupError("/etc/secret")


def crash_now(*_):
    raise LookupError("/etc/secret")


async def leak_a_cancellation(*_):
    raise asyncio.CancelledError


@pytest.mark.parametrize("method", [Fast(crash_now), Unary(crash), Unary(leak_a_cancellation)])
async def test_a_handler_that_raises_ends_its_call_without_a_word_about_why(kind, method):
    async with serving(kind, {"/t.S/M": method}) as server, server.channel() as c:
        assert await end_of(c.unary_unary("/t.S/M")(b"")) == INTERNAL


@pytest.mark.parametrize("trailers", [(("Upper", "x"),), (("a", 1),)], ids=["key", "value"])
async def test_trailers_that_cannot_be_sent_end_the_call_all_the_same(kind, trailers):
    method = Fast(lambda call, _: call.fail(StatusCode.NOT_FOUND, "no", trailers))
    async with serving(kind, {"/t.S/M": method}) as server, server.channel() as c:
        assert (await end_of(c.unary_unary("/t.S/M")(b"", timeout=10))).code is grpc.StatusCode.INTERNAL


async def test_an_unknown_method_is_unimplemented(kind):
    async with serving(kind, {"/t.S/M": Fast(echo)}) as server, server.channel() as c:
        for path in ("/t.S/Other", "/", "/a/b/c"):
            assert await end_of(c.unary_unary(path)(b"")) == End(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")


async def test_a_slow_handlers_task_is_cancelled_when_the_caller_leaves(kind):
    log = []

    async def sleep(*_):
        log.append("began")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            log.append("cancelled")
            raise

    async with serving(kind, {"/t.S/Slow": Unary(sleep)}) as server, server.channel() as c:
        asking = c.unary_unary("/t.S/Slow")(b"")
        await eventually(lambda: log, "the handler to begin")
        asking.cancel()
        await eventually(lambda: len(log) == 2, "the handler to be cancelled")

    assert log == ["began", "cancelled"]
