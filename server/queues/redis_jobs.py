"""Durable jobs on Redis: what `server.jobs.JobStore` promises, kept by the scripts in lua/.

    link = RedisLink(address, "frontend-1");  await link.open()
    jobs = RedisJobs(link, RedisBells(link), limits)

The keys are listed at the top of lua/common.lua, the guarantees in docs/jobs.md. This module holds no state that
matters: any frontend answers for any job, and all of them may die.
"""

import asyncio
import hashlib
import heapq
from collections.abc import AsyncIterator
from itertools import chain

from server.errors import (
    AlreadyExists,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidRequest,
    QueueFull,
    ServingError,
)
from server.jobs import (
    Job,
    JobLimits,
    JobOptions,
    JobPage,
    JobQuery,
    JobState,
    JobStatistics,
    check_key,
    check_model_name,
    model_of,
    new_job_id,
    not_found,
)
from server.messages import InferRequest
from server.queues import redis_keys as keys
from server.queues.envelope import encode_request, fingerprint
from server.queues.redis_bells import RedisBells
from server.queues.redis_link import Argument, BrokerFull, RedisLink
from server.queues.redis_look import RedisLook
from server.queues.redis_replicas import RedisReplicas
from server.queues.redis_view import View, to_job
from server.queues.redis_waiters import RedisWaiters

MAX_PAGE = 1000
_LONGEST_RUN = 3600.0
_SCAN = 2000
"""Records one list call looks at per round trip at most."""


class RedisJobs:
    """A `JobStore`. `durable` is False where the start-up checks found that Redis may lose what it acknowledged.

    `replicas` must have a job before its submission is acknowledged.
    """

    def __init__(
        self, link: RedisLink, bells: RedisBells, limits: JobLimits, *, durable: bool = True, replicas: int = 0
    ) -> None:
        self._link = link
        self._limits = limits
        self._replicas = RedisReplicas(link, replicas) if replicas else None
        self._waiters = RedisWaiters(link, bells)
        self._look = RedisLook(link, durable=durable)
        self._known: set[str] = set()

    async def close(self) -> None:
        """End the waiters. Idempotent."""
        await self._waiters.close()
        await self._look.close()
        if self._replicas is not None:
            await self._replicas.close()

    async def submit(self, request: InferRequest, options: JobOptions) -> Job:
        """See `JobStore`."""
        model = check_model_name(request.model_name)
        args = self._submission(request, options)
        lanes = _job_lanes(request)
        try:
            await self._introduce(model)
            reply = await self._link.run("submit", lanes, args)
        except BrokerFull as error:
            raise QueueFull("jobs: Redis is at its memory limit", retry_after=5.0) from error
        if reply[0] not in {b"OK", b"DUP"}:
            raise self._refusal(reply)
        job = to_job(reply[1])
        if self._replicas is not None:
            await self._replicas.keep(f"{keys.prefix(model)}j:{job.id}")
        return job

    def _submission(self, request: InferRequest, options: JobOptions) -> list[Argument]:
        limits = self._limits
        ttl = min(options.result_ttl or limits.result_ttl, limits.max_result_ttl)
        budget = 0 if options.deadline is None else int(options.deadline * 1000) or -1
        # A job with a deadline cannot wait longer than it; the record must outlive the wait, the run and the result.
        keep = (
            _ms(min(options.deadline, limits.max_wait) if options.deadline else limits.max_wait) + _ms(ttl) + 3_600_000
        )
        key = check_key(options.idempotency_key)
        idem = hashlib.sha256(f"{options.tenant}\0{key}".encode()).hexdigest() if key else ""
        return [
            keys.prefix(request.model_name), new_job_id(request.model_name), encode_request(request),
            fingerprint(request), idem, _ms(limits.idempotency_window), budget, keep, _ms(ttl),
            limits.max_depth, limits.max_bytes, _ms(limits.max_age), options.tenant,
            request.model_version, request.priority,
        ]  # fmt: skip

    def _refusal(self, reply: View) -> ServingError:
        if reply[0] == b"CONFLICT":
            return AlreadyExists("idempotency_key: expected a new key for a new request, this one has another request")
        if reply[0] == b"EXPIRED":
            return DeadlineExceeded("jobs: expected a deadline in the future")
        limits = self._limits
        full = {
            b"depth": f"the queue holds {reply[2]} of at most {limits.max_depth} unfinished jobs",
            b"bytes": f"the queue holds {reply[2]} of at most {limits.max_bytes} bytes",
            b"age": f"the oldest job has waited {reply[2] / 1000:.0f} s, longer than {limits.max_age:.0f} s",
        }
        return QueueFull(f"jobs: {full[reply[1]]}", retry_after=1.0 if reply[1] != b"age" else 5.0)

    async def get(self, job_id: str, tenant: str = "") -> Job:
        """See `JobStore`."""
        model = model_of(job_id)
        (view,) = await self._link.run("read", [keys.any_key(model)], [keys.prefix(model), job_id])
        return _owned(view, tenant)

    async def wait(self, job_id: str, tenant: str = "") -> AsyncIterator[Job]:
        """See `JobStore`. The waiter is registered before the first look, so no change falls between the two."""
        with self._waiters.watch(model_of(job_id), job_id) as changed:
            seen: tuple[JobState, int] | None = None
            while True:
                job = await self.get(job_id, tenant)
                if seen != (job.state, job.attempts):
                    seen = (job.state, job.attempts)
                    yield job
                if job.state.final:
                    return
                await changed(f"{job.state}:{job.attempts}")

    async def cancel(self, job_id: str, tenant: str = "") -> Job:
        """See `JobStore`."""
        model = model_of(job_id)
        view = await self._link.run("cancel", [keys.any_key(model)], [keys.prefix(model), job_id, tenant])
        return _owned(view, tenant)

    async def list_jobs(self, query: JobQuery) -> JobPage:
        """See `JobStore`. Pages of several models are merged; a position is an instant and a job."""
        want = min(query.page_size or 50, MAX_PAGE)
        score, last = _position(query.page_token)
        models = [check_model_name(query.model_name)] if query.model_name else await self._models()
        pages = await asyncio.gather(*(self._page(model, query, score, last, want) for model in models))
        jobs = tuple(heapq.nsmallest(want, chain(*pages), key=lambda job: (-job.submitted_at_ms, _reversed(job.id))))
        token = f"{jobs[-1].submitted_at_ms}.{jobs[-1].id}" if len(jobs) == want else ""
        return JobPage(jobs, token)

    async def _page(self, model: str, query: JobQuery, score: str, last: str, want: int) -> list[Job]:
        """Return up to `want` jobs of one model; keeps looking while a filter lets few pass."""
        jobs: list[Job] = []
        state = query.state.value if query.state is not None else ""
        while len(jobs) < want:
            args: list[Argument] = [keys.prefix(model), score, last, state, query.tenant, want - len(jobs), _SCAN]
            views, at, job = await self._link.run("list", [keys.any_key(model)], args)
            jobs += [to_job(view) for view in views]
            if not at:
                break
            score, last = at.decode(), job.decode()
        return jobs

    async def list_dead(self, query: JobQuery) -> JobPage:
        """See `JobStore`. Without a model the pages go through the models one after the other."""
        want = min(query.page_size or 50, MAX_PAGE)
        models = [check_model_name(query.model_name)] if query.model_name else sorted(await self._models())
        model, _, below = query.page_token.rpartition("|")
        jobs: list[Job] = []
        for name in [m for m in models if m >= model]:
            entry = below if name == model and below else "+"
            while entry:
                args: list[Argument] = [keys.prefix(name), entry, want - len(jobs), query.tenant]
                views, reached = await self._link.run("dead", [keys.any_key(name)], args)
                jobs += [to_job(view) for view in views]
                entry = reached.decode()
                if len(jobs) >= want and entry:
                    return JobPage(tuple(jobs), f"{name}|{entry}")
        return JobPage(tuple(jobs))

    async def retry_dead(self, job_id: str, tenant: str = "") -> Job:
        """See `JobStore`."""
        model = model_of(job_id)
        limits = self._limits
        keep = _ms(limits.max_wait + limits.max_result_ttl)
        args: list[Argument] = [keys.prefix(model), job_id, tenant, limits.max_depth, keep]
        try:
            reply = await self._link.run("retry_dead", [keys.any_key(model)], args)
        except BrokerFull as error:
            raise QueueFull("jobs: Redis is at its memory limit", retry_after=5.0) from error
        if reply[0] == b"OK":
            return to_job(reply[1])
        if reply[0] == b"FULL":
            raise self._refusal(reply)
        raise _not_dead(job_id, reply[0])

    async def drop_dead(self, job_id: str, tenant: str = "") -> None:
        """See `JobStore`."""
        model = model_of(job_id)
        reply = await self._link.run("drop_dead", [keys.any_key(model)], [keys.prefix(model), job_id, tenant])
        if reply != b"OK":
            raise _not_dead(job_id, reply)

    def statistics(self) -> JobStatistics:
        """See `JobStore`."""
        return self._look.statistics()

    async def _introduce(self, model: str) -> None:
        if model not in self._known:
            await self._link.execute("SADD", keys.MODELS, model)
            self._known.add(model)
            self._look.include(model)

    async def _models(self) -> list[str]:
        return [name.decode() for name in await self._link.execute("SMEMBERS", keys.MODELS)]


def _owned(view: View, tenant: str) -> Job:
    flat = view[1]
    owner = dict(zip(flat[::2], flat[1::2], strict=True)).get(b"tn")
    if owner is None or owner.decode() != tenant:
        raise not_found(view[0].decode())
    return to_job(view)


def _not_dead(job_id: str, reply: bytes) -> ServingError:
    if reply == b"NOT_FOUND":
        return not_found(job_id)
    if reply == b"LOST":
        return FailedPrecondition("job: its request is no longer kept, so it cannot run again")
    return FailedPrecondition("job: expected one among the dead letters, it is not")


def _job_lanes(request: InferRequest) -> list[str]:
    """Return the lane of this request first, then the other one of its route."""
    urgent = keys.is_urgent(request.priority)
    name, route = request.model_name, request.model_version
    return [keys.lane(name, route, "j", urgent=urgent), keys.lane(name, route, "j", urgent=not urgent)]


def _position(token: str) -> tuple[str, str]:
    if not token:
        return "+inf", ""
    score, _, job = token.partition(".")
    if not score.isdecimal() or not job:
        raise InvalidRequest(f"page_token: expected one from the page before, got {token[:64]!r}")
    return score, job


def _reversed(text: str) -> tuple[int, ...]:
    """Return a key that sorts text backwards, as ZREVRANGEBYSCORE does among equal scores."""
    return tuple(-byte for byte in text.encode())


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
