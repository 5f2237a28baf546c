from types import SimpleNamespace

import pytest

from server.failures import LOGGED_IDS, LOGGED_PER_SECOND, FailureLog
from server.running import Run, Slot
from server.sessions.base import RunFailed
from server.spec import ModelConfig, ModelSpec

SPEC = ModelSpec("m", "2", "", (), (), 8, ModelConfig("m"))
TRACE = "0af7651916cd43dd8448eb211c80319c"


def run(count):
    requests = [SimpleNamespace(id=f"r{number}", traceparent="") for number in range(count)]
    requests[0].traceparent = f"00-{TRACE}-b7ad6b7169203331-01"
    pieces = [(SimpleNamespace(request=request), 0, 1) for request in requests]
    return Run(Slot(None), pieces, count, 0.0, 1.0, 1.0)


@pytest.fixture
def lines(monkeypatch):
    written = []
    monkeypatch.setattr("server.log.event", lambda name, level, **fields: written.append((name, fields)))
    return written


def test_a_failed_batch_is_told_with_its_first_requests_and_their_traces(lines):
    FailureLog(SPEC, lambda: 0.0).write(run(LOGGED_IDS + 3), RunFailed("Gather: index 7"))

    assert lines == [
        (
            "batch_failed",
            {
                "model": "m",
                "version": "2",
                "rows": LOGGED_IDS + 3,
                "kind": "RunFailed",
                "error": "Gather: index 7",
                "requests": [f"r{number}" for number in range(LOGGED_IDS)],
                "trace_ids": [TRACE],
                "unlogged": 0,
            },
        )
    ]


def test_the_log_takes_some_a_second_and_is_told_of_the_others(lines):
    now = 5.0
    failures = FailureLog(SPEC, lambda: now)
    for _ in range(LOGGED_PER_SECOND + 7):
        failures.write(run(1), RunFailed("no"))
    now = 6.0
    failures.write(run(1), RunFailed("no"))

    assert [fields["unlogged"] for _, fields in lines] == [0] * LOGGED_PER_SECOND + [7]
