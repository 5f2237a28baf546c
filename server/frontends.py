"""Several frontend processes on one port, and this process as their engine: started, opened, replaced, drained.

The kernel spreads connections over the processes that listen on a port with SO_REUSEPORT. To the rest of the
application this is what `front.Front` is: it opens the ports, drains and closes. It keeps the ports itself too, without
listening, so that nobody else takes them while a frontend is being replaced.
"""

import asyncio
import logging
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from server import log
from server.assembly import MIB
from server.catalog import Catalog
from server.counts import Counted
from server.link.calls import Clerk
from server.link.child import Child, FrontendFailed
from server.link.desk import Desk
from server.link.end import End
from server.link.mirror import Announcer
from server.link.tally import add_up
from server.metrics import FrontendSnapshot
from server.queues.base import Queue
from server.sessions.budget import RestartBudget
from server.settings import Settings, as_flags
from server.transports.base import Methods
from server.transports.options import reserve
from server.wire.lifecycle import Lifecycle, rung
from server.wire.services import INFERENCE, paths

_PATH = paths(INFERENCE)
CHANGES = frozenset((_PATH["RepositoryModelLoad"], _PATH["RepositoryModelUnload"], _PATH["LogSettings"]))
"""Methods that change what frontends know."""
GROWTH, MARGIN = 8, 1 << 20
"""A byte of typed contents becomes at most eight of raw ones; and the bytes of a frame beyond its tensors."""
START_SECONDS = 60.0
"""Until a process must have come up."""
BEHIND_SECONDS = 10.0
"""Until a change is answered though a frontend has not said that it knows: it hangs, and no load may hang with it."""
RECHECK = 1.0
"""Seconds after which the state is looked at again though nobody rang."""
PATIENCE = 0.5
"""Seconds a scrape waits for counts, of all frontends together."""
LAST_WORDS = 5.0
"""Seconds a drained process may take to end, beyond the drain's own."""


class Behind(NamedTuple):
    """What the frontends stand before: what is on offer, where requests go, who answers everything else."""

    catalog: Catalog
    queue: Queue
    table: Methods


@dataclass(eq=False)
class _Slot:
    number: int
    child: Child
    budget: RestartBudget
    departed: Counted = ({}, {})
    """What the processes counted that have ended."""
    restarts: int = 0
    up: bool = False


class Frontends:
    """See `front.Front`; on one event loop. `spawn` early: the processes import what they need meanwhile."""

    def __init__(self, settings: Settings, lifecycle: Lifecycle, counts: Callable[[], Counted]) -> None:
        self._settings = settings
        self._lifecycle = lifecycle
        self._own_counts = counts
        self._slots: list[_Slot] = []
        self._ends: tuple[End, ...] = ()
        self._held: list[socket.socket] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._gathering: set[int] = set()
        self._announcer: Announcer | None = None
        self._sent: dict[str, object] = {}

    def spawn(self) -> None:
        """Take the ports and start the processes. Raises OSError."""
        settings = self._settings
        for port in (settings.grpc_port, settings.http_port):
            self._held.append(reserve(settings.host, port))
        self._ports = tuple(int(held.getsockname()[1]) for held in self._held)
        self._slots = [_Slot(number, self._child(), RestartBudget()) for number in range(settings.frontends)]

    async def open(self, behind: Behind) -> tuple[int, int]:
        """Let every process open the ports and return the gRPC and the HTTP port. Raises FrontendFailed, OSError."""
        self._behind = behind
        self._announcer = Announcer(behind.catalog, self._lifecycle)
        self.announce()
        await asyncio.gather(*(self._bring_up(slot) for slot in self._slots))
        for slot in self._slots:
            self._spawn(self._look_after(slot))
        self._spawn(self._follow())
        return self._ports[0], self._ports[1]

    def announce(self) -> None:
        """Tell every frontend what has changed, before anything else that follows from it."""
        if self._announcer is None:
            return
        state = self._announcer.state()
        if state != self._sent:
            self._sent = state
            for slot in self._slots:
                if slot.child.informed:
                    slot.child.inform(state)

    async def spread(self, method: str) -> None:
        """Return once every frontend answers by what a call of `method` has changed; its caller is answered after that.

        So whoever hears that a model was loaded or unloaded, or why not, finds it so at every frontend.
        """
        if method not in CHANGES:
            return
        self.announce()
        unheard = {slot.number: slot.child.unheard() for slot in self._slots}
        if any(unheard.values()):
            _, late = await asyncio.wait([one for ones in unheard.values() for one in ones], timeout=BEHIND_SECONDS)
            for number in (number for number, ones in unheard.items() if not late.isdisjoint(ones)):
                log.event("frontend_behind", logging.ERROR, frontend=number, method=method, seconds=BEHIND_SECONDS)

    def __enter__(self) -> None:
        """Begin to gather the answers that the calling thread makes."""
        self._gathering.add(threading.get_ident())

    def __exit__(self, *_: object) -> None:
        """Send what was gathered."""
        self._gathering.discard(threading.get_ident())
        for end in self._ends:
            if end.waiting():
                end.flush()

    async def drain(self, grace: float) -> None:
        """Let every frontend refuse new calls and answer what it accepted within `grace` seconds, then end."""
        self._stopping = True
        self.announce()
        living = [slot.child for slot in self._slots if slot.up]
        for child in living:
            child.tell("drain", grace=grace)
        if living:
            await asyncio.wait([child.ended for child in living], timeout=grace + LAST_WORDS)

    async def close(self) -> None:
        """End what is left at once. Idempotent."""
        self._stopping = True
        for task in self._tasks:
            task.cancel()
        slots, self._slots = self._slots, []
        await asyncio.gather(*(slot.child.bury() for slot in slots))
        for held in self._held:
            held.close()

    # What the metrics ask; any thread.

    @property
    def inflight(self) -> int:
        """RPCs accepted and not yet answered, as last heard."""
        return sum(slot.child.inflight for slot in self._slots if slot.up)

    def counts(self) -> Counted:
        """Return what all processes have counted, this one and those that have ended included."""
        living = [slot.child for slot in self._slots if slot.up]
        for child in living:
            child.count()
        for child in living:
            child.counted(PATIENCE / len(living))
        return add_up([self._own_counts(), *(part for slot in self._slots for part in _parts(slot))])

    def snapshots(self) -> list[FrontendSnapshot]:
        """Return what the metrics tell of each."""
        return [
            FrontendSnapshot(slot.number, slot.up, slot.restarts, sum(add_up(_parts(slot))[0].values()))
            for slot in self._slots
        ]

    # One process

    def _child(self) -> Child:
        settings, (grpc_port, http_port) = self._settings, self._ports
        own = replace(
            settings,
            frontends=1,
            grpc_port=grpc_port,
            http_port=http_port,
            max_inflight_mb=max(settings.max_inflight_mb // settings.frontends, settings.max_message_mb),
            log_requests_per_second=-(-settings.log_requests_per_second // settings.frontends),
        )
        return Child(as_flags(own), GROWTH * settings.max_message_mb * MIB + MARGIN)

    async def _bring_up(self, slot: _Slot) -> None:
        child, behind, announcer = slot.child, self._behind, self._announcer
        assert announcer is not None, "open() makes it"  # noqa: S101 - narrows for mypy
        # The loop announces what has changed as soon as it changes, so what it is asked to do then comes after that.
        soon = asyncio.get_running_loop().call_soon_threadsafe
        child.link(Desk(behind.queue, announcer.spec, self._gathering, soon), Clerk(behind.table, self.spread))
        async with asyncio.timeout(START_SECONDS):
            await child.expect("ready")
            child.inform(self._sent)
            child.tell("open")
            await child.expect("opened")
        slot.up = True
        self._ends = self._living_ends()

    def _living_ends(self) -> tuple[End, ...]:
        return tuple(slot.child.end for slot in self._slots if slot.up and slot.child.end is not None)

    async def _look_after(self, slot: _Slot) -> None:
        """Replace the process of a slot as often as it ends."""
        while True:
            why = await slot.child.ended
            slot.up = False
            self._ends = self._living_ends()
            slot.departed = add_up(_parts(slot))
            slot.child.counts, slot.child.inflight = ({}, {}), 0
            status = await slot.child.bury()
            if self._stopping:
                return
            log.event("frontend_died", logging.ERROR, frontend=slot.number, status=status, why=why)
            await self._replace(slot)

    async def _replace(self, slot: _Slot) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        await asyncio.sleep(slot.budget.pause(started))
        slot.restarts += 1
        try:
            slot.child = self._child()
            await self._bring_up(slot)
        except (FrontendFailed, OSError, TimeoutError) as error:
            log.event("frontend_not_started", logging.ERROR, frontend=slot.number, why=str(error))
            slot.child.process.kill()
        else:
            log.event("frontend_replaced", frontend=slot.number, seconds=round(loop.time() - started, 3))

    async def _follow(self) -> None:
        """Pass on what changes; most of it is told by a bell."""
        while True:
            with self._lifecycle.bell() as bell:
                self.announce()
                await rung(bell, RECHECK)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _parts(slot: _Slot) -> Iterator[Counted]:
    yield slot.departed
    yield slot.child.counts
