import asyncio
import gc
import threading

import pytest

from server.transports.base import Fast, StatusCode, Streaming, Unary
from server.transports.http2.call import UnaryCall
from server.transports.http2.stream import StreamCall
from server.transports.http2.transport import Http2Transport
from tests.transports import Raw, echo, eventually, frame, serving


@pytest.fixture
def _no_collector():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


async def slow(_, message):
    return message


async def forever(*_):
    await asyncio.Event().wait()


async def chat(stream):
    async for message in stream:
        await stream.send(message)


METHODS = {
    "/t.S/Fast": Fast(echo),
    "/t.S/Fail": Fast(lambda call, _: call.fail(StatusCode.NOT_FOUND, "no", (("a", "b"),))),
    "/t.S/Unsendable": Fast(lambda call, _: call.fail(StatusCode.NOT_FOUND, "no", (("A", "b"),))),
    "/t.S/Thread": Fast(lambda call, message: threading.Thread(target=call.reply, args=(message,)).start()),
    "/t.S/Unanswered": Fast(lambda call, _: call.on_cancel(call.peer.encode)),
    "/t.S/Slow": Unary(slow),
    "/t.S/Forever": Unary(forever),
    "/t.S/Chat": Streaming(chat),
    "/t.S/ForeverStream": Streaming(forever),
}


def living():
    return sum(isinstance(one, UnaryCall | StreamCall) for one in gc.get_objects())


@pytest.mark.usefixtures("_no_collector")
@pytest.mark.parametrize("path", [*METHODS, "/t.S/Unknown"])
async def test_a_call_is_gone_when_it_is_over_without_the_help_of_the_collector(path):
    def call_ten_times(port):
        with Raw(port) as raw:
            for stream in [raw.call(path, frame(b"x"), [("grpc-timeout", "300m")]) for _ in range(10)]:
                raw.trailers(stream)

    left_by_others = living()
    async with serving(Http2Transport, METHODS) as server:
        await asyncio.to_thread(call_ten_times, server.port)
        await eventually(lambda: living() <= left_by_others, "every call to be gone")
