"""A worker's claims on durable jobs.

    link = RedisLink(address, "worker-1");  await link.open()
    member = RedisMember(link, "pod-7-1", heartbeat=3.0)
    claims = RedisJobClaims(link, RedisBells(link), member, "churn", ("2", ""), limits, lease=60.0)

`routes` are the versions asked for that this worker answers: its own, and "" if it is the one that serves any.
"""

from collections.abc import Sequence

from typing_extensions import override

from server.admission import SLACK_PRIORITY
from server.errors import Cancelled, DeadlineExceeded, DeadlineUnreachable, InferenceFailed, ServingError
from server.jobs import JobLimits
from server.queues.claims import Claim, Renewal
from server.queues.envelope import Outcome, encode_outcome
from server.queues.redis_bells import RedisBells
from server.queues.redis_claims import RedisClaims, RedisMember
from server.queues.redis_link import Argument, RedisLink


class RedisJobClaims(RedisClaims):
    """See `server.queues.claims.Claims`."""

    kind = "j"
    claim_script = "claim"
    recover_script = "recover"

    def __init__(  # noqa: PLR0913 - the base's, and the limits
        self,
        link: RedisLink,
        bells: RedisBells,
        member: RedisMember,
        model_name: str,
        routes: tuple[str, ...],
        limits: JobLimits,
        *,
        lease: float,
    ) -> None:
        super().__init__(link, bells, member, model_name, routes, lease=lease)
        self._bounds: list[Argument] = [limits.max_attempts, limits.max_dead, int(limits.dead_ttl * 1000)]

    @override
    def _recover_bounds(self) -> list[Argument]:
        return self._bounds

    @override
    async def settle(self, outcomes: Sequence[tuple[Claim, Outcome]]) -> int:
        args: list[Argument] = [self._prefix, self._who, *self._bounds]
        for claim, outcome in outcomes:
            args += [claim.lane, claim.entry, claim.key, claim.attempt, _state(outcome), encode_outcome(outcome)]
        verdicts = await self._link.run("finish", self._lanes, args)
        late: int = verdicts.count(b"STALE")
        self.late += late
        return late

    @override
    def _note(self, claim: Claim, payload: bytes, extra: str) -> None:
        claim.cancelled = extra == "1"
        # Its own priority chose the lane; against online requests a job gets the slack only.
        claim.request.priority = SLACK_PRIORITY

    async def release(self, claims: Sequence[Claim]) -> None:
        """See `Claims`."""
        args: list[Argument] = [self._prefix, self._who]
        for claim in claims:
            args += [claim.lane, claim.entry, claim.key, claim.attempt]
        await self._link.run("release", self._lanes, args)

    async def renew(self, claims: Sequence[Claim]) -> Renewal:
        """See `Claims`."""
        args: list[Argument] = [self._prefix, self._who]
        for claim in claims:
            args += [claim.lane, claim.entry, claim.key]
        lost, cancelled = await self._link.run("renew", self._lanes, args)
        return Renewal(tuple(key.decode() for key in lost), tuple(key.decode() for key in cancelled))


def _state(outcome: Outcome) -> str:
    """Return what a job becomes: a run that broke may go better next time, a request that is wrong will not."""
    if not isinstance(outcome, ServingError):
        return "done"
    if isinstance(outcome, InferenceFailed):
        return "retry"
    if isinstance(outcome, Cancelled):
        return "cancelled"
    return "expired" if isinstance(outcome, (DeadlineExceeded, DeadlineUnreachable)) else "failed"
