r"""Durable jobs: inference that outlives the call. The domain and the contract, without a broker.

`RedisJobs` in queues/ keeps the promise; a server without Redis answers NeedsRedis instead of pretending.
This module must never know redis, a wire or how a model runs.

Life of a job:

    QUEUED -> RUNNING -> DONE
       |         |  \--> FAILED      the request's own fault; or its attempts ran out, then it is among the dead
       |         |  \--> QUEUED      its worker drained, or its run broke and attempts are left
       |         \-----> CANCELLED
       \-> CANCELLED, EXPIRED         before it ran
"""

import re
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from server.errors import InvalidRequest, JobNotFound, NeedsRedis, ServingError
from server.messages import InferRequest, InferResponse

_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_JOB = re.compile(rf"({_MODEL.pattern})-[0-9a-f]{{32}}")
MAX_KEY_CHARACTERS = 128


class JobState(StrEnum):
    """Where a job is in its life."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    @property
    def final(self) -> bool:
        """Whether the job has ended."""
        return self not in {JobState.QUEUED, JobState.RUNNING}


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it is at one moment. Instants are milliseconds since the epoch by the broker's clock, 0 for not yet.

    `model_version` is the one asked for ("" for any) until the job is done, then the one that answered.
    `result` is set when DONE and asked for; `error` when it ended any other way. `dead`: attempts used up, retryable.
    """

    id: str
    state: JobState
    model_name: str
    model_version: str
    attempts: int
    priority: int
    submitted_at_ms: int
    started_at_ms: int = 0
    finished_at_ms: int = 0
    deadline_ms: int = 0
    dead: bool = False
    result: InferResponse | None = None
    error: ServingError | None = None


@dataclass(frozen=True, slots=True)
class JobOptions:
    """What a caller says about a job beside the request itself (whose `priority` holds here as well)."""

    idempotency_key: str = ""
    """The same key (and tenant) with the same request within the window is the same job. Empty: none."""
    tenant: str = ""
    """Whose job it is; other tenants get JobNotFound."""
    deadline: float | None = None
    """Seconds from now until the start of the run, None for none."""
    result_ttl: float | None = None
    """Seconds the record outlives the end of the job, None for the store's default."""


@dataclass(frozen=True, slots=True)
class JobLimits:
    """Bounds at the entrance, and how long things are kept. Durations are seconds; the reasons are in docs/jobs.md."""

    max_depth: int
    """Unfinished jobs of one model and version."""
    max_bytes: int
    """Bytes of the requests of one model's unfinished jobs."""
    max_age: float
    """While the oldest unfinished job has waited longer than this, new ones are refused. 0 for no bound."""
    max_attempts: int = 3
    result_ttl: float = 86_400.0
    max_result_ttl: float = 7 * 86_400.0
    max_wait: float = 7 * 86_400.0
    """A job without a deadline that has not run after this long is forgotten and counted as lost."""
    idempotency_window: float = 86_400.0
    max_dead: int = 10_000
    dead_ttl: float = 7 * 86_400.0


@dataclass(frozen=True, slots=True)
class JobQuery:
    """Which jobs to list: of one model or all (""), in one state or any (None), newest first."""

    model_name: str = ""
    state: JobState | None = None
    tenant: str = ""
    page_size: int = 50
    page_token: str = ""


@dataclass(frozen=True, slots=True)
class JobPage:
    """Jobs without their results; an empty `next_page_token` means that was all."""

    jobs: tuple[Job, ...]
    next_page_token: str = ""


@dataclass(frozen=True, slots=True)
class LaneStatistics:
    """One lane of one model: `depth` unfinished entries, of which `running` are claimed; age in seconds."""

    model_name: str
    lane: str
    depth: int
    running: int
    oldest_age: float
    rows: int = 0
    """Rows of waiting online requests."""


@dataclass(frozen=True, slots=True)
class JobStatistics:
    """What the broker holds and has counted, as of the last look; `available` is whether it answers now."""

    available: bool
    durable: bool
    """False where the broker may lose what it acknowledged and the operator allowed that."""
    data_losses: int = 0
    """How often the broker came back without its data."""
    lanes: tuple[LaneStatistics, ...] = ()
    totals: dict[tuple[str, str], int] = field(default_factory=dict)
    """By (model, event): submitted, done, failed, cancelled, expired, dead, retried, lost_record, orphan, ..."""
    dead: dict[str, int] = field(default_factory=dict)
    """Dead letters by model."""
    bytes: dict[str, int] = field(default_factory=dict)
    """Request bytes held by model."""


class JobStore(Protocol):
    """Where jobs live. Every method but `statistics` runs on the slow lane's event loop.

    All of them raise QueueUnavailable within 200 ms when the broker cannot be reached; a submission that ended so may
    have been accepted, and repeating it with its idempotency key is safe. Cancelling a call disturbs no other.
    """

    async def submit(self, request: InferRequest, options: JobOptions) -> Job:
        """Accept a validated request; when this returns, the broker has it. `request.deadline` is not looked at.

        Raises:
            AlreadyExists: the idempotency key was used for another request.
            QueueFull: depth, bytes, age, or the broker's memory; `retry_after` is set.
            DeadlineExceeded: the deadline is not in the future.
            InvalidRequest: the key is too long, or the model's name cannot be a key.
        """

    async def get(self, job_id: str, tenant: str = "") -> Job:
        """Return the job with its result. Raises JobNotFound."""

    def wait(self, job_id: str, tenant: str = "") -> AsyncIterator[Job]:
        """Yield the job now and after every change of its state, ending with the final one. Raises JobNotFound."""

    async def cancel(self, job_id: str, tenant: str = "") -> Job:
        """Give the job up and return it: at once when queued, at its next batch when running. Raises JobNotFound."""

    async def list_jobs(self, query: JobQuery) -> JobPage:
        """Return a page of jobs. Raises InvalidRequest for a page token this store did not make."""

    async def list_dead(self, query: JobQuery) -> JobPage:
        """Return a page of dead letters, newest first; `state` is not looked at."""

    async def retry_dead(self, job_id: str, tenant: str = "") -> Job:
        """Queue a dead job again with a fresh count of attempts. Raises JobNotFound, FailedPrecondition, QueueFull."""

    async def drop_dead(self, job_id: str, tenant: str = "") -> None:
        """Forget a dead job. Raises JobNotFound, FailedPrecondition."""

    def statistics(self) -> JobStatistics:
        """Return the last look at the broker; any thread."""


def check_model_name(name: str) -> str:
    """Return `name` if it may become part of a key. Raises InvalidRequest."""
    if not _MODEL.fullmatch(name):
        raise InvalidRequest(
            f"model_name: expected up to 128 letters, digits, '.', '_' or '-' for a queue, got {name[:64]!r}"
        )
    return name


def new_job_id(model_name: str) -> str:
    """Return an identifier that cannot be guessed (128 random bits) and says whose queue it is in."""
    return f"{model_name}-{secrets.token_hex(16)}"


def model_of(job_id: str) -> str:
    """Return the model a job belongs to. Raises JobNotFound for what cannot be a job id."""
    found = _JOB.fullmatch(job_id)
    if found is None:
        raise not_found(job_id)
    return found[1]


def not_found(job_id: str) -> JobNotFound:
    """Return the error that says so, whether it never was, has expired or is somebody else's."""
    return JobNotFound(f"job: expected the id of a job whose record has not expired, got {job_id[:64]!r}")


def check_key(key: str) -> str:
    """Return the idempotency key if it is short enough. Raises InvalidRequest."""
    if len(key) > MAX_KEY_CHARACTERS:
        raise InvalidRequest(f"idempotency_key: expected up to {MAX_KEY_CHARACTERS} characters, got {len(key)}")
    return key


def needs_redis() -> NeedsRedis:
    """Return what a server with the in-process queue answers to every job RPC."""
    return NeedsRedis(
        "jobs: expected a server started with --queue redis://HOST:PORT/DB, this one has the queue in memory"
    )
