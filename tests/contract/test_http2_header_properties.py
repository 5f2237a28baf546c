"""Whatever headers calls bring, and however they are compressed, a handler sees what its caller wrote.

A server that remembers blocks, or heads that look alike, must not take one for another; the encoder is the `hpack`
library's.
"""

import os
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.transports.base import Fast
from tests.http2.frames import END_HEADERS, HEADERS, OK, data, raw, request
from tests.http2.host import hosted
from tests.transports import frame

PATHS = ["/t.S/One", "/t.S/Two"]
UNITS = {"H": 3600, "M": 60, "S": 1, "m": 0.001}
VALUES = st.sampled_from(["", "1", "2", "again", "y" * 200]) | st.text(
    st.characters(codec="ascii", min_codepoint=32, max_codepoint=126), max_size=30
).map(str.strip)
FIELDS = st.tuples(st.sampled_from(["x-a", "x-b", "x-c", "x-long-" + "n" * 40]), VALUES)


@st.composite
def calls(draw):
    """Draw a call: its path, its fields, its timeout and its place among them, and how it is compressed."""
    fields = draw(st.lists(FIELDS, max_size=4))
    timeout = draw(st.none() | st.tuples(st.integers(1, 9999), st.sampled_from("HM")))
    return {
        "path": draw(st.sampled_from(PATHS)),
        "fields": fields,
        "timeout": timeout,
        "place": draw(st.integers(0, len(fields))),
        "huffman": draw(st.booleans()),
        "sensitive": draw(st.sampled_from([False, False, True])),
        "table": draw(st.sampled_from([None] * 8 + [0, 60, 200, 4096])),
        "again": draw(st.integers(1, 3)),
    }


@pytest.fixture(scope="module")
def mirror():
    """A server that writes down what its handlers see."""
    seen = []

    def look(call, message):
        left = None if call.deadline is None else call.deadline - time.monotonic()
        seen.append((call.method, [pair for pair in call.metadata if pair[0].startswith("x-")], left))
        call.reply(message)

    with hosted(One=Fast(look), Two=Fast(look)) as host:
        yield host, seen


@settings(
    max_examples=int(os.environ.get("HTTP2_EXAMPLES", "150")),
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(plans=st.lists(calls(), min_size=1, max_size=12))
def test_a_handler_sees_what_its_caller_wrote(mirror, plans):
    host, seen = mirror
    seen.clear()
    written = []
    with host.connect() as peer:
        for plan in plans:
            fields = [*request(plan["path"]), *plan["fields"]]
            if plan["timeout"]:
                amount, unit = plan["timeout"]
                fields.insert(len(fields) - plan["place"], ("grpc-timeout", f"{amount}{unit}"))
            if plan["table"] is not None:
                peer.encoder.header_table_size = plan["table"]
            for _ in range(plan["again"]):
                block = peer.encoder.encode([(*pair, plan["sensitive"]) for pair in fields], huffman=plan["huffman"])
                stream = peer.stream()
                peer.send(raw(HEADERS, END_HEADERS, stream, block), data(stream, frame(b"x")))
                written.append((stream, plan))
        assert {peer.answer(stream).status for stream, _ in written} == {OK}

    assert len(seen) == len(written)
    for (method, fields, remaining), (_, plan) in zip(seen, written, strict=True):
        assert (method, fields) == (plan["path"], plan["fields"])
        assert (remaining is None) == (plan["timeout"] is None)
        if plan["timeout"]:
            allowed = plan["timeout"][0] * UNITS[plan["timeout"][1]]
            assert allowed - 30 < remaining <= allowed
