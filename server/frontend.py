"""The program of a frontend process: `python -m server.frontend FD`, started by an engine (link/child.py).

    1  it hears its settings, builds its wire and says that it is ready
    2  it hears that the models serve, opens the shared ports and says so
    3  it is told to drain: what it accepted is answered, then it exits with 0

It takes SIGINT and SIGTERM for the engine's business, which a terminal or a service manager sends to all of the group.
When the link ends before step 3, its callers are told, and it exits with 1: the engine is gone, or wants it gone.
"""

import asyncio
import ctypes
import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from server import __version__, collector, log
from server.assembly import redis_options, tracing
from server.catalog import Catalog
from server.fleet.catalog import RemoteCatalog
from server.fleet.ends import BrokerUnusable, RedisEnds
from server.front import Front, Shared
from server.link.calls import Calls
from server.link.end import End
from server.link.frames import NOTE
from server.link.linked_queue import LinkedQueue
from server.link.mirror import MirroredCatalog
from server.link.tally import encode_counts
from server.messages import Buffer
from server.metrics import Metrics
from server.queues.base import Queue
from server.settings import InvalidSettings, Settings, parse
from server.spans import Tracing
from server.wire.lifecycle import Lifecycle

COUNTED_EVERY = 1.0
"""Seconds between counts nobody asked for: so much is lost at most when this process is killed."""

FLUSH_SECONDS = 5.0
"""What a collector may take to hear the last spans."""

JOBS = "/sluice.v1.Jobs/"
_PR_SET_PDEATHSIG = 1


class LinkEndedError(Exception):
    """The engine is gone."""


class Frontend:
    """One process's end of the link and what stands on it."""

    def __init__(self, link: socket.socket) -> None:
        self._loop = asyncio.get_running_loop()
        self._notes: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._lifecycle = Lifecycle()
        self._metrics = Metrics(__version__)
        self._catalog = MirroredCatalog(self._lifecycle)
        self._queue = LinkedQueue(self._catalog.number_of)
        self._calls = Calls()
        self._front: Front | None = None
        self._ends: RedisEnds | None = None
        self._tracing: Tracing | None = None
        handlers = {**self._queue.handlers, **self._calls.handlers, NOTE: self._on_note}
        self._end = End(link, handlers, self._on_end, handed_on=self._queue.settle)
        self._queue.attach(self._end)
        self._calls.attach(self._end)
        self._end.start("link")

    async def run(self) -> int:
        """Serve until told to drain. Returns 0 after that, 1 when the engine went first."""
        counting = asyncio.create_task(self._count())
        try:
            front = await self._begin()
            await front.open()
            collector.settle()
            self._tell("opened")
            order = await self._expect("drain")
            await front.drain(order["grace"])
            self._send_counts()
        except LinkEndedError:
            return 1
        except (InvalidSettings, BrokerUnusable, OSError) as error:
            strerror = error.strerror if isinstance(error, OSError) else None
            self._tell("failed", why=f"cannot listen: {strerror}" if strerror else str(error))
            return 2
        finally:
            counting.cancel()
            await self._close()
        return 0

    async def _begin(self) -> Front:
        settings = parse((await self._expect("settings"))["flags"], {})
        log.setup(settings.log_format, settings.log_level)
        front = self._front = await self._build(settings)
        self._tell("ready")
        await self._expect("open")
        return front

    async def _build(self, settings: Settings) -> Front:
        catalog: Catalog = self._catalog
        queue: Queue = self._queue
        jobs = None
        if settings.queue != "memory":
            ends = self._ends = RedisEnds(redis_options(settings))
            await ends.open()
            await ends.open_frontend()
            assert ends.queue is not None, "open_frontend() makes it"  # noqa: S101 - narrows for mypy
            queue, jobs = ends.queue, ends.jobs
            if settings.role == "frontend":
                catalog = RemoteCatalog(ends.served)
        distant = self._queue if queue is self._queue else None
        written_down = None if distant is None else distant.write_down
        shared = Shared(lambda table: self._calls.forwarded(table, but=JOBS), distant, written_down)
        self._tracing = tracing(settings)
        return Front(
            settings, self._lifecycle, self._metrics, catalog, queue, jobs, tracing=self._tracing, shared=shared
        )

    async def _close(self) -> None:
        if self._front is not None:
            await self._front.close()
        if self._ends is not None:
            await self._ends.close()
        if self._tracing is not None:
            await asyncio.to_thread(self._tracing.close, FLUSH_SECONDS)

    # What goes to the engine and comes from it

    async def _count(self) -> None:
        while True:
            await asyncio.sleep(COUNTED_EVERY)
            self._send_counts()

    def _send_counts(self) -> None:
        inflight = self._front.inflight if self._front is not None else 0
        self._tell("counts", counts=encode_counts(self._metrics.requests.snapshot()), inflight=inflight)

    def _tell(self, kind: str, **about: object) -> None:
        self._end.tell(NOTE, 0, json.dumps({"kind": kind, **about}).encode())

    async def _expect(self, kind: str) -> dict[str, Any]:
        note = await self._notes.get()
        if note["kind"] != kind:
            raise LinkEndedError
        return note

    def _on_note(self, _: int, data: Buffer, start: int, stop: int) -> None:
        note = json.loads(bytes(data[start:stop]))
        if note["kind"] == "state":
            self._catalog.apply(note["state"])
            self._tell("heard")
        elif note["kind"] == "count":
            self._send_counts()
        else:
            self._loop.call_soon_threadsafe(self._notes.put_nowait, note)

    def _on_end(self, _: str) -> None:
        self._queue.fail_all()
        self._calls.fail_all()
        self._loop.call_soon_threadsafe(self._notes.put_nowait, {"kind": "end"})


async def _main(link: socket.socket) -> int:
    return await Frontend(link).run()


def main() -> int:
    """Run the program."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    # The end of the link tells as much; this is for a process that has stopped listening.
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    Path("/proc/self/comm").write_text("sluice-frontend", encoding="ascii")
    with socket.socket(fileno=int(sys.argv[1])) as link:
        return asyncio.run(_main(link))


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # gRPC's threads have nothing left to say, and take a second to say it
