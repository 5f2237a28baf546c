"""What both kinds of a worker's claims on Redis share: lanes, tokens, the alarm clock, the dead.

The consumer's name must be new at each start (pod name and the process's id, say): that is how others see that the one
before is gone. Names of the gone are removed once they own nothing.
"""

import asyncio
import itertools
import logging
import math
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from redis.exceptions import RedisError

from server import log
from server.errors import InferenceFailed
from server.messages import NO_DEADLINE, InferRequest
from server.queues import redis_keys as keys
from server.queues.claims import Claim
from server.queues.envelope import DamagedEnvelope, Outcome, decode_request
from server.queues.redis_bells import RedisBells
from server.queues.redis_client import BLOCK
from server.queues.redis_link import Argument, RedisLink

SWEEP_INTERVAL = 60.0
_FOREVER_MS = 1 << 50
_FAIRNESS = 8
"""Every so many claims the patient lanes go first, so that a stream of urgent requests cannot starve them."""


class RedisMember:
    """This worker process among its peers: a key that exists while it lives, and who of the others is gone.

    `heartbeat` is the seconds between signs of life; when three in a row are missed, others take over what it held.
    """

    def __init__(self, link: RedisLink, consumer: str, *, heartbeat: float) -> None:
        self.consumer = consumer
        self.heartbeat = heartbeat
        self._ttl = 3.3 * heartbeat
        self._link = link
        self._back_at = -math.inf
        link.on_change(self._note_return)

    def _note_return(self, available: bool) -> None:  # noqa: FBT001 - RedisLink calls it so
        if available:
            self._back_at = time.monotonic()

    @property
    def steady(self) -> bool:
        """Whether Redis has been there for long enough that whoever lives has been able to say so."""
        return time.monotonic() - self._back_at >= self._ttl

    async def beat(self) -> None:
        """Say that this process lives. Raises QueueUnavailable."""
        await self._link.run("beat", [keys.alive(self.consumer)], ["", int(self._ttl * 1000)])

    async def gone(self, consumers: Sequence[str]) -> list[str]:
        """Return those who are dead.

        Nobody counts as dead for a while after Redis was away: then the living had no way to say so either.
        """
        if not self.steady:
            return []
        others = [c for c in consumers if c != self.consumer]
        alive = await asyncio.gather(*(self._link.execute("EXISTS", keys.alive(c)) for c in others))
        return [c for c, lives in zip(others, alive, strict=True) if not lives]

    async def leave(self) -> None:
        """Be gone at once instead of when the key expires. Raises QueueUnavailable."""
        await self._link.execute("UNLINK", keys.alive(self.consumer))


class RedisClaims(ABC):
    """See `server.queues.claims.Claims`; the two kinds add how a claim reads and how it is settled."""

    kind: keys.LaneKind
    claim_script: str
    recover_script: str

    def __init__(
        self,
        link: RedisLink,
        bells: RedisBells,
        member: RedisMember,
        model_name: str,
        routes: tuple[str, ...],
        *,
        lease: float,
    ) -> None:
        self.late = 0
        """Outcomes that came after somebody else had taken over."""
        self.damaged = 0
        self.drained = False
        self._link = link
        self._bells = bells
        self._member = member
        self._model = model_name
        self._prefix = keys.prefix(model_name)
        self._lanes = keys.lanes(model_name, routes, self.kind)
        self._who = f"{member.consumer}:{self.kind}"
        self._lease_ms = int(lease * 1000)
        self._reader = link.client("blocking")
        self._tops = ["0-0"] * len(self._lanes)
        self._name = secrets.token_hex(4)
        self._numbers = itertools.count()
        self._stop_listening: Callable[[], None] | None = None
        self._turn = 0
        self._claiming: list[Argument] | None = None
        self._recovering: list[Argument] | None = None
        self._sweep_at = time.monotonic()

    @abstractmethod
    def _recover_bounds(self) -> list[Argument]:
        """Return what the recover script wants to know beside consumer, token and lease."""

    @abstractmethod
    async def settle(self, outcomes: Sequence[tuple[Claim, Outcome]]) -> int:
        """See `Claims`."""

    async def claim(self, want: int) -> list[Claim]:
        """See `Claims`. A call is repeated with its token until it is answered, so a lost reply loses nothing."""
        if self._claiming is None:
            self._turn += 1
            step = -1 if self._turn % _FAIRNESS == 0 else 1
            self._claiming = [self._prefix, self._who, self._token("claim"), want, step]
        rows, tops, drained = await self._link.run(self.claim_script, self._lanes, self._claiming)
        self._claiming = None
        self.drained = bool(drained)
        self._tops = [top.decode() for top in tops]
        return await self._read(rows)

    async def suspects(self) -> bool:
        """See `Claims`. Consumers that are gone and own nothing are forgotten on the way."""
        gone = await self._gone()
        args: list[Argument] = [self._prefix, self._lease(), *gone]
        found = bool(await self._link.run("suspects", self._lanes, args))
        if gone and not found:
            await self._link.run("forget", self._lanes, [self._prefix, *gone])
        return found

    async def recover(self) -> Claim | None:
        """See `Claims`. Repeated with its token like a claim."""
        if self._recovering is None:
            gone = await self._gone()
            token = self._token("recover")
            self._recovering = [self._prefix, self._who, token, self._lease(), *self._recover_bounds(), *gone]
        rows = await self._link.run(self.recover_script, self._lanes, self._recovering)
        self._recovering = None
        claims = await self._read(rows)
        return claims[0] if claims else None

    def on_cancel(self, callback: Callable[[str], None]) -> None:
        """See `Claims`."""

        def heard(ids: list[str]) -> None:
            for key in ids:
                callback(key)

        self._stop_listening = self._bells.listen(keys.cancel_channel(self._model), heard)

    def _token(self, purpose: str) -> str:
        return f"{self._name}-{purpose}.{next(self._numbers)}"

    def _lease(self) -> int:
        """Return the lease in ms; right after an outage nobody has been able to renew, so nothing counts as let go."""
        return self._lease_ms if self._member.steady else _FOREVER_MS

    async def _gone(self) -> list[str]:
        known = [name.decode() for name in await self._link.run("gone", self._lanes, [self._prefix])]
        names = {name.removesuffix(f":{self.kind}"): name for name in known if name.endswith(f":{self.kind}")}
        return [names[consumer] for consumer in await self._member.gone(list(names))]

    @abstractmethod
    def _note(self, claim: Claim, payload: bytes, extra: str) -> None:
        """Keep on the claim what else its row said."""

    async def _read(self, rows: Sequence[Any]) -> list[Claim]:
        """Return the claims of a reply; what was damaged on the way is settled as failed and left out."""
        claims, damaged, now = [], [], time.monotonic()
        for lane, entry, key, left, attempt, payload, extra in rows:
            unread = InferRequest(self._model, "", "", (), 0)
            queued_ms = int(entry.partition(b"-")[0])  # an entry's name is when it was added, and a number
            claim = Claim(key.decode(), unread, attempt, lane, entry.decode(), queued_ms=queued_ms)
            try:
                claim.request = decode_request(payload, NO_DEADLINE if left < 0 else now + left / 1000)
                claims.append(claim)
            except DamagedEnvelope:
                damaged.append(claim)
            self._note(claim, payload, extra.decode())
        if damaged:
            self.damaged += len(damaged)
            log.event("queue_entry_damaged", logging.ERROR, model=self._model, entries=len(damaged))
            error = InferenceFailed("queue: the stored request was damaged")
            await self.settle([(claim, error) for claim in damaged])
        return claims

    async def wait(self) -> None:
        """See `Claims`. XREAD without a group takes nothing away, so here too a lost reply loses nothing."""
        streams = [*self._lanes, *self._tops]
        try:
            await self._reader.execute_command("XREAD", "COUNT", 1, "BLOCK", int(BLOCK * 1000), "STREAMS", *streams)
        except (RedisError, OSError):
            await self._link.wait_available()
            await asyncio.sleep(0.02)  # the breaker may not have noticed yet

    async def tidy(self) -> None:
        """See `Claims`."""
        if time.monotonic() >= self._sweep_at:
            self._sweep_at = time.monotonic() + SWEEP_INTERVAL
            args: list[Argument] = [self._prefix, int(SWEEP_INTERVAL * 900)]
            orphans = await self._link.run("sweep", [keys.any_key(self._model)], args)
            if orphans > 0:
                log.event("queue_orphans", logging.WARNING, model=self._model, entries=orphans)

    async def leave(self) -> None:
        """See `Claims`."""
        if self._stop_listening is not None:
            self._stop_listening()
        await self._link.give_back(self._reader)
        await self._link.run("forget", self._lanes, [self._prefix, self._who])
