"""Background tasks whose death is heard: a bug in one is logged with its trace instead of waiting for nobody."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from server import log


def spawn(work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
    """Run `work` beside the caller, who keeps the task and cancels it in the end."""
    task = asyncio.create_task(work, name=getattr(work, "__qualname__", None))
    task.add_done_callback(_report)
    return task


async def cancel_all(*tasks: "asyncio.Task[None] | None") -> None:
    """Cancel tasks and wait for their end."""
    running = [task for task in tasks if task is not None]
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


def _report(task: "asyncio.Task[None]") -> None:
    error = None if task.cancelled() else task.exception()
    if error is not None:
        log.event("queue_task_died", logging.ERROR, cause=error, task=task.get_name())
