"""What a caller is told when something other than its request went wrong: fixed texts, shared by both transports."""

import asyncio
import logging

from server import log
from server.transports.base import StatusCode, StatusError

METHOD_NOT_FOUND = "Method not found!"
"""What grpc.aio answers, so that callers cannot tell the transports apart."""
NO_MESSAGE = "expected one message, the call ended without any"
INTERNAL = StatusError(StatusCode.INTERNAL, "internal error")


def to_status(error: BaseException, method: str) -> StatusError:
    """Return the status that ends a call whose handler raised `error`.

    Anything but a StatusError is a mistake of ours: the log has it whole, the caller learns nothing of it.
    """
    if isinstance(error, StatusError):
        return error
    log.event("handler_failed", logging.ERROR, cause=error, method=method)
    return INTERNAL


def is_cancelled(error: BaseException) -> bool:
    """Tell a cancellation of the current task from a CancelledError that a handler let escape by mistake."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


async def cancel_current() -> None:
    """Cancel the current task, here and now: its caller has gone."""
    task = asyncio.current_task()
    if task is not None:
        task.cancel()
    await asyncio.sleep(0)
