"""The chaos scripts in short, so that every run of the tests breaks things a little."""

import pytest

from tests.chaos import jobs_chaos, proxy_chaos, waiters

pytestmark = pytest.mark.redis


async def test_killing_workers_and_redis_loses_no_job():
    plan = jobs_chaos.Plan(seed=7, jobs=300, workers=2, poison=1, redis_kills=1, patience=60)
    verdict = await jobs_chaos.run(plan)

    assert verdict.good, verdict.line()
    assert verdict.notes["kills"] > 0
    assert verdict.notes["redis_kills"] == 1


async def test_a_bad_network_loses_no_job():
    verdict = await proxy_chaos.run(seed=7, seconds=5, workers=2)

    assert verdict.good, verdict.line()
    assert verdict.notes["faults"] > 0


async def test_many_waiters_share_few_connections():
    good, line = await waiters.run(400)

    assert good, line
