"""Answers that server processes share in Redis: asked on a thread of its own, and waited for no longer than agreed.

A look-up that has no answer after `patience` seconds is a miss, and so is every one while Redis is away, at once.
Values are envelopes, so a damaged one is a miss as well. Nothing here is needed for a right answer: Redis may forget,
evict and restart as it likes.

The thread has an event loop to itself, because the one of the rare RPCs may be busy for longer than a request may wait.
Names in Redis depend on the content of the model's files: a version that was made again is not answered for by the one
before. This module must never know a scheduler.
"""

import asyncio
import json
import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from hashlib import blake2b

from server import log
from server.alarm import call_isolated
from server.answers import Key, Outputs, SharedStatistics
from server.messages import InferResponse, Tensor, Timing
from server.queues import redis_keys as keys
from server.queues.envelope import DamagedEnvelope, decode_outcome, encode_outcome
from server.queues.inbox import Inbox
from server.queues.redis_address import RedisAddress
from server.queues.redis_lookups import Errand, Messenger
from server.queues.redis_tasks import cancel_all, spawn
from server.spec import ModelSpec

MOST_BYTES = 32 << 20
"""Of answers on their way to Redis; what comes beyond is not told."""

Found = Callable[[Outputs | None], None]


class RedisCache:
    """One process's part in the shared answers; any thread. `ttl` and `patience` are seconds."""

    def __init__(self, address: RedisAddress, *, ttl: float, patience: float) -> None:
        self.address = address
        self.patience = patience
        self.ttl_ms = max(1, int(1000 * ttl))
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, str], int] = {}
        self._available = False
        self._known: bool | None = None
        self._bytes = 0
        self._closing = False
        self._inbox: Inbox[Errand]
        self._stop: Callable[[], None] | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="shared-cache", daemon=True)
        self._started = threading.Event()

    def start(self) -> None:
        """Start connecting; returns before that has come to anything."""
        self._thread.start()
        self._started.wait()

    def close(self) -> None:
        """Answer every look-up with a miss and disconnect. Idempotent."""
        if self._stop is not None:
            self._closing = True
            self._stop()
            self._thread.join()

    def shelf(self, spec: ModelSpec, digest: str) -> "Shelf":
        """Return the answers of one version; `digest` is that of its files."""
        return Shelf(self, spec, digest)

    def statistics(self) -> SharedStatistics:
        """Return the counts so far."""
        with self._lock:
            return SharedStatistics(self._available, dict(self._counts))

    def count(self, operation: str, result: str) -> None:
        """Count one outcome."""
        with self._lock:
            self._counts[operation, result] = self._counts.get((operation, result), 0) + 1

    def send(self, errand: Errand) -> bool:
        """Hand an errand over, or return False where Redis is away."""
        with self._lock:
            # under the lock, so that none comes after the last look into the inbox
            if self._available:
                self._inbox.put(errand)
            return self._available

    def reserve(self, size: int) -> bool:
        """Count bytes on their way, negative ones as arrived; False where there are too many."""
        with self._lock:
            if size > 0 and self._bytes + size > MOST_BYTES:
                return False
            self._bytes += size
            return True

    async def _serve(self) -> None:
        loop, stopping = asyncio.get_running_loop(), asyncio.Event()
        self._inbox = Inbox()
        messenger = Messenger(self.address, "cache", self._switch)
        self._stop = partial(_call, loop, stopping.set)
        self._started.set()
        tasks = [spawn(self._hand_over(messenger)), spawn(messenger.run())]
        await stopping.wait()
        await cancel_all(*tasks)
        messenger.add(self._inbox.take_nowait())
        messenger.give_up()

    async def _hand_over(self, messenger: Messenger) -> None:
        while True:
            messenger.add(await self._inbox.take_all())

    def _switch(self, *, available: bool) -> None:
        with self._lock:
            self._available = available
        if available != self._known and not self._closing:
            self._known = available
            level = logging.INFO if available else logging.WARNING
            log.event("cache_available" if available else "cache_away", level, cache=str(self.address))


class Shelf:
    """The answers of one model version: `server.answers.SharedAnswers`."""

    def __init__(self, cache: RedisCache, spec: ModelSpec, digest: str) -> None:
        self._cache = cache
        self._spec = spec
        identity = [spec.name, spec.version, digest, repr(spec.inputs), repr(spec.outputs)]
        self._identity = json.dumps(identity).encode()

    def fetch(self, key: Key, found: Found) -> bool:
        """See `SharedAnswers`."""
        deadline = time.monotonic() + self._cache.patience
        errand = Errand(lambda: ("GET", self.name(key)), partial(self._fetched, found), deadline)
        sent = self._cache.send(errand)
        if not sent:
            self._cache.count("get", "away")
        return sent

    def put(self, key: Key, outputs: Outputs) -> None:
        """See `SharedAnswers`."""
        size = sum(len(tensor.data) for tensor in outputs)
        if not self._cache.reserve(size):
            self._cache.count("put", "dropped")
            return
        errand = Errand(partial(self._set, key, outputs), partial(self._told, size))
        if not self._cache.send(errand):
            errand.end(None, "away")

    def name(self, key: Key) -> str:
        """Return what a content is called in Redis."""
        outputs, tensors = key
        digest = blake2b(self._identity, digest_size=32)
        digest.update(json.dumps([outputs, [tensor[:4] for tensor in tensors]]).encode())
        for *_, content in tensors:
            digest.update(content)
        return keys.answer(digest.hexdigest())

    def _set(self, key: Key, outputs: Outputs) -> tuple[str | bytes | int, ...]:
        value = encode_outcome(InferResponse(self._spec.name, self._spec.version, "", outputs, Timing()))
        return "SET", self.name(key), value, "PX", self._cache.ttl_ms

    def _told(self, size: int, _: object, why: str) -> None:
        self._cache.reserve(-size)
        self._cache.count("put", why or "stored")

    def _fetched(self, found: Found, value: bytes | None, why: str) -> None:
        outputs = None
        try:
            if value is not None:
                outputs = self._decode(value)
        except DamagedEnvelope as error:
            why = "damaged"
            log.event("cache_value_damaged", logging.WARNING, model=self._spec.name, error=str(error))
        self._cache.count("get", why or ("miss" if outputs is None else "hit"))
        call_isolated(found, outputs)

    def _decode(self, value: bytes) -> Outputs:
        answer = decode_outcome(value)
        if not isinstance(answer, InferResponse):
            raise DamagedEnvelope("cache: expected an answer, got an error")
        if (answer.model_name, answer.model_version) != (self._spec.name, self._spec.version):
            raise DamagedEnvelope(f"cache: expected an answer of {self._spec.name}, got one of {answer.model_name}")
        return tuple(Tensor(t.name, t.datatype, t.shape, bytes(t.data)) for t in answer.outputs)


def _call(loop: asyncio.AbstractEventLoop, work: Callable[[], None]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(work)
