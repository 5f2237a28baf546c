"""A worker process that may be killed at any moment: real claims, real loop, a model that doubles numbers.

python -m tests.chaos.harness.worker REDIS_URL NAME HISTORY_FILE
"""

import asyncio
import os
import signal
import sys
from pathlib import Path

from server.messages import InferRequest, Reply
from server.queues.gate import Gate
from server.queues.redis_address import parse_address
from server.queues.redis_bells import RedisBells
from server.queues.redis_claims import RedisMember
from server.queues.redis_job_claims import RedisJobClaims
from server.queues.redis_link import RedisLink
from server.worker import Worker
from tests.chaos.harness.plan import HEARTBEAT, LEASE, LIMITS
from tests.redis_rig import MODEL, FakeScheduler, FakeTicket, number_of

CAPACITY = 16
RUN_SECONDS = 0.002


class RecordingScheduler(FakeScheduler):
    """Writes down every run that starts, to a file that outlives the process."""

    def __init__(self, history: Path) -> None:
        super().__init__(delay=RUN_SECONDS)
        self.file = os.open(history, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def submit(self, request: InferRequest, reply: Reply) -> FakeTicket:
        os.write(self.file, f"{number_of(request)} {request.id}\n".encode())
        return super().submit(request, reply)


async def main(url: str, name: str, history: Path) -> None:
    link = RedisLink(parse_address(url), name)
    await link.open()
    bells = RedisBells(link)
    member = RedisMember(link, name, heartbeat=HEARTBEAT)
    await link.wait_available()
    claims = RedisJobClaims(link, bells, member, MODEL, ("1", ""), LIMITS, lease=LEASE)
    scheduler = RecordingScheduler(history)
    worker = Worker([claims], scheduler.submit, beat=member.beat, heartbeat=HEARTBEAT, capacity=CAPACITY, gate=Gate())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.drain, 10.0)
    await worker.run()
    await bells.close()
    await link.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
