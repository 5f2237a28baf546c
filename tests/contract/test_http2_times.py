"""Connections that have outlived their use: unanswered pings, idleness, age; and what an operator's limits do."""

import asyncio
import errno
from dataclasses import replace

import grpc
import pytest
from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated, PingReceived

from server.transports.base import Fast
from tests.http2.frames import ECHO, HOLD
from tests.http2.host import hosted
from tests.transports import DEFAULTS, KINDS, Raw, echo, end_of, frame, serving, within_reason

HTTP2 = KINDS["http2"]
METHODS = {ECHO: Fast(echo)}


def test_who_answers_no_ping_is_given_up():
    with hosted(replace(DEFAULTS, keepalive_time=0.2, keepalive_timeout=0.2)) as host, Raw(host.port) as raw:
        raw.receive(lambda events: any(isinstance(e, ConnectionTerminated) for e in events), answer=False)

        assert any(isinstance(event, PingReceived) for event in raw.events)


async def test_who_answers_pings_is_kept():
    def wait(port):
        with Raw(port) as raw:
            raw.receive(lambda events: sum(isinstance(e, PingReceived) for e in events) >= 3)
            return raw.trailers(raw.call(ECHO, frame(b"x")))["grpc-status"]

    async with serving(HTTP2, METHODS, replace(DEFAULTS, keepalive_time=0.1, keepalive_timeout=0.5)) as server:
        assert await within_reason(asyncio.to_thread(wait, server.port)) == "0"


def test_an_idle_connection_is_sent_away_and_a_busy_one_is_not():
    with hosted(replace(DEFAULTS, max_connection_idle=0.3)) as host, host.connect() as busy, host.connect() as idle:
        stream = busy.call(HOLD)

        assert idle.goaway() is ErrorCodes.NO_ERROR
        host.held.calls[0].reply(b"late")
        assert busy.answer(stream).message == b"late"


@pytest.mark.parametrize("acknowledges", [True, False])
def test_an_old_connection_is_sent_away_and_its_calls_end_as_they_would(acknowledges):
    with hosted(replace(DEFAULTS, max_connection_age=0.3)) as host, host.connect() as peer:
        if not acknowledges:
            peer._answer_quietly = lambda _: None
        stream = peer.call(HOLD)
        peer.until(lambda: peer.gone)
        assert peer.gone.last_stream_id == (1 << 31) - 1  # calls that are on their way are still served
        peer.until(lambda: peer.gone.last_stream_id == stream)
        late = peer.call(ECHO, b"too late")
        peer.until(lambda: peer.answers[late].over)
        assert peer.answers[late].reset is ErrorCodes.REFUSED_STREAM
        host.held.calls[0].reply(b"in time")

        assert peer.answer(stream).message == b"in time"
        assert peer.goaway() is ErrorCodes.NO_ERROR


async def test_a_call_that_outlives_its_connections_age_and_grace_is_ended():
    limits = replace(DEFAULTS, max_connection_age=0.2, max_connection_age_grace=0.2)
    gone = asyncio.Event()
    loop = asyncio.get_running_loop()

    def never(call, _):
        call.on_cancel(lambda: loop.call_soon_threadsafe(gone.set))

    async with serving(HTTP2, {"/t.S/Never": Fast(never)}, limits) as server, server.channel() as c:
        end = await end_of(c.unary_unary("/t.S/Never")(b""))
        await within_reason(gone.wait())

    assert end.code is grpc.StatusCode.UNAVAILABLE


async def test_too_many_open_files_are_waited_out(monkeypatch, caplog):
    class Exhausted:
        """A listening socket of a process that may open no more files, twice."""

        def __init__(self, real):
            self._real, self.refusals = real, 2

        def accept(self):
            if self.refusals:
                self.refusals -= 1
                raise OSError(errno.EMFILE, "Too many open files")
            return self._real.accept()

        def fileno(self):
            return self._real.fileno()

        def close(self):
            self._real.close()

    async with serving(HTTP2, METHODS) as server:
        loop = server.transport._loop
        done = asyncio.Event()
        here = asyncio.get_running_loop()

        def exhaust():
            real = loop._listener
            loop._selector.unregister(real)
            loop._listener = Exhausted(real)
            loop._selector.register(loop._listener, 1, loop._accept)
            here.call_soon_threadsafe(done.set)

        loop.perform(exhaust)
        await within_reason(done.wait())
        async with server.channel() as c:
            assert await within_reason(c.unary_unary(ECHO)(b"x", wait_for_ready=True)) == b"x"

    events = [(record.getMessage(), record.fields["reason"]) for record in caplog.records]
    assert events == [("accept_failed", "EMFILE")] * 2
