"""Whatever the peer allows and when, what leaves keeps within it, and every message leaves whole."""

import hpack
from hyperframe import frame as frames
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.load.outgoing import Outgoing

HEAD, WINDOW, LIMIT = 9, 65535, 16384
FRAME_SIZE, INITIAL_WINDOW, HEADER_TABLE_SIZE = 5, 4, 1
HEADERS = [(b":path", b"/a.B/C"), (b"x", b"y")]


class Server:
    """Allows, and holds the client to it."""

    def __init__(self, message):
        self.windows = {0: WINDOW}
        self.initial, self.limit = WINDOW, LIMIT
        self.bodies, self.whole = {}, []
        self._decoder = hpack.Decoder()
        self.outgoing = Outgoing(HEADERS, message)
        self.resets = []

    def settle(self, said):
        initial = said.get(INITIAL_WINDOW, self.initial)
        for stream in self.windows.keys() - {0}:
            self.windows[stream] += initial - self.initial
        self.initial, self.limit = initial, said.get(FRAME_SIZE, self.limit)
        self._decoder.max_allowed_table_size = said.get(HEADER_TABLE_SIZE, self._decoder.max_allowed_table_size)
        self.outgoing.settle(said)
        self.hear()

    def grow(self, stream, increment):
        if stream in self.windows:
            self.windows[stream] += increment
        self.outgoing.grow(stream, increment)
        self.hear()

    def hear(self):
        sent = b"".join(self.outgoing.pieces)
        self.outgoing.pieces.clear()
        while sent:
            one, size = frames.Frame.parse_frame_header(memoryview(sent[:HEAD]))
            body, sent = sent[HEAD : HEAD + size], sent[HEAD + size :]
            assert size <= self.limit
            if isinstance(one, frames.HeadersFrame):
                assert self._decoder.decode(body, raw=True)[:-1] == HEADERS
                self.windows[one.stream_id], self.bodies[one.stream_id] = self.initial, b""
            elif isinstance(one, frames.RstStreamFrame):
                self.resets.append(one.stream_id)
            else:
                self._data(one, body)

    def _data(self, one, body):
        for window in (0, one.stream_id):
            self.windows[window] -= len(body)
            assert self.windows[window] >= 0
        self.bodies[one.stream_id] += body
        if "END_STREAM" in one.flags:
            self.whole.append(one.stream_id)


SAID = st.fixed_dictionaries(
    {},
    optional={
        INITIAL_WINDOW: st.sampled_from([0, 10, 70_000, 200_000]),
        FRAME_SIZE: st.sampled_from([LIMIT, LIMIT + 1, 100_000]),
        HEADER_TABLE_SIZE: st.sampled_from([0, 100, 4096]),
    },
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("settle"), SAID),
        st.tuples(st.just("grow"), st.tuples(st.sampled_from(["it", "another", "all"]), st.integers(1, 50_000))),
        st.tuples(st.just("write"), st.integers(1, 5)),
    ),
    max_size=30,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from([0, 300, LIMIT, 40_000, 150_000]), STEPS)
def test_what_leaves_keeps_within_the_windows_and_arrives_whole(size, steps):
    message = bytes(range(256)) * (size // 256)
    server, first = Server(message), 1
    server.settle({})
    for name, value in steps:
        if name == "settle":
            server.settle(value)
        elif name == "grow":
            stream, increment = value
            server.grow({"it": server.outgoing.sending, "another": 1001, "all": 0}[stream], increment)
        elif calls := min(value, server.outgoing.room()):
            server.outgoing.write(first, calls, 1000)
            first += 2 * calls
            server.hear()
    server.grow(0, 400_000)
    server.settle({INITIAL_WINDOW: 400_000})

    assert server.outgoing.sending == 0
    assert server.whole == list(range(1, first, 2))
    assert all(body == len(message).to_bytes(5, "big") + message for body in server.bodies.values())


def test_small_messages_wait_for_a_window_that_takes_them_whole():
    server = Server(bytes(10_000))
    server.settle({})
    server.outgoing.write(1, server.outgoing.room(), 1000)
    server.hear()

    assert server.whole == [1, 3, 5, 7, 9, 11]
    assert server.outgoing.room() == 0
    server.grow(0, 10_005 - 5505)
    assert server.outgoing.room() == 1


def test_a_small_message_for_which_no_stream_has_a_window_goes_piece_by_piece():
    server = Server(bytes(300))
    server.settle({INITIAL_WINDOW: 10})
    assert server.outgoing.room() == 1
    server.outgoing.write(1, 1, 1000)
    server.hear()
    assert (server.bodies, server.whole) == ({1: b"\0\0\0\1\x2c" + bytes(5)}, [])

    server.grow(1, 295)
    assert server.whole == [1]


def test_a_large_message_goes_alone_and_what_is_dropped_goes_no_further():
    server = Server(bytes(100_000))
    server.settle({})
    assert server.outgoing.room() == 1
    server.outgoing.write(1, 1, 1000)
    server.hear()
    assert (server.outgoing.room(), len(server.bodies[1])) == (0, WINDOW)

    server.outgoing.drop()
    server.grow(0, 200_000)
    server.grow(1, 200_000)
    assert (server.resets, len(server.bodies[1]), server.outgoing.room()) == ([1], WINDOW, 1)
