"""A job as the scripts show it, as the domain knows it."""

from collections.abc import Sequence
from typing import Any

from server.errors import Cancelled, DeadlineExceeded, InferenceFailed, ServingError
from server.jobs import Job, JobState, model_of
from server.messages import InferResponse
from server.queues.envelope import DamagedEnvelope, decode_outcome

View = Sequence[Any]
"""What a script returns for a job: id, flat fields, outcome."""


def to_job(view: View) -> Job:
    """Return the job a script's view shows."""
    job_id = view[0].decode()
    flat = [item.decode("utf-8", "replace") for item in view[1]]
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    state = JobState(fields["st"])
    result, error = _outcome(state, fields, view[2])
    return Job(
        job_id, state, model_of(job_id), result.model_version if result else fields.get("v", ""),
        int(fields.get("n", 0)), int(fields.get("p", 0)), int(fields.get("t0", 0)), int(fields.get("t1", 0)),
        int(fields.get("t2", 0)), int(fields.get("dl", 0)), "dq" in fields, result, error,
    )  # fmt: skip


def _outcome(state: JobState, fields: dict[str, str], data: bytes) -> tuple[InferResponse | None, ServingError | None]:
    if not state.final:
        return None, None
    if data:
        try:
            outcome = decode_outcome(data)
        except DamagedEnvelope:
            return None, InferenceFailed("job: its stored outcome was damaged")
        return (None, outcome) if isinstance(outcome, ServingError) else (outcome, None)
    reasons: dict[JobState, ServingError] = {
        JobState.CANCELLED: Cancelled("job: it was cancelled"),
        JobState.EXPIRED: DeadlineExceeded("job: its deadline passed before it ran"),
        JobState.FAILED: InferenceFailed(_why(fields)),
    }
    return None, reasons.get(state)


def _why(fields: dict[str, str]) -> str:
    if fields.get("why") == "max-attempts":
        return f"job: its worker died in each of {fields.get('n')} attempts"
    return "job: its request was lost before it ran"
