"""One frontend process as the engine holds it: the program, the link to it, and what it has counted.

The process is a fresh interpreter, never a fork of this one, which has threads. It is told its settings first, over the
link, and what it says of itself comes as notes. When the link ends, however that happens, everything it was owed is
cancelled on the spot; `ended` resolves with the reason. On the event loop that makes it, where a method says nothing.
"""

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from server.counts import Counted
from server.link.calls import Clerk
from server.link.desk import Desk
from server.link.end import End
from server.link.frames import NOTE, frame
from server.link.tally import decode_counts
from server.messages import Buffer

_ROOT = str(Path(__file__).resolve().parents[2])


class FrontendFailed(Exception):
    """A frontend process did not come up; the text says why."""


class Child:
    """One process. `link` before anything is expected of it."""

    def __init__(self, flags: Mapping[str, str], most: int) -> None:
        """Start the program with these settings; it sends no frame of more than `most` bytes. Raises OSError."""
        self._most = most
        self._loop = asyncio.get_running_loop()
        self._notes: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.ended: asyncio.Future[str] = self._loop.create_future()
        self.counts: Counted = ({}, {})
        self.inflight = 0
        self.end: End | None = None
        self.informed = False
        """Whether it was told what is on offer, and so must be told what changes."""
        self._unheard: deque[asyncio.Future[None]] = deque()
        self._counted = threading.Event()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            self.process = subprocess.Popen(  # noqa: S603 - our own module, with a file descriptor as its argument
                [sys.executable, "-P", "-m", "server.frontend", str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (_ROOT, os.environ.get("PYTHONPATH"))))},
            )
        with suppress(OSError):  # it is dead already, and the link will say so
            self._socket.sendall(frame(NOTE, 0, _note("settings", flags=dict(flags))))

    def link(self, desk: Desk, clerk: Clerk) -> None:
        """Begin to hear it."""
        self._desk, self._clerk = desk, clerk
        end = self.end = End(
            self._socket, {**desk.handlers, **clerk.handlers, NOTE: self._on_note}, self._on_end, self._most
        )
        desk.attach(end)
        clerk.attach(end)
        end.start("link")

    def tell(self, kind: str, **about: object) -> None:
        """Send a note; any thread."""
        if self.end is not None:
            self.end.tell(NOTE, 0, _note(kind, **about))

    def inform(self, state: Mapping[str, Any]) -> None:
        """Tell it what is on offer (link/mirror.py); it says when it has taken that over."""
        self.informed = True
        if not self.ended.done():
            self._unheard.append(self._loop.create_future())
            self.tell("state", state=state)

    def unheard(self) -> "list[asyncio.Future[None]]":
        """Return, for all that it was informed of and has not taken over, what is done when it has, or has ended."""
        return list(self._unheard)

    async def expect(self, kind: str) -> dict[str, Any]:
        """Wait for a note of this kind. Raises FrontendFailed when something else comes of it."""
        note = await self._notes.get()
        if note["kind"] != kind:
            raise FrontendFailed(note.get("why", f"expected to hear {kind}, heard {note['kind']}"))
        return note

    def count(self) -> None:
        """Ask for its counts; any thread. `counted` waits for them."""
        self._counted.clear()
        self.tell("count")

    def counted(self, seconds: float) -> None:
        """Wait until what `count` asked for is here, at most so long; not on the event loop."""
        self._counted.wait(seconds)

    async def bury(self) -> int:
        """End the process if it has not ended, give everything back and return its exit status."""
        with suppress(ProcessLookupError):
            self.process.kill()
        status = await asyncio.to_thread(self.process.wait)
        if self.end is not None:
            await asyncio.to_thread(self.end.close)
        self._socket.close()
        return status

    def _on_note(self, _: int, data: Buffer, start: int, stop: int) -> None:
        note = json.loads(bytes(data[start:stop]))
        if note["kind"] == "counts":
            self.counts, self.inflight = decode_counts(note["counts"]), int(note["inflight"])
            self._counted.set()
        elif note["kind"] == "heard":
            self._loop.call_soon_threadsafe(self._on_heard)
        else:
            self._loop.call_soon_threadsafe(self._notes.put_nowait, note)

    def _on_heard(self) -> None:
        if self._unheard:
            self._unheard.popleft().set_result(None)

    def _on_end(self, why: str) -> None:
        self._desk.cancel_all()
        self._clerk.cancel_all()
        self._counted.set()
        with suppress(RuntimeError):  # the loop is closed: nobody is left to hear of it
            self._loop.call_soon_threadsafe(self._settle, why)

    def _settle(self, why: str) -> None:
        self._notes.put_nowait({"kind": "end", "why": f"the frontend process ended before it was ready: {why}"})
        if not self.ended.done():
            self.ended.set_result(why)
        while self._unheard:
            self._on_heard()


def _note(kind: str, **about: object) -> bytes:
    return json.dumps({"kind": kind, **about}).encode()
