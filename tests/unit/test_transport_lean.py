import asyncio
import gc
import threading

import pytest

from server.transports.base import Fast, StatusCode, Streaming, Unary
from server.transports.lean import LeanTransport
from server.transports.lean_call import CROWD, CROWDED, LeanCall, Watch
from server.transports.lean_outbox import Outbox
from server.transports.lean_stream import LeanStream
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
    return sum(isinstance(one, LeanCall | LeanStream) for one in gc.get_objects())


@pytest.mark.usefixtures("_no_collector")
@pytest.mark.parametrize("path", [*METHODS, "/t.S/Unknown"])
async def test_a_call_is_gone_when_it_is_over_without_the_help_of_the_collector(path):
    def call_ten_times(port):
        with Raw(port) as raw:
            for stream in [raw.call(path, frame(b"x"), [("grpc-timeout", "300m")]) for _ in range(10)]:
                raw.trailers(stream)

    left_by_others = living()
    async with serving(LeanTransport, METHODS) as server:
        await asyncio.to_thread(call_ten_times, server.port)
        await eventually(lambda: living() <= left_by_others, "every call to be gone")


async def test_a_caller_is_watched_only_when_the_answer_takes_long(monkeypatch):
    watched = []
    monkeypatch.setattr(LeanCall, "watch", lambda call, ask=LeanCall.watch: (watched.append(call.method), ask(call)))
    late = threading.Event()

    def answer_late(call, message):
        threading.Thread(target=lambda: (late.wait(20), call.reply(message))).start()

    methods = {"/t.S/Fast": Fast(echo), "/t.S/Late": Fast(answer_late)}
    async with serving(LeanTransport, methods) as server, server.channel() as c:
        await c.unary_unary("/t.S/Fast")(b"")
        asking = c.unary_unary("/t.S/Late")(b"")
        await eventually(lambda: watched, "the caller to be watched")
        late.set()
        await asking

    assert watched == ["/t.S/Late"]


class Open:
    """As much of a call as the watch looks at."""

    def __init__(self):
        self.ended = self.watched = False

    def watch(self):
        self.watched = True


def test_the_watch_asks_the_oldest_first_and_says_when_the_next_is_due():
    watch, calls = Watch(0.0, Outbox()), [Open() for _ in range(3)]
    patient, fresh = Watch(60.0, Outbox()), Open()
    for call in calls:
        watch.add(call)
    calls[1].ended = True
    patient.add(fresh)

    assert watch.ask() is None
    assert [call.watched for call in calls] == [True, False, True]
    assert 59 < patient.ask() <= 60
    assert not fresh.watched

    fresh.ended = True

    assert patient.ask() is None


def test_in_a_crowd_the_watch_is_more_patient():
    outbox = Outbox()
    outbox.calls |= {object() for _ in range(CROWD + 1)}
    watch, call = Watch(0.0, outbox), Open()
    watch.add(call)

    assert 0 < watch.ask() <= CROWDED
    assert not call.watched
