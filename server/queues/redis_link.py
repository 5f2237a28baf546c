"""One process's line to Redis: scripts in pipelines, a circuit breaker, and an eye on whether the data is still there.

Whatever is called while a pipeline is on its way travels in the next one, so ten thousand callers share one connection
and the busier it gets the less each call costs. Calls are repeated after a lost connection, which is safe because every
script is idempotent and so is every plain command that is sent here.

The breaker watches over a connection of its own, on which it reads the epoch key twenty times a second. Redis counts as
away when an answer is `patience` late or the connection is refused; from then on calls fail at once, those under way
included, until the epoch is read again. An epoch that changed or is missing means that Redis lost its data.

Everything here runs on one event loop. Redis's exceptions end here: callers see QueueUnavailable, BrokerFull or
BrokerRefused.
"""

import asyncio
import logging
import random
import secrets
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from redis import exceptions as failures

from server import log
from server.errors import QueueUnavailable
from server.queues.redis_address import RedisAddress
from server.queues.redis_client import AnyRedis, Purpose, connect, disconnect
from server.queues.redis_scripts import load_scripts
from server.queues.redis_tasks import cancel_all, spawn

EPOCH = "tq:epoch"
WATCH_INTERVAL = 0.05
PIPELINE = 256
"""Calls per pipeline: more would hold Redis up for longer than others like to wait."""

Argument = str | bytes | int | float
AWAY = (failures.ConnectionError, failures.TimeoutError, failures.ReadOnlyError, OSError)
"""What means "not now", as opposed to "never like this". A read-only answer comes from a master that was demoted."""


class BrokerFull(Exception):
    """Redis is at maxmemory and refused to take more."""


class BrokerRefused(Exception):
    """Redis answered with an error that repeating will not cure: a missing permission, or a bug of ours."""


class _Call:
    __slots__ = ("command", "future", "name")

    def __init__(self, name: str, command: tuple[Argument, ...]) -> None:
        self.name = name
        self.command = command
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()


class RedisLink:
    """Open with `open`, then `run` scripts by name. `patience` is how late an answer may be, in seconds."""

    def __init__(self, address: RedisAddress, name: str, *, patience: float = 0.12) -> None:
        self.address = address
        self.name = name
        self.data_losses = 0
        self._patience = patience
        self._scripts = load_scripts()
        self._commands = connect(address, "commands", name)
        self._watch = connect(address, "commands", f"{name}:watch")
        self._clients: list[AnyRedis] = [self._commands, self._watch]
        self._queue: deque[_Call] = deque()
        self._sent: list[_Call] = []
        self._up = asyncio.Event()
        self._closing = False
        self._known: bool | None = None
        self._epoch: bytes | str | None = None
        self._asked_at: float | None = None
        self._listeners: list[Callable[[bool], None]] = []
        self._loss_listeners: list[Callable[[], None]] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._sending: asyncio.Task[None] | None = None

    @property
    def available(self) -> bool:
        """Whether Redis answered when it was last asked."""
        return self._up.is_set()

    def client(self, purpose: Purpose) -> AnyRedis:
        """Return a new client for what scripts cannot do; it is closed with the link."""
        made = connect(self.address, purpose, self.name)
        self._clients.append(made)
        return made

    async def give_back(self, client: AnyRedis) -> None:
        """Close a client before the link is closed."""
        self._clients.remove(client)
        await disconnect(client)

    def on_change(self, callback: Callable[[bool], None]) -> None:
        """Call `callback(available)` each time Redis goes away or comes back."""
        self._listeners.append(callback)

    def on_data_loss(self, callback: Callable[[], None]) -> None:
        """Call `callback` when Redis turns out to have lost its data."""
        self._loss_listeners.append(callback)

    async def open(self) -> None:
        """Start; returns once Redis was asked for the first time, whether it answered or not."""
        await self._ask_epoch()
        self._tasks = [spawn(job()) for job in (self._watch_loop, self._late_loop)]

    async def close(self) -> None:
        """End every call with QueueUnavailable and close all connections. Idempotent."""
        self._closing = True
        await cancel_all(*self._tasks)
        self._tasks = []
        self._up.clear()
        self._fail_calls()
        for client in self._clients:
            await disconnect(client)

    async def wait_available(self) -> None:
        """Return as soon as Redis answers."""
        await self._up.wait()

    async def run(self, name: str, keys: Sequence[str], args: Sequence[Argument]) -> Any:  # noqa: ANN401
        """Run the script lua/<name>.lua and return its reply.

        Raises:
            QueueUnavailable: Redis is away; the script may or may not have run.
            BrokerFull: Redis is at maxmemory and the script is not one of those that may exceed it.
        """
        return await self._call(name, ("EVALSHA", self._scripts[name].sha, len(keys), *keys, *args))

    async def execute(self, *command: Argument) -> Any:  # noqa: ANN401
        """Run one command that bears being repeated. Raises as `run` does."""
        return await self._call(str(command[0]), command)

    async def _call(self, name: str, command: tuple[Argument, ...]) -> Any:  # noqa: ANN401
        if not self._up.is_set():
            raise self.away()
        call = _Call(name, command)
        self._queue.append(call)
        self._send_next()
        return await call.future

    def away(self) -> QueueUnavailable:
        """Return the error that says so."""
        return QueueUnavailable("queue: Redis cannot be reached at the moment", retry_after=0.5)

    def _send_next(self) -> None:
        """Send what waits, unless a pipeline is on its way: then it goes with the next one."""
        if self._queue and self._sending is None:
            # A task of its own, so that the breaker can end a send that hangs.
            self._sending = spawn(self._send_waiting())
            self._sending.add_done_callback(self._sent_all)

    def _sent_all(self, _task: "asyncio.Task[None]") -> None:
        self._sending, self._sent = None, []
        self._send_next()

    async def _send_waiting(self) -> None:
        """Take what has gathered by now, not when it was decided to send."""
        self._sent = [self._queue.popleft() for _ in range(min(PIPELINE, len(self._queue)))]
        await self._send(self._sent)

    async def _send(self, calls: list[_Call]) -> None:
        delay = 0.01
        while calls:
            try:
                calls = await self._attempt(calls)
            except AWAY:
                if not self._up.is_set():
                    return
                await asyncio.sleep(delay * random.uniform(0.5, 1.5))  # noqa: S311 - jitter, not a secret
                delay = min(2 * delay, 0.2)
            except failures.RedisError as error:
                _resolve_all(calls, error)
                return

    async def _attempt(self, calls: list[_Call]) -> list[_Call]:
        """Send `calls` and hand out the replies; return those to send again."""
        again: list[_Call] = []
        missing = False
        for call, reply in zip(calls, await self._replies(calls), strict=True):
            if isinstance(reply, (failures.NoScriptError, *AWAY)):
                again.append(call)
                missing = missing or isinstance(reply, failures.NoScriptError)
            else:
                _resolve(call, reply)
        if missing:
            await self._load()
        return again

    async def _replies(self, calls: list[_Call]) -> list[Any]:
        if self.address.kind == "cluster":
            each = (self._commands.execute_command(*call.command) for call in calls)
            return list(await asyncio.gather(*each, return_exceptions=True))
        async with self._commands.pipeline(transaction=False) as pipe:
            for call in calls:
                pipe.execute_command(*call.command)
            return list(await pipe.execute(raise_on_error=False))

    async def _load(self) -> None:
        for script in self._scripts.values():
            await self._commands.script_load(script.text)

    async def _watch_loop(self) -> None:
        # Not `while True`: redis-py 8.1 was seen to swallow the CancelledError of a command that was being cancelled.
        while not self._closing:
            await asyncio.sleep(WATCH_INTERVAL)
            await self._ask_epoch()

    async def _ask_epoch(self) -> None:
        self._asked_at = time.monotonic()
        try:
            epoch = await self._watch.get(EPOCH)
            if epoch is None:
                await self._watch.set(EPOCH, secrets.token_hex(16), nx=True)
                epoch = await self._watch.get(EPOCH)
        except (*AWAY, failures.ResponseError):
            self._set(available=False)
        else:
            self._compare(epoch)
            self._set(available=True)
        finally:
            self._asked_at = None

    def _compare(self, epoch: bytes | str | None) -> None:
        before, self._epoch = self._epoch, epoch
        if before is None or before == epoch:
            return
        self.data_losses += 1
        log.event("queue_data_lost", logging.ERROR, queue=str(self.address), losses=self.data_losses)
        for listener in self._loss_listeners:
            listener()

    async def _late_loop(self) -> None:
        """Notice an answer that is late. A tick that is late itself says nothing about Redis: it grants more time."""
        tick = self._patience / 4
        while True:
            before = time.monotonic()
            await asyncio.sleep(tick)
            now = time.monotonic()
            stalled = now - before > 2 * tick
            if stalled and self._asked_at is not None:
                self._asked_at = max(self._asked_at, now - self._patience / 2)
            if self._asked_at is not None and now - self._asked_at > self._patience:
                self._set(available=False)

    def _set(self, *, available: bool) -> None:
        if available == self._known:
            return
        self._known = available
        if available:
            self._up.set()
        else:
            self._up.clear()
            self._fail_calls()
        log.event("queue_available" if available else "queue_away", logging.WARNING, queue=str(self.address))
        for listener in self._listeners:
            listener(available)

    def _fail_calls(self) -> None:
        """End every call; the connection goes with the one under way, so no reply can reach a later one."""
        if self._sending is not None:
            self._sending.cancel()
        for call in (*self._sent, *self._queue):
            if not call.future.done():
                call.future.set_exception(self.away())
        self._queue.clear()


def _resolve_all(calls: Sequence[_Call], error: Exception) -> None:
    for call in calls:
        _resolve(call, error)


def _resolve(call: _Call, reply: Any) -> None:  # noqa: ANN401
    if call.future.done():
        return
    if isinstance(reply, failures.OutOfMemoryError):
        call.future.set_exception(BrokerFull("Redis is at maxmemory"))
    elif isinstance(reply, Exception):
        refused = BrokerRefused(f"{call.name}: {type(reply).__name__}")
        refused.__cause__ = reply
        call.future.set_exception(refused)
    else:
        call.future.set_result(reply)
