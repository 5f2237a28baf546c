"""Fixtures of several unit tests."""

import io
import json
import logging

import pytest

from server import log


@pytest.fixture
def written():
    """The lines that were logged, parsed: call it to have them."""
    logger = logging.getLogger("sluice")
    before = (logger.handlers[:], logger.propagate, logger.level)
    stream = io.StringIO()
    log.setup("json", "info", stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    logger.handlers[:], logger.propagate = before[0], before[1]
    logger.setLevel(before[2])
