import io
import json
import logging

import pytest

from server import log


@pytest.fixture
def lines():
    logger = logging.getLogger("sluice")
    before = (logger.handlers[:], logger.propagate, logger.level)
    stream = io.StringIO()
    yield stream
    logger.handlers[:], logger.propagate = before[0], before[1]
    logger.setLevel(before[2])


def test_json_is_one_object_a_line_with_every_value_escaped(lines):
    log.setup("json", "info", lines)

    log.event("request", model='a"}\n2026 ERROR forged', seconds=0.25)

    (line,) = lines.getvalue().splitlines()
    record = json.loads(line)
    assert record["event"] == "request"
    assert record["model"] == 'a"}\n2026 ERROR forged'
    assert record["seconds"] == 0.25
    assert record["level"] == "info"


def test_text_keeps_a_forged_line_on_one_line(lines):
    log.setup("text", "info", lines)

    log.event("request", model="x\n2026 ERROR forged", seconds=0.25)

    (line,) = lines.getvalue().splitlines()
    assert r'model="x\n2026 ERROR forged"' in line
    assert "seconds=0.25" in line


def test_below_the_level_nothing_is_written_and_the_level_can_change(lines):
    log.setup("json", "warning", lines)
    log.event("quiet")
    assert lines.getvalue() == ""

    log.set_level("debug")
    log.event("loud", logging.DEBUG)

    assert log.get_level() == "debug"
    assert json.loads(lines.getvalue())["event"] == "loud"


def test_a_cause_is_logged_with_its_trace(lines):
    log.setup("json", "info", lines)
    try:
        raise ValueError("the inner cause")
    except ValueError as error:
        log.event("run_failed", logging.ERROR, cause=error)

    assert "ValueError: the inner cause" in json.loads(lines.getvalue())["exception"]


def test_the_sampler_lets_its_rate_through_and_counts_the_rest():
    now = 10.0
    sampler = log.Sampler(2, clock=lambda: now)

    first = [sampler.admit() for _ in range(5)]
    now = 11.0
    second = [sampler.admit() for _ in range(3)]

    assert first == [0, 0, None, None, None]
    assert second == [3, 0, None]


def test_lines_held_back_unasked_are_told_like_the_others():
    now = 10.0
    sampler = log.Sampler(1, clock=lambda: now)

    first = [sampler.admit(), sampler.admit()]
    sampler.hold(4)
    now = 11.0
    second = [sampler.admit(), sampler.admit()]
    now = 12.0

    assert (first, second) == ([0, None], [5, None])
    assert sampler.admit() == 1
