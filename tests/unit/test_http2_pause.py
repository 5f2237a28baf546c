"""While nothing that callers send could begin, the transport's thread leaves them alone, and hears everybody else."""

import select
import socket
import threading
import time
from dataclasses import replace

import pytest
from h2.errors import ErrorCodes

from server.transports.base import Fast
from server.transports.http2 import loop as module
from server.transports.http2.backlog import SLICE
from server.transports.http2.transport import Http2Transport
from tests.http2.frames import DEADLINE_EXCEEDED, data, request
from tests.http2.peer import Peer
from tests.transports import DEFAULTS, WAIT, frame, listening

PATIENT = replace(DEFAULTS, min_ping_interval=0.0)
AGES = 3600.0
"""Seconds that no test would wait for."""
ECHO, HOLD, CROWD, PLUG = "/t.S/Echo", "/t.S/Hold", "/t.S/Crowd", "/t.S/Plug"


class Selects:
    """Stands for the module of that name: notes how long each pause may be and what ends it."""

    def __init__(self):
        self.pauses, self.heard = [], []
        self.begun, self.go = threading.Event(), threading.Event()
        self.go.set()
        self.fails = False

    def select(self, sources, _, __, seconds):
        self.pauses.append(seconds)
        self.begun.set()
        assert self.go.wait(WAIT)
        if self.fails:
            msg = "filedescriptor out of range in select()"
            raise ValueError(msg)
        heard, _, _ = select.select(sources, (), (), seconds)
        self.heard += heard
        return heard, (), ()


class Stage:
    """A transport whose pauses the test makes; it is the `Gather` as well."""

    def __init__(self, selects):
        self.selects = selects
        self.seconds = 0.0
        self.begins = 0
        self.before_pause = lambda: None
        self.held = []
        self.plugged, self.unplug = threading.Event(), threading.Event()
        methods = {ECHO: self.echo, HOLD: self.hold, CROWD: self.crowd, PLUG: self.plug}
        self.transport = Http2Transport({path: Fast(method) for path, method in methods.items()}, PATIENT, self)
        self.port = 0

    # What the transport asks.

    def begin(self, add_reader):
        self.add_reader = add_reader

    def waiting(self):
        return self.begins

    def flush(self):
        """There is nothing to be flushed."""

    def pause(self):
        self.before_pause()
        return self.seconds

    # What callers ask.

    def echo(self, call, message):
        call.reply(message)

    def hold(self, call, _):
        self.held.append(call)

    def crowd(self, call, message):
        """From now on nothing could begin for ages."""
        self.seconds = AGES
        call.reply(message)

    def plug(self, call, message):
        self.plugged.set()
        assert self.unplug.wait(WAIT)
        call.reply(message)

    # What a test asks.

    def peer(self):
        peer = Peer(self.port)
        assert peer.pong()
        return peer

    def hold_one(self, peer):
        """Send a call that is not answered; return its stream."""
        stream = peer.call(HOLD)
        assert peer.pong()
        assert len(self.held) == 1
        return stream

    def begin_pause(self, peer):
        """Return once callers are left alone, for ages unless somebody else has something to say."""
        self.selects.begun.clear()
        assert peer.ask(CROWD, b"x").message == b"x"
        assert self.selects.begun.wait(WAIT)
        self.seconds = 0.0


@pytest.fixture
def selects(monkeypatch):
    selects = Selects()
    monkeypatch.setattr(module, "select", selects)
    return selects


@pytest.fixture
def stage(selects):
    stage = Stage(selects)
    with listening(stage.transport) as (stage.port, stage.close):
        try:
            yield stage
        finally:
            stage.seconds = 0.0


@pytest.fixture
def ages(monkeypatch):
    monkeypatch.setattr(module, "_LONGEST_PAUSE", AGES)


def calls(peer, *paths):
    """Return small calls as one piece, and their streams."""
    streams = [peer.stream() for _ in paths]
    parts = [
        peer.headers(stream, request(path)) + data(stream, frame(b"x"))
        for stream, path in zip(streams, paths, strict=True)
    ]
    return b"".join(parts), streams


@pytest.mark.usefixtures("ages")
def test_an_answer_from_another_thread_leaves_at_once(stage):
    with stage.peer() as peer:
        held = stage.hold_one(peer)
        stage.begin_pause(peer)
        stage.held[0].reply(b"answer")

        assert peer.answer(held).message == b"answer"
    assert stage.selects.pauses == [AGES]


@pytest.mark.usefixtures("ages")
def test_calls_that_come_meanwhile_end_no_pause_and_are_read_after_it(stage):
    with stage.peer() as peer, stage.peer() as other:
        held = stage.hold_one(peer)
        stage.selects.go.clear()
        stage.begin_pause(peer)
        meanwhile = [peer.call(ECHO, b"meanwhile"), other.call(ECHO, b"meanwhile")]
        stage.selects.go.set()  # only now it is looked who has something to say
        stage.held[0].reply(b"answer")

        assert peer.answer(held).message == b"answer"
        assert [one.answer(stream).message for one, stream in zip((peer, other), meanwhile, strict=True)] == [
            b"meanwhile"
        ] * 2
    assert stage.selects.heard == [stage.transport._loop._here]


@pytest.mark.usefixtures("ages")
def test_a_session_that_answers_ends_a_pause(stage):
    here, there = socket.socketpair()
    heard, over = threading.Event(), threading.Event()

    def ready():
        heard.set()
        return False

    with here, there, stage.peer() as peer:
        assert stage.add_reader(here, ready, over.set)
        stage.begin_pause(peer)
        there.send(b"x")

        assert heard.wait(WAIT)
        assert over.wait(WAIT)
        assert peer.alive()


@pytest.mark.usefixtures("ages")
def test_calls_that_were_read_are_handled_before_a_pause(stage):
    with stage.peer() as peer:
        first = peer.call(PLUG)
        assert stage.plugged.wait(WAIT)
        piece, streams = calls(peer, CROWD, *[ECHO] * (3 * SLICE))
        peer.send(piece)  # which is read at once then
        stage.unplug.set()

        assert [peer.answer(stream).message for stream in (first, *streams)] == [b""] + [b"x"] * len(streams)


@pytest.mark.usefixtures("ages")
def test_what_a_look_at_the_deadlines_has_to_say_leaves_before_a_pause(stage):
    def let_time_pass():
        while stage.held and stage.held[0].deadline > time.monotonic():
            stage.seconds = AGES

    stage.before_pause = let_time_pass
    with stage.peer() as peer:
        assert peer.ask(HOLD, b"x", ("grpc-timeout", "30m")).status == DEADLINE_EXCEEDED


@pytest.mark.usefixtures("ages")
def test_a_pause_does_not_hold_up_the_end(stage):
    with stage.peer() as peer:
        stage.begin_pause(peer)
        stage.close()

        assert peer.goaway() is ErrorCodes.NO_ERROR


@pytest.mark.parametrize(("seconds", "pause"), [(AGES, 0.006), (0.006, 0.006), (0.001, 0.001)])
def test_a_pause_is_as_long_as_it_is_worth_it_and_never_long(stage, seconds, pause):
    with stage.peer() as peer:
        stage.seconds = seconds
        assert peer.alive()
        assert stage.selects.begun.wait(WAIT)

    assert set(stage.selects.pauses) == {pause}


def test_a_pause_is_short_where_something_could_begin_a_moment_ago(stage):
    with stage.peer() as peer:
        stage.seconds, stage.begins = AGES, 1
        assert peer.alive()
        assert stage.selects.begun.wait(WAIT)

    assert set(stage.selects.pauses) == {0.002}


@pytest.mark.parametrize("seconds", [0.0, 0.0001, 0.0005])
def test_what_is_not_worth_it_is_no_pause(stage, seconds):
    with stage.peer() as peer:
        stage.seconds = seconds
        assert all(peer.alive() for _ in range(5))

    assert stage.selects.pauses == []


def test_where_no_pause_can_be_made_callers_are_served_without(stage, caplog):
    stage.selects.fails = True
    with stage.peer() as peer:
        stage.seconds = AGES
        assert all(peer.alive() for _ in range(5))

    assert stage.selects.begun.is_set()
    assert caplog.records == []
