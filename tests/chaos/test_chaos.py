"""The chaos scripts in short, so that every run of the tests breaks things a little."""

import pytest

from tests.chaos import fleet_kill, jobs_chaos, proxy_chaos, throughput, waiters

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


async def test_any_one_process_of_a_fleet_may_be_killed_and_no_caller_notices():
    verdict = await fleet_kill.run(seed=7, seconds=0)

    assert verdict.good, "\n".join([*verdict.failures(), verdict.line()])
    assert verdict.kinds == {"frontend": 2, "worker": 2}
    assert all(kill.held for kill in verdict.kills), verdict.line()
    assert verdict.recovered > 0, verdict.line()


async def test_the_ways_a_request_can_take_are_measured_side_by_side(capsys):
    patient = throughput.Bars(rate=300.0, added_ms=50.0)  # a busy machine is no fault of the queue

    assert await throughput.measure(seconds=0.5, rounds=1, bars=patient), capsys.readouterr().out


@pytest.mark.parametrize(
    ("binds", "rate", "added", "failed", "good", "words"),
    [
        (True, 6000, 1.9, 0, True, ["PASS", "PASS"]),
        (True, 6000, 2.1, 0, False, ["PASS", "FAIL"]),
        (False, 6000, 1.9, 0, True, ["PASS", "PASS"]),
        (False, 6000, 2.1, 0, True, ["PASS", "MISSED"]),
        (False, 4900, 1.9, 0, False, ["FAIL", "PASS"]),
        (False, 6000, 1.9, 1, False, ["FAIL", "PASS"]),
    ],
)
def test_added_latency_binds_the_queue_alone_and_is_said_of_whole_servers(binds, rate, added, failed, good, words):
    def figure(rate, p50_ms, failed=0):
        return throughput.Figure((rate,) * 3, (p50_ms,) * 3, None, failed)

    both = {"this, in memory": figure(9000, 0.5), "this, Redis": figure(rate, 0.5 + added, failed)}
    held, lines = throughput.judge("this", both, both, throughput.Bars(), latency_binds=binds)

    assert held is good
    assert [line.split()[0] for line in lines.splitlines()] == words
