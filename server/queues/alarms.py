"""Which sources of claims are worth asking: one that was drained is left alone until its alarm clock rings.

So a busy source does not pay for the idle ones beside it, an online request costs no claim of jobs, and no claim is
made only to find out that there is nothing.
"""

import asyncio

from server.queues.claims import Claims


class Alarms:
    """An alarm clock for each source that was drained. On one event loop."""

    def __init__(self) -> None:
        self._clocks: dict[Claims, asyncio.Task[None]] = {}

    def set(self, source: Claims) -> None:
        """Say that the last claim took all that `source` had."""
        self._clocks[source] = asyncio.create_task(source.wait())

    def may_have_news(self, source: Claims) -> bool:
        """Whether it was not drained, or its alarm has rung since."""
        alarm = self._clocks.get(source)
        if alarm is None:
            return True
        if not alarm.done():
            return False
        del self._clocks[source]
        alarm.result()
        return True

    async def until_news(self) -> None:
        """Wait for any alarm; none is set when a drain began before anything was asked."""
        if self._clocks:
            await asyncio.wait(self._clocks.values(), return_when=asyncio.FIRST_COMPLETED)

    async def close(self) -> None:
        """Stop all of them."""
        for alarm in self._clocks.values():
            alarm.cancel()
        await asyncio.gather(*self._clocks.values(), return_exceptions=True)
