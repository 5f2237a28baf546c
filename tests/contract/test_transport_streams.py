"""What every transport promises (server/transports/base.py) about streams."""

import asyncio
import threading

import grpc
import pytest

from server.transports.base import Fast, StatusCode, StatusError, Streaming
from tests.transports import (
    EVERY_KIND,
    WAIT,
    End,
    Raw,
    echo,
    end_of,
    eventually,
    frame,
    serving,
    settled,
    within_reason,
)

pytestmark = EVERY_KIND
OK = End(grpc.StatusCode.OK, "")
CHUNK = bytes(64 << 10)


async def chat(stream):
    async for message in stream:
        await stream.send(message)


async def test_messages_go_both_ways_one_by_one_until_the_caller_half_closes(kind):
    async with serving(kind, {"/t.S/Chat": Streaming(chat)}) as server, server.channel() as c:
        call = c.stream_stream("/t.S/Chat")()
        for message in (b"one", b"", b"three" * 10_000):
            await call.write(message)
            assert await within_reason(call.read()) == message
        await call.done_writing()

        assert await end_of(call) == OK


async def test_a_stream_of_answers_to_one_message(kind):
    async def count(stream):
        async for message in stream:
            for number in range(int(message)):
                await stream.send(str(number).encode())

    async with serving(kind, {"/t.S/Count": Streaming(count)}) as server, server.channel() as c:
        answers = [message async for message in c.unary_stream("/t.S/Count")(b"100")]

    assert answers == [str(number).encode() for number in range(100)]


async def test_a_stream_without_a_single_message_ends_with_ok(kind):
    async def silent(_):
        return

    async with serving(kind, {"/t.S/Silent": Streaming(silent)}) as server, server.channel() as c:
        assert await end_of(c.unary_stream("/t.S/Silent")(b"")) == OK


async def test_a_stream_knows_its_metadata_peer_and_deadline(kind):
    seen = []

    async def look(stream):
        seen.append((stream.method, dict(stream.metadata)["x"], stream.peer[:15], stream.time_remaining()))

    async with serving(kind, {"/t.S/Look": Streaming(look)}) as server, server.channel() as c:
        await end_of(c.unary_stream("/t.S/Look")(b"", metadata=(("x", "y"),)))
        await end_of(c.unary_stream("/t.S/Look")(b"", metadata=(("x", "y"),), timeout=5))

    assert seen[0] == ("/t.S/Look", "y", "ipv4:127.0.0.1:", None)
    assert 4 < seen[1][3] < 5.1


async def test_a_stream_ends_with_the_status_its_handler_raises(kind):
    async def refuse(stream):
        await stream.send(b"before")
        raise StatusError(StatusCode.UNAVAILABLE, "draining", (("a", "b"),))

    async with serving(kind, {"/t.S/Refuse": Streaming(refuse)}) as server, server.channel() as c:
        call = c.unary_stream("/t.S/Refuse")(b"")

        assert await call.read() == b"before"
        assert await end_of(call) == End(grpc.StatusCode.UNAVAILABLE, "draining", (("a", "b"),))


async def test_a_stream_whose_handler_raises_says_nothing_about_why(kind):
    async def crash(_):
        raise LookupError("/etc/secret")

    async with serving(kind, {"/t.S/Crash": Streaming(crash)}) as server, server.channel() as c:
        end = await end_of(c.unary_stream("/t.S/Crash")(b""))

    assert end == End(grpc.StatusCode.INTERNAL, "internal error")


@pytest.mark.parametrize("leave", ["cancel", "deadline"])
async def test_a_handler_is_cancelled_when_the_caller_leaves(kind, leave):
    log = []

    async def wait(_):
        log.append("began")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            log.append("cancelled")
            raise

    async with serving(kind, {"/t.S/Wait": Streaming(wait)}) as server, server.channel() as c:
        call = c.unary_stream("/t.S/Wait")(b"", timeout=0.2 if leave == "deadline" else None)
        await eventually(lambda: log, "the handler to begin")
        if leave == "cancel":
            call.cancel()
        await eventually(lambda: len(log) == 2, "the handler to be cancelled")

    assert log == ["began", "cancelled"]


async def test_a_handler_that_only_sends_is_cancelled_when_the_caller_leaves(kind):
    ended = asyncio.Event()

    async def pour(stream):
        try:
            while True:
                await stream.send(CHUNK)
        finally:
            ended.set()

    async with serving(kind, {"/t.S/Pour": Streaming(pour)}) as server, server.channel() as c:
        call = c.unary_stream("/t.S/Pour")(b"")
        await call.read()
        call.cancel()

        await within_reason(ended.wait())


async def test_a_slow_reader_slows_the_writer_down(kind):
    sent = [0]

    async def pour(stream):
        for _ in range(1000):
            await stream.send(CHUNK)
            sent[0] += 1

    async with serving(kind, {"/t.S/Pour": Streaming(pour), "/t.S/Echo": Fast(echo)}) as server, server.channel() as c:
        call = c.unary_stream("/t.S/Pour")(b"")
        await call.read()
        ahead = await settled(lambda: sent[0])
        async with server.channel() as other:
            assert await other.unary_unary("/t.S/Echo")(b"not held up") == b"not held up"
        received = 1
        while await call.read() is not grpc.aio.EOF:
            received += 1

    assert ahead * len(CHUNK) < 16 << 20
    assert received == 1000


async def test_a_slow_handler_slows_the_caller_down(kind):
    may_read, received = asyncio.Event(), []

    async def wait(stream):
        await may_read.wait()
        received.extend([len(message) async for message in stream])

    async with serving(kind, {"/t.S/Wait": Streaming(wait)}) as server, server.channel() as c:
        written = [0]

        async def write(call):
            for _ in range(1000):
                await call.write(CHUNK)
                written[0] += 1
            await call.done_writing()

        call = c.stream_stream("/t.S/Wait")()
        writing = asyncio.create_task(write(call))
        ahead = await settled(lambda: written[0])
        may_read.set()
        await within_reason(writing)

        assert await end_of(call) == OK
    assert ahead * len(CHUNK) < 16 << 20
    assert received == [len(CHUNK)] * 1000


async def test_several_tasks_may_send_on_one_stream(kind):
    async def together(stream):
        await asyncio.gather(*(stream.send(str(number).encode()) for number in range(100)))

    async with serving(kind, {"/t.S/Together": Streaming(together)}) as server, server.channel() as c:
        answers = [int(message) async for message in c.unary_stream("/t.S/Together")(b"")]

    assert sorted(answers) == list(range(100))


async def test_a_reader_that_gives_up_waiting_loses_no_message(kind):
    gave_up = asyncio.Event()

    async def impatient(stream):
        reader = aiter(stream)
        first = asyncio.ensure_future(anext(reader))
        await asyncio.wait([first], timeout=0.05)
        first.cancel()
        await asyncio.wait([first])
        gave_up.set()
        await stream.send(await anext(reader))

    async with serving(kind, {"/t.S/Impatient": Streaming(impatient)}) as server, server.channel() as c:
        call = c.stream_stream("/t.S/Impatient")()
        await within_reason(gave_up.wait())
        await call.write(b"at last")

        assert await within_reason(call.read()) == b"at last"


async def test_a_stream_reset_in_mid_message_leaves_its_connection_alone(kind):
    began, ended = threading.Event(), asyncio.Event()

    async def read(stream):
        began.set()
        try:
            async for _ in stream:
                pass
        finally:
            ended.set()

    def cut(port):
        with Raw(port) as raw:
            stream = raw.open("/t.S/Read")
            raw.http2.send_data(stream, frame(bytes(1000))[:500])
            raw.flush()
            assert began.wait(WAIT)
            raw.http2.reset_stream(stream)
            return raw.trailers(raw.call("/t.S/Echo", frame(b"same connection")))["grpc-status"]

    async with serving(kind, {"/t.S/Read": Streaming(read), "/t.S/Echo": Fast(echo)}) as server:
        assert await asyncio.to_thread(cut, server.port) == "0"
        await within_reason(ended.wait())
