"""sluice.v1.Jobs: durable jobs over any `JobStore`; this module must never know which.

A job carries a ModelInferRequest that is validated here like any other, so that what a worker claims can run.
Each API key is a tenant of its own: it sees, cancels and reads its own jobs and nobody else's.
"""

from collections.abc import Mapping
from dataclasses import replace

from server.errors import InferenceFailed, InvalidRequest
from server.jobs import Job, JobOptions, JobPage, JobQuery, JobState, JobStore
from server.messages import InferResponse
from server.pb import open_inference_pb2 as oip
from server.pb import sluice_pb2 as pb
from server.transports.base import Methods, Stream
from server.wire.auth import Scope
from server.wire.gate import Gate
from server.wire.limits import Limits
from server.wire.reader import Reader
from server.wire.rpc import Caller, parse, streaming_as, unary_as
from server.wire.status import status_code

SERVICE = "/sluice.v1.Jobs/"
_STATES: Mapping[JobState, "pb.Job.State"] = {
    JobState.QUEUED: pb.Job.QUEUED,
    JobState.RUNNING: pb.Job.RUNNING,
    JobState.DONE: pb.Job.DONE,
    JobState.FAILED: pb.Job.FAILED,
    JobState.CANCELLED: pb.Job.CANCELLED,
    JobState.EXPIRED: pb.Job.EXPIRED,
}
FAILED = "the run failed and it was not the request's doing; the cause is in the worker's log under the job's id"
_MOST_PAGE = 1000
_DEFAULT_PAGE = 50


class JobsService:
    """Answers about jobs; on the slow lane's event loop."""

    def __init__(self, store: JobStore, reader: Reader, limits: Limits) -> None:
        self._store = store
        self._reader = reader
        self._limits = limits

    def methods(self, gate: Gate) -> Methods:
        """Return the handler of every method of the service."""
        most, infer = self._limits.max_message_bytes, Scope.INFER
        return {
            SERVICE + "Submit": unary_as(gate, infer, pb.SubmitRequest, self.submit, most),
            SERVICE + "Get": unary_as(gate, infer, pb.GetRequest, self.get),
            SERVICE + "Wait": streaming_as(gate, infer, self.wait),
            SERVICE + "Cancel": unary_as(gate, infer, pb.CancelRequest, self.cancel),
            SERVICE + "List": unary_as(gate, infer, pb.ListRequest, self.list),
            SERVICE + "ListDead": unary_as(gate, infer, pb.ListDeadRequest, self.list_dead),
            SERVICE + "RetryDead": unary_as(gate, infer, pb.RetryDeadRequest, self.retry_dead),
            SERVICE + "DropDead": unary_as(gate, infer, pb.DropDeadRequest, self.drop_dead),
        }

    async def submit(self, request: pb.SubmitRequest, caller: Caller) -> pb.Job:
        """Validate the request, hand it to the store and return its job."""
        if not request.HasField("request"):
            raise InvalidRequest("request: expected a ModelInferRequest, got none")
        asked, _ = self._reader.read(request.request.SerializeToString(), float("inf"))
        options = JobOptions(
            idempotency_key=request.idempotency_key,
            tenant=caller.name,
            deadline=_seconds("deadline_seconds", request.deadline_seconds),
            result_ttl=_seconds("result_ttl_seconds", request.result_ttl_seconds),
        )
        # any version that serves when the job runs will do, unless the caller named one
        work = replace(
            asked,
            model_version=request.request.model_version,
            priority=_priority(request.priority),
            traceparent=caller.traceparent,
        )
        return as_message(await self._store.submit(work, options))

    async def get(self, request: pb.GetRequest, caller: Caller) -> pb.Job:
        """Return the job as it is now."""
        return as_message(await self._store.get(request.id, caller.name))

    async def wait(self, stream: Stream, caller: Caller) -> None:
        """Send the job now and after every change."""
        data = b""
        async for message in stream:
            data = message
            break
        request = parse(pb.WaitRequest, data)
        async for job in self._store.wait(request.id, caller.name):
            await stream.send(as_message(job).SerializeToString())

    async def cancel(self, request: pb.CancelRequest, caller: Caller) -> pb.Job:
        """Give the job up."""
        return as_message(await self._store.cancel(request.id, caller.name))

    async def list(self, request: pb.ListRequest, caller: Caller) -> pb.ListResponse:
        """Return a page of jobs."""
        states = {wire: state for state, wire in _STATES.items()}
        if request.state and request.state not in states:
            raise InvalidRequest(f"state: expected a Job.State, got {int(request.state)}")
        query = _query(request, caller, states.get(request.state))
        page = await self._store.list_jobs(query)
        return pb.ListResponse(jobs=_messages(page), next_page_token=page.next_page_token)

    async def list_dead(self, request: pb.ListDeadRequest, caller: Caller) -> pb.ListDeadResponse:
        """Return a page of dead letters."""
        page = await self._store.list_dead(_query(request, caller, None))
        return pb.ListDeadResponse(jobs=_messages(page), next_page_token=page.next_page_token)

    async def retry_dead(self, request: pb.RetryDeadRequest, caller: Caller) -> pb.Job:
        """Queue a dead job again."""
        return as_message(await self._store.retry_dead(request.id, caller.name))

    async def drop_dead(self, request: pb.DropDeadRequest, caller: Caller) -> pb.DropDeadResponse:
        """Forget a dead job."""
        await self._store.drop_dead(request.id, caller.name)
        return pb.DropDeadResponse()


def as_message(job: Job) -> pb.Job:
    """Return a job as the wire shows it."""
    message = pb.Job(
        id=job.id,
        state=_STATES[job.state],
        model_name=job.model_name,
        model_version=job.model_version,
        attempts=job.attempts,
        priority=job.priority,
        submitted_at_ms=job.submitted_at_ms,
        started_at_ms=job.started_at_ms,
        finished_at_ms=job.finished_at_ms,
        deadline_ms=job.deadline_ms,
    )
    if job.result is not None:
        message.result.CopyFrom(_result(job.result))
    if job.error is not None:
        message.error.code = int(status_code(job.error))
        failed = isinstance(job.error, InferenceFailed)
        message.error.message = FAILED if failed else str(job.error)
    return message


def _result(response: InferResponse) -> oip.ModelInferResponse:
    message = oip.ModelInferResponse(
        model_name=response.model_name, model_version=response.model_version, id=response.id
    )
    for tensor in response.outputs:
        message.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        message.raw_output_contents.append(bytes(tensor.data))
    return message


def _messages(page: JobPage) -> list[pb.Job]:
    return [as_message(job) for job in page.jobs]


def _query(request: pb.ListRequest | pb.ListDeadRequest, caller: Caller, state: JobState | None) -> JobQuery:
    if request.page_size > _MOST_PAGE:
        raise InvalidRequest(f"page_size: expected at most {_MOST_PAGE}, got {request.page_size}")
    return JobQuery(request.model_name, state, caller.name, request.page_size or _DEFAULT_PAGE, request.page_token)


def _seconds(field: str, value: float) -> float | None:
    if value != value or value < 0 or value == float("inf"):  # noqa: PLR0124 - NaN is the number that differs from itself
        raise InvalidRequest(f"{field}: expected a number of seconds, 0 for none, got {value}")
    return value or None


def _priority(value: int) -> int:
    if value < 0:
        raise InvalidRequest(f"priority: expected 0 for the default or 1 and up, 1 the most urgent, got {value}")
    return value
