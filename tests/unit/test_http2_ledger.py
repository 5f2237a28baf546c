"""Answers are written down once a turn of the thread of all connections, before they leave, and after its last turn."""

import select
import socket
import threading

import pytest

from server.transports.base import Fast
from server.transports.http2.transport import Http2Transport
from tests.http2.peer import Peer
from tests.transports import DEFAULTS, listening

ECHO = "/t.S/Echo"


class Stage:
    """A transport, and what is its `Gather` and its `Ledger`."""

    def __init__(self):
        self.transport = Http2Transport({ECHO: Fast(self.echo)}, DEFAULTS, self, self)
        self.threads = set()
        self.answered = []
        self.settled = []
        """What was answered, by turn."""
        self.peers = []
        self.had_heard = []
        """Whether a peer had heard anything when its answers were written down."""

    def echo(self, call, message):
        call.reply(message)
        self.answered.append(message)

    # What the transport asks.

    def begin(self, add_reader=None):
        self.threads.add(threading.current_thread().name)
        if add_reader is not None:
            self.add_reader = add_reader

    def waiting(self):
        return 0

    def flush(self):
        """There is nothing to be flushed."""

    def pause(self):
        return 0.0

    def settle(self):
        self.threads.add(threading.current_thread().name)
        if self.answered:
            self.had_heard += select.select([peer.socket for peer in self.peers], [], [], 0)[0]
            self.settled.append(self.answered)
            self.answered = []


@pytest.fixture
def stage():
    stage = Stage()
    with listening(stage.transport) as (stage.port, stage.close):
        yield stage


def test_answers_are_written_down_on_the_threads_turn_before_they_leave(stage):
    with Peer(stage.port) as peer:
        assert peer.pong()
        stage.peers.append(peer)

        assert peer.ask(ECHO, b"a").message == b"a"
        assert peer.ask(ECHO, b"b").message == b"b"

    assert stage.settled == [[b"a"], [b"b"]]
    assert stage.had_heard == []
    assert stage.threads == {"http2-transport"}


def test_what_is_answered_while_the_thread_ends_is_written_down_as_well(stage):
    here, there = socket.socketpair()
    with here, there, Peer(stage.port) as peer:
        assert stage.add_reader(here, lambda: True, lambda: stage.answered.append(b"last"))
        assert peer.pong()

        stage.close()

    assert stage.settled == [[b"last"]]
