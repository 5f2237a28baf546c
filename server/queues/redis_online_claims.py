"""A worker's claims on online requests: constructed like `RedisJobClaims`, and named before it in the worker's list.

Nothing about an online request outlives it: the entry carries everything, the delivery count of the group is the number
of attempts, and the lease only matters when a process hangs without dying.
"""

from collections.abc import Sequence

from typing_extensions import override

from server.errors import InferenceFailed
from server.queues.claims import Claim, Renewal
from server.queues.envelope import Outcome, encode_outcome
from server.queues.redis_claims import RedisClaims
from server.queues.redis_link import Argument

MAX_ATTEMPTS = 3
_SETTLE = 500
"""Answers per call: all of one frontend's are the arguments of one XADD, and Lua's stack has an end."""


class RedisOnlineClaims(RedisClaims):
    """See `server.queues.claims.Claims`."""

    kind = "o"
    claim_script = "take"
    recover_script = "retake"

    @override
    def _recover_bounds(self) -> list[Argument]:
        error = InferenceFailed(f"queue: the worker died in each of {MAX_ATTEMPTS} attempts")
        return [MAX_ATTEMPTS, encode_outcome(error)]

    @override
    def _note(self, claim: Claim, payload: bytes, extra: str) -> None:
        claim.reply_to, claim.size = extra, len(payload)

    @override
    async def settle(self, outcomes: Sequence[tuple[Claim, Outcome]]) -> int:
        late = 0
        for start in range(0, len(outcomes), _SETTLE):
            args: list[Argument] = [self._prefix, self._who]
            for claim, outcome in outcomes[start : start + _SETTLE]:
                args += [claim.lane, claim.entry, claim.key, claim.reply_to, claim.size, encode_outcome(outcome)]
            verdicts = await self._link.run("answer", self._lanes, args)
            late += verdicts.count(b"STALE")
        self.late += late
        return late

    async def release(self, claims: Sequence[Claim]) -> None:
        """See `Claims`."""
        args: list[Argument] = [self._prefix, self._who]
        for claim in claims:
            args += [claim.lane, claim.entry]
        await self._link.run("untake", self._lanes, args)

    async def renew(self, claims: Sequence[Claim]) -> Renewal:
        """See `Claims`."""
        args: list[Argument] = [self._prefix, self._who]
        for claim in claims:
            args += [claim.lane, claim.entry, claim.key]
        lost, _ = await self._link.run("renew", self._lanes, args)
        return Renewal(tuple(key.decode() for key in lost))
