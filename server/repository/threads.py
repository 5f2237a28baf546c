"""The way off the event loop: one daemon thread per slow call.

Not an executor: the interpreter waits for an executor's threads before it exits, and a model that takes two minutes
to load must not hold up SIGTERM for as long.
"""

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")


async def in_thread(name: str, function: Callable[[], T]) -> T:
    """Run `function` in a thread of its own and return what it returns, or raise what it raises.

    A cancelled caller leaves; the function goes on to its end and its result is dropped, so it must look itself
    whether it is still wanted where that matters.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            result = function()
        except Exception as error:  # noqa: BLE001  (carried over to the caller, whatever it is)
            call_soon(loop, partial(_settle, future, None, error))
        else:
            call_soon(loop, partial(_settle, future, result, None))

    threading.Thread(target=run, name=name, daemon=True).start()
    return await future


def call_soon(loop: asyncio.AbstractEventLoop, callback: Callable[[], object]) -> None:
    """Call back on the loop, from any thread; a loop that is closed has nobody left to tell."""
    try:
        loop.call_soon_threadsafe(callback)
    except RuntimeError:
        if not loop.is_closed():
            raise


def _settle(future: "asyncio.Future[Any]", result: object, error: Exception | None) -> None:
    if future.cancelled():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
