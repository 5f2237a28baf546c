"""What is written for a call is the call: other people's code reads it, with one header table a connection."""

import struct

import hpack
import pytest
from hyperframe import frame as frames
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.load.template import Template

HEAD = 9
CALL = [
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/inference.GRPCInferenceService/ModelInfer"),
    (b":authority", b"127.0.0.1:8001"),
    (b"te", b"trailers"),
    (b"content-type", b"application/grpc"),
]
LIMIT = 16384


class Server:
    """Hears one connection."""

    def __init__(self, *, table=True):
        self.decoder = hpack.Decoder(max_header_list_size=1 << 20)
        self.forget(not table)

    def forget(self, really=True):
        if really:
            self.decoder.max_allowed_table_size = 0

    def hear(self, pieces, limit=LIMIT):
        """Return (stream, headers, message) of the calls, in order, each of them whole."""
        whole, calls = b"".join(pieces), []
        while whole:
            stream, headers = self._headers(whole)
            whole, body, ended = (
                whole[HEAD + frames.Frame.parse_frame_header(memoryview(whole[:HEAD]))[1] :],
                b"",
                False,
            )
            while not ended:
                one, size = frames.Frame.parse_frame_header(memoryview(whole[:HEAD]))
                assert (type(one), one.stream_id) == (frames.DataFrame, stream)
                assert 0 < size <= limit
                body, ended = body + whole[HEAD : HEAD + size], "END_STREAM" in one.flags
                whole = whole[HEAD + size :]
            calls.append((stream, headers, body))
        return calls

    def _headers(self, whole):
        one, size = frames.Frame.parse_frame_header(memoryview(whole[:HEAD]))
        assert isinstance(one, frames.HeadersFrame)
        assert set(one.flags) == {"END_HEADERS"}
        return one.stream_id, [tuple(field) for field in self.decoder.decode(whole[HEAD : HEAD + size], raw=True)]


def calls(headers, message, first, count, left):
    timeout = (b"grpc-timeout", b"%dm" % left)
    body = struct.pack(">BI", 0, len(message)) + message
    return [(stream, [*headers, timeout], body) for stream in range(first, first + 2 * count, 2)]


NAMES = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=30).map(str.encode)
FIELDS = st.tuples(NAMES, st.binary(max_size=200)) | st.sampled_from(CALL)
HEADERS = st.one_of(
    st.lists(FIELDS, max_size=12).map(lambda extra: [*CALL, *extra]),
    st.lists(FIELDS, min_size=1, max_size=12),
    st.integers(3000, 5000).map(lambda size: [*CALL, (b"authorization", bytes(size))]),
)
MESSAGES = st.one_of(
    st.binary(max_size=50),
    st.sampled_from([LIMIT - 5, LIMIT - 4, 2 * LIMIT - 5, 50_000]).map(lambda n: bytes(n - 1) + b"!"),
)
WRITES = st.lists(
    st.tuples(st.integers(1, 5), st.sampled_from([1, 99, 5000]) | st.integers(1, 99_999_999)), min_size=1, max_size=8
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(HEADERS, MESSAGES, WRITES, st.booleans(), st.sampled_from([LIMIT, LIMIT + 1, 2 * LIMIT]))
def test_every_call_has_the_headers_its_own_timeout_and_the_message(headers, message, writes, table, limit):
    template, server, first = Template(headers, message), Server(table=table), 1
    template.begin(limit, table=table)
    for count, left in writes:
        heard = server.hear(template.write(first, count, left), limit)

        assert heard == calls(headers, message, first, count, left)
        first += 2 * count


@pytest.mark.parametrize("size", [10, LIMIT])
def test_a_table_that_the_server_gives_up_is_used_no_more(size):
    """Also not by what was made ready before, for a timeout that comes again."""
    template, server, message = Template(CALL, bytes(size)), Server(), bytes(size)
    template.begin(LIMIT, table=True)
    for first, table in ((1, True), (7, False), (13, False)):
        template.begin(LIMIT, table=table)
        server.forget(not table)

        assert server.hear(template.write(first, 3, 1000)) == calls(CALL, message, first, 3, 1000)


def test_a_smaller_frame_limit_holds_from_then_on():
    message = bytes(LIMIT + 100)
    template, server = Template(CALL, message), Server()
    for first, limit in ((1, 2 * LIMIT), (5, LIMIT), (9, 2 * LIMIT)):
        template.begin(limit, table=True)

        assert server.hear(template.write(first, 2, 7), limit) == calls(CALL, message, first, 2, 7)


def test_what_a_later_call_says_again_is_short():
    template = Template(CALL, b"")
    template.begin(LIMIT, table=True)
    taught, again = (sum(map(len, template.write(stream, 1, 1000))) for stream in (1, 3))

    assert again < taught / 2
    assert again < 40


@pytest.mark.parametrize(("spare", "fits"), [(0, True), (1, False)])
def test_headers_fill_the_table_up_to_its_last_byte_and_no_further(spare, fits):
    """The fields of a table count 32 bytes more than their texts; with the longest timeout all must be there."""
    room = 4000 - sum(len(name) + len(value) + 32 for name, value in CALL)
    headers = [*CALL, (b"x", bytes(room - 33 + spare))]
    template, server = Template(headers, b""), Server()
    template.begin(LIMIT, table=True)
    sizes = []
    for stream in (1, 3):
        pieces = template.write(stream, 1, 99_999_999)
        sizes.append(sum(map(len, pieces)))

        assert server.hear(pieces) == calls(headers, b"", stream, 1, 99_999_999)
    assert (sizes[1] < 100) == fits
