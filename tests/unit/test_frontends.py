"""The engine before its frontends: who asked for a change hears that it is done when all of them know.

The frontend processes are played by the test, at the other end of the real link.
"""

import asyncio
import json
import logging
import os
import socket
import subprocess
from types import SimpleNamespace

import pytest

from server import frontends as module
from server.catalog import IndexEntry
from server.errors import ModelLoadFailed
from server.frontend import Frontend
from server.frontends import Behind, Frontends
from server.link import child
from server.link.end import End
from server.link.frames import CALL, NOTE, RESULT, STATUS
from server.settings import Settings
from server.transports.base import Unary
from server.wire.lifecycle import Lifecycle
from server.wire.services import INFERENCE, paths

WAIT = 10.0
PATH = paths(INFERENCE)
LOAD, UNLOAD, INDEX = CALLS = [PATH[f"Repository{name}"] for name in ("ModelLoad", "ModelUnload", "Index")]


def note(kind, **about):
    return json.dumps({"kind": kind, **about}).encode()


class Played:
    """A frontend process in place of `subprocess.Popen`; it may keep to itself what it would say."""

    def __init__(self, socket_number, silent):
        self._loop = asyncio.get_running_loop()
        self._told = asyncio.Queue()
        self._silent = silent
        handlers = {NOTE: self._on_note, RESULT: self._on_answer, STATUS: self._on_answer}
        self.end = End(socket.socket(fileno=os.dup(socket_number)), handlers, lambda _: None)
        self.end.start("played")

    def _on_note(self, _, data, start, stop):
        heard = json.loads(bytes(data[start:stop]))
        kind = heard["kind"]
        self._hear(heard["state"]["index"][0][2] if kind == "state" else kind)
        answer = {"settings": "ready", "open": "opened", "state": "heard"}[kind]
        if answer not in self._silent:
            self.say(answer)

    def _on_answer(self, number, *_):
        self._hear(CALLS[number])

    def _hear(self, what):
        self._loop.call_soon_threadsafe(self._told.put_nowait, what)

    def keep(self, *silent):
        self._silent = silent

    def say(self, kind):
        self.end.tell(NOTE, 0, note(kind))

    def call(self, path):
        head = json.dumps([path, [], "peer", None]).encode()
        self.end.tell(CALL, CALLS.index(path), len(head).to_bytes(4, "little") + head)

    async def hears(self, count):
        """Return the next things it hears: notes, the model's state, the methods of calls that are answered."""
        async with asyncio.timeout(WAIT):
            return [await self._told.get() for _ in range(count)]

    def kill(self):
        self.end.hang_up()

    def wait(self):
        return -9


class Engine:
    """Frontends of a catalog of one model; LOAD fails, UNLOAD does what it should."""

    def __init__(self, monkeypatch):
        popen = SimpleNamespace(Popen=self._popen, DEVNULL=subprocess.DEVNULL)
        monkeypatch.setattr(child, "subprocess", popen)
        self.state = "LOADING"
        self.played = []
        self.silent = ()
        self.started = asyncio.Event()
        self.frontends = Frontends(Settings(frontends=2, grpc_port=0, http_port=0), Lifecycle(), lambda: ({}, {}))

    def _popen(self, *_, pass_fds, **__):
        self.played.append(Played(*pass_fds, self.silent))
        self.started.set()
        return self.played[-1]

    async def open(self):
        self.frontends.spawn()
        await self.frontends.open(
            Behind(self, None, {LOAD: Unary(self.load), UNLOAD: Unary(self.unload), INDEX: Unary(self.ask)})
        )
        for one in self.played:
            assert await one.hears(3) == ["settings", "LOADING", "open"]

    async def load(self, *_):
        self.state = "UNAVAILABLE"
        raise ModelLoadFailed("as asked")

    async def unload(self, *_):
        self.state = "UNLOADING"
        return b""

    async def ask(self, *_):
        return b""

    def index(self):
        return [IndexEntry("m", "1", self.state)]

    def ready(self):
        return True


@pytest.fixture
async def engine(monkeypatch):
    made = Engine(monkeypatch)
    await made.open()
    yield made
    await made.frontends.close()
    for one in made.played:
        one.end.close()


@pytest.mark.parametrize(("change", "after"), [(UNLOAD, "UNLOADING"), (LOAD, "UNAVAILABLE")], ids=["works", "fails"])
async def test_a_change_is_answered_when_every_frontend_has_taken_it_over(engine, change, after):
    one, other = engine.played
    other.keep("heard")
    one.call(change)
    one.call(INDEX)  # what changes nothing is not held up

    assert await one.hears(2) == [after, INDEX]
    assert await other.hears(1) == [after]

    other.say("heard")

    assert await one.hears(1) == [change]


async def test_a_change_is_answered_when_who_had_not_taken_it_over_is_gone(engine):
    one, other = engine.played
    other.keep("heard")
    one.call(UNLOAD)
    await other.hears(1)
    other.kill()

    assert await one.hears(2) == ["UNLOADING", UNLOAD]


async def test_a_frontend_that_hangs_delays_the_answer_to_a_change_and_no_more(engine, monkeypatch, caplog):
    monkeypatch.setattr(module, "BEHIND_SECONDS", 0.01)
    one, other = engine.played
    other.keep("heard")
    one.call(UNLOAD)

    assert await one.hears(2) == ["UNLOADING", UNLOAD]
    assert "frontend_behind" in caplog.messages


async def test_a_frontend_that_is_just_opening_its_ports_hears_of_changes_too(engine):
    engine.silent = ("opened",)
    engine.started.clear()
    engine.played[1].kill()
    await engine.started.wait()
    one, late = engine.played[0], engine.played[2]

    assert await late.hears(3) == ["settings", "LOADING", "open"]

    late.keep("heard")
    one.call(UNLOAD)

    assert await one.hears(1) == ["UNLOADING"]
    assert await late.hears(1) == ["UNLOADING"]

    late.say("opened")
    late.say("heard")

    assert await one.hears(1) == [UNLOAD]


async def test_a_frontend_says_that_it_has_taken_something_over_only_when_it_answers_by_it(caplog):
    caplog.set_level(logging.INFO, "sluice")  # the state has a level, which is set back after the test
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    told = asyncio.Queue()
    loop = asyncio.get_running_loop()
    frontend = Frontend(theirs)

    def on_note(_, data, start, stop):
        seen = json.loads(bytes(data[start:stop])), frontend._catalog.index()
        loop.call_soon_threadsafe(told.put_nowait, seen)

    engine = End(ours, {NOTE: on_note}, lambda _: None)
    engine.start("engine")
    state = {"ready": True, "draining": False, "log_level": "info", "index": [("m", "1", "LOADING", "")], "served": []}
    engine.tell(NOTE, 0, note("state", state=state))
    async with asyncio.timeout(WAIT):
        seen = await told.get()
    await asyncio.to_thread(engine.close)
    await asyncio.to_thread(frontend._end.close)

    assert seen == ({"kind": "heard"}, [IndexEntry("m", "1", "LOADING")])
