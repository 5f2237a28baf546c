"""The thread of all connections: what other threads ask of it, and what it survives."""

import asyncio
import threading

import pytest

from server.transports.base import Fast, StatusCode, StatusError
from server.transports.http2.backlog import CALM
from server.transports.http2.connection import Connection
from tests.transports import KINDS, WAIT, Raw, echo, end_of, eventually, frame, serving, within_reason

HTTP2 = KINDS["http2"]


async def test_nothing_that_is_posted_while_the_thread_reads_its_bell_is_left_lying(monkeypatch):
    done = threading.Event()
    async with serving(HTTP2, {}) as server:
        loop = server.transport._loop
        bell = loop._here

        class Bell:
            """Another thread posts in the instant after the bell was heard."""

            def recv(self, size):
                poster = threading.Thread(target=loop.perform, args=(lambda: None,))
                poster.start()
                poster.join()
                return bell.recv(size)

        loop.perform(monkeypatch.setattr, loop, "_here", Bell())
        loop.perform(lambda: None)
        await eventually(lambda: not loop._posted and not loop._woken, "the posts to be done")
        loop.perform(setattr, loop, "_here", bell)
        loop.perform(done.set)
        await eventually(done.is_set, "a later post to be heard of")


async def test_a_posted_function_that_raises_ends_nothing(caplog):
    def fail():
        msg = "a mistake"
        raise RuntimeError(msg)

    async with serving(HTTP2, {"/t.S/Echo": Fast(echo)}) as server, server.channel() as c:
        server.transport._loop.perform(fail)
        assert await within_reason(c.unary_unary("/t.S/Echo")(b"x")) == b"x"

    assert [record.getMessage() for record in caplog.records] == ["transport_failed"]


async def test_a_mistake_of_ours_costs_the_connection_it_happens_on_and_no_other(monkeypatch, caplog):
    right = Connection.feed

    def feed(self, data):
        if b"flawed" in data:
            msg = "a mistake"
            raise RuntimeError(msg)
        right(self, data)

    monkeypatch.setattr(Connection, "feed", feed)
    async with serving(HTTP2, {"/t.S/Echo": Fast(echo)}) as server, server.channel() as c, server.channel() as other:
        await within_reason(other.unary_unary("/t.S/Echo")(b"before"))
        end = await end_of(c.unary_unary("/t.S/Echo")(b"flawed", timeout=5))
        assert await within_reason(other.unary_unary("/t.S/Echo")(b"after")) == b"after"

    assert end.code.name == "UNAVAILABLE"
    assert [record.getMessage() for record in caplog.records] == ["connection_failed"]


async def test_under_more_calls_than_it_can_look_at_the_late_ones_are_shed_and_the_others_served():
    began, go = threading.Event(), threading.Event()

    def slow(call, message):
        if message == b"plug":
            began.set()
            go.wait(WAIT)
        call.reply(message)

    class Refusal:
        status = StatusError(StatusCode.RESOURCE_EXHAUSTED, "no room for it")
        alike = 0

        def count(self, calls):
            assert calls == 1

    class Shed:
        status = StatusError(StatusCode.RESOURCE_EXHAUSTED, "too many", (("grpc-retry-pushback-ms", "1"),))
        calls, recent = 0, "something"

        def refuse(self, message, seconds, metadata, waited):
            return Refusal() if message == b"like another" else None

        def count(self, calls):
            self.calls += calls

    shed = Shed()

    def ask(port, backlog):
        with Raw(port) as raw:
            raw.call("/t.S/Slow", frame(b"plug"))
            assert began.wait(WAIT)
            backlog._cost = 1.0
            late = [raw.call("/t.S/Slow", frame(b"x"), [("grpc-timeout", "30S")]) for _ in range(2 * CALM)]
            patient = raw.call("/t.S/Slow", frame(b"patient"))
            alike = raw.call("/t.S/Slow", frame(b"like another"), [("grpc-timeout", "1000S")])
            go.set()
            return [raw.trailers(stream) for stream in late], raw.trailers(patient), raw.trailers(alike)

    async with serving(HTTP2, {"/t.S/Slow": Fast(slow, shed)}) as server:
        ends, patient, alike = await asyncio.to_thread(ask, server.port, server.transport._loop._backlog)

    assert [end["grpc-status"] for end in ends[:CALM]] == ["0"] * CALM
    assert patient["grpc-status"] == "0"
    assert (alike["grpc-status"], alike["grpc-message"]) == ("8", "no room for it")
    assert shed.calls == sum(end["grpc-status"] != "0" for end in ends)
    assert ends[-1]["grpc-status"] == str(int(StatusCode.RESOURCE_EXHAUSTED))
    assert (ends[-1]["grpc-message"], ends[-1]["grpc-retry-pushback-ms"]) == ("too many", "1")


@pytest.mark.parametrize("calls", [1, 300])
async def test_answers_from_another_thread_leave_without_waiting_for_a_tick(calls):
    waiting, answers = [], []

    async with (
        serving(HTTP2, {"/t.S/Wait": Fast(lambda call, _: waiting.append(call))}) as server,
        server.channel() as c,
    ):
        server.transport._loop._tick = lambda _: None  # what is only sent by a tick is never sent
        asking = [c.unary_unary("/t.S/Wait")(b"") for _ in range(calls)]
        await eventually(lambda: len(waiting) == calls, "every call to arrive")
        for call in waiting:
            await asyncio.to_thread(call.reply, b"answer")
        answers = await within_reason(asyncio.gather(*asking))
        del server.transport._loop._tick

    assert answers == [b"answer"] * calls
