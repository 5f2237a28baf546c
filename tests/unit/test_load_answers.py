"""What comes back is heard as it was said, however it is cut; a plain reading, frame by frame, is the reference."""

from itertools import pairwise

import hpack
import pytest
from hyperframe import frame as frames
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.load.answers import INTERNAL, Answers, number
from server.transports.http2.frames import END_HEADERS, END_STREAM, HEADERS, frame
from server.transports.http2.hpack import encode_plain

HEAD = 9
OK, FULL = (("grpc-status", "0"),), (("grpc-status", "8"), ("grpc-message", "queue full"))
OK_AND_MORE = (*OK, ("grpc-message", "begins as the one above"))
TRAILERS = (OK, OK_AND_MORE, FULL, (("grpc-status", "14"),), (("x", "no status"),))
FIRST = ((":status", "200"), ("content-type", "application/grpc"))


class Server:
    """Writes frames as a server does that was told to keep no header table."""

    def __init__(self):
        self._encoder = hpack.Encoder()
        self._encoder.header_table_size = 0

    def write(self, kind, stream, content, *flags):
        if kind is frames.HeadersFrame:
            return kind(stream, self._encoder.encode(content), flags=["END_HEADERS", *flags]).serialize()
        return kind(stream, flags=flags, **content).serialize()


def data(piece, *flags, padding=0):
    return frames.DataFrame, {"data": piece, "pad_length": padding}, *flags, *(["PADDED"] if padding else [])


def answer(pieces, trailers):
    return [(frames.HeadersFrame, FIRST), *map(data, pieces), (frames.HeadersFrame, trailers, "END_STREAM")]


def refusal(trailers):
    return [(frames.HeadersFrame, (*FIRST, *trailers), "END_STREAM")]


def written(*recipes, server=None):
    """Write answers one after the other, on streams 1, 3, 5 and so on."""
    server = server or Server()
    streams = range(1, 2 * len(recipes) + 1, 2)
    return b"".join(
        server.write(kind, stream, *rest)
        for stream, recipe in zip(streams, recipes, strict=True)
        for kind, *rest in recipe
    )


PIECES = st.lists(st.integers(0, 40).map(lambda size: bytes(range(size))), max_size=3)
ANSWER = st.one_of(
    st.builds(answer, PIECES, st.sampled_from(TRAILERS)),
    st.builds(refusal, st.sampled_from(TRAILERS)),
    st.builds(lambda piece, padding: [answer([], OK)[0], data(piece, padding=padding), answer([], OK)[1]],
              st.binary(max_size=20), st.integers(1, 20)),
    st.binary(max_size=20).map(lambda piece: [(frames.HeadersFrame, FIRST), data(piece, "END_STREAM")]),
)  # fmt: skip
ON_THE_CONNECTION = st.sampled_from(
    [
        (frames.PingFrame, {"opaque_data": b"8 bytes."}),
        (frames.PingFrame, {"opaque_data": b"8 bytes."}, "ACK"),
        (frames.SettingsFrame, {"settings": {3: 7, 4: 1 << 20}}),
        (frames.SettingsFrame, {}, "ACK"),
        (frames.WindowUpdateFrame, {"window_increment": 5000}),
        (frames.GoAwayFrame, {"last_stream_id": 5, "error_code": 0, "additional_data": b"bye"}),
    ]
)
ON_A_STREAM = st.sampled_from(
    [(frames.WindowUpdateFrame, {"window_increment": 9}), (frames.RstStreamFrame, {"error_code": 8})]
)


@st.composite
def conversations(draw):
    """Make what a server may send: runs of answers that are alike, and stretches where streams and others mix."""
    palette = draw(st.lists(ANSWER, min_size=1, max_size=10))
    server, said, stream = Server(), [], -1
    for _ in range(draw(st.integers(0, 8))):
        alike = draw(st.booleans())
        if alike:
            recipes = [draw(st.sampled_from(palette))] * draw(st.integers(1, 8))
        else:
            recipes = draw(st.lists(st.sampled_from(palette), max_size=4))
            recipes += [[rare] for rare in draw(st.lists(ON_THE_CONNECTION | ON_A_STREAM, max_size=2))]
        order = [place for place, recipe in enumerate(recipes) for _ in recipe]
        remaining = [iter(recipe) for recipe in recipes]
        for place in order if alike else draw(st.permutations(order)):
            kind, content, *flags = next(remaining[place])
            alone = kind in {frames.PingFrame, frames.SettingsFrame, frames.GoAwayFrame}
            said.append(server.write(kind, 0 if alone else stream + 2 * (place + 1), content, *flags))
        stream += 2 * len(recipes)
    return b"".join(said)


@st.composite
def cut(draw, whole):
    """Cut bytes anywhere, or after every one."""
    if draw(st.integers(0, 9)) == 0:
        return [whole[at : at + 1] for at in range(len(whole))]
    places = sorted({0, len(whole), *draw(st.lists(st.integers(0, len(whole)), max_size=20))})
    return [whole[begin:end] for begin, end in pairwise(places)]


class Heard:
    """What a reader made of a connection."""

    def __init__(self, ends, taken, rare, messages):
        self.ends, self.taken, self.rare, self.messages = ends, taken, rare, messages


def plainly(whole):
    """Read frame by frame, with other people's code."""
    decoder = hpack.Decoder()
    heard = Heard([], 0, [], {})
    while whole:
        one, size = frames.Frame.parse_frame_header(memoryview(whole[:HEAD]))
        flags, body, whole = whole[4], whole[HEAD : HEAD + size], whole[HEAD + size :]
        one.parse_body(memoryview(body))
        status = None
        if isinstance(one, frames.HeadersFrame):
            status = dict(decoder.decode(one.data)).get("grpc-status", INTERNAL)
        elif isinstance(one, frames.DataFrame):
            heard.taken += one.flow_controlled_length
            heard.messages[one.stream_id] = heard.messages.get(one.stream_id, b"") + one.data
            status = INTERNAL
        else:
            heard.rare.append((one.type, flags, one.stream_id, body))
        if "END_STREAM" in one.flags:
            heard.ends.append((int(status), one.stream_id))
    return heard


def ends(answers):
    return [(status, number(stream)) for status, streams in answers.heard for stream in streams]


def read(chunks, *, messages=False):
    rare = []
    answers = Answers(lambda *frame: rare.append(frame))
    if messages:
        answers.messages = {}
    for chunk in chunks:
        answers.read(chunk)
    kept = {stream: bytes(message) for stream, message in (answers.messages or {}).items()}
    return Heard(ends(answers), answers.taken, rare, kept), answers


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data(), st.booleans())
def test_everything_is_heard_as_a_plain_reader_hears_it(draw, messages):
    whole = draw.draw(conversations())
    expected = plainly(whole)
    heard, _ = read(draw.draw(cut(whole)), messages=messages)

    assert heard.ends == expected.ends
    assert heard.taken == expected.taken
    assert heard.rare == expected.rare
    assert heard.messages == (expected.messages if messages else {})


MIXED = [answer([b"12345"], OK), answer([b"12345"], OK_AND_MORE), refusal(FULL), answer([], OK)]


@pytest.mark.parametrize("messages", [False, True])
def test_no_cut_changes_what_is_heard(messages):
    """Also where a block ends so far as another one goes that is known."""
    whole = written(*MIXED, *MIXED, *MIXED)
    expected = plainly(whole)
    for at in range(len(whole)):
        heard, _ = read([whole[:at], whole[at:]], messages=messages)

        assert (heard.ends, heard.taken, heard.rare) == (expected.ends, expected.taken, [])


def test_answers_that_are_alike_are_heard_by_the_dozen():
    whole = written(*[answer([b"line\n", bytes(300)], OK)] * 50, *[refusal(FULL)] * 50)
    heard, answers = read([whole])

    assert [(status, len(streams)) for status, streams in answers.heard] == [(0, 1), (0, 49), (8, 1), (8, 49)]
    assert heard.ends == plainly(whole).ends
    assert heard.taken == 50 * 305
    assert len(answers._forms) == 2


def test_refusals_that_differ_only_in_their_words_are_of_one_form():
    def refused(status, words):
        trailers = [(b":status", b"200"), (b"grpc-status", status), (b"grpc-message", words)]
        return encode_plain(trailers)

    answers, streams = Answers(lambda *_: None), iter(range(1, 1000, 2))
    for status, words in ((b"8", b"at least 93.1 ms"), (b"8", b"at least 71.4 ms"), (b"14", b"not at this time")):
        block = refused(status, words)
        for _ in range(3):
            answers.read(frame(HEADERS, END_HEADERS | END_STREAM, next(streams), block))

    assert len(answers._forms) == 2
    assert [status for status, ended in answers.heard for _ in ended] == [8] * 6 + [14] * 3


def test_what_was_learnt_in_one_chunk_holds_in_the_next_and_what_is_cut_is_read_all_the_same():
    one, server = [answer([b"abc"], OK)], Server()
    _, answers = read([written(*one * 3, server=server)])
    answers.heard.clear()
    whole = written(*one * 20, server=server)
    for chunk in (whole[:100], whole[100:]):
        answers.read(chunk)

    assert ends(answers) == [(0, stream) for stream in range(1, 41, 2)]
    assert [len(streams) for _, streams in answers.heard] == [1, 1, 18]


def test_no_more_forms_are_learnt_than_are_kept_and_others_are_still_heard():
    whole = written(*[answer([bytes(size)], OK) for size in range(20) for _ in range(3)])
    heard, answers = read([whole])

    assert len(answers._forms) == 8
    assert heard.ends == [(0, stream) for stream in range(1, 121, 2)]
    assert heard.taken == 3 * sum(range(20))


def test_where_messages_matter_no_form_is_learnt():
    heard, answers = read([written(*[answer([b"ab", b"", b"c"], OK)] * 5)], messages=True)

    assert answers._forms == []
    assert heard.messages == dict.fromkeys(range(1, 11, 2), b"abc")


def test_more_blocks_than_are_remembered_are_still_understood():
    whole = written(*[refusal((("grpc-status", "3"), ("grpc-message", f"row {row}"))) for row in range(5000)])
    heard, answers = read([whole])

    assert heard.ends == [(3, stream) for stream in range(1, 10_001, 2)]
    assert len(answers._statuses) == 4096


def test_a_block_may_begin_with_any_byte():
    """A digit must not join the number of a group in a regular expression."""
    end = frames.DataFrame(1, b"x").serialize() + Server().write(frames.HeadersFrame, 1, OK, "END_STREAM")
    for first in range(256):
        begin = frames.HeadersFrame(1, bytes([first]), flags=["END_HEADERS"]).serialize()
        heard, answers = read([(begin + begin + end) * 5])

        assert heard.ends == [(0, 1)] * 5
        assert heard.taken == 5
        assert max(len(streams) for _, streams in answers.heard) == 4


def test_data_that_ends_a_stream_is_an_error_of_the_server():
    heard, _ = read([written([(frames.HeadersFrame, FIRST), data(b"<html>", "END_STREAM")])])

    assert heard.ends == [(INTERNAL, 1)]


@pytest.mark.parametrize(
    "block",
    [b"\xbe", b"\x00\x0bgrpc-status\x03abc", b"\x00\x0bgrpc-status", b"\x3f\xe1\x1f\x88"],
    ids=["index-of-a-table", "no-number", "half-a-field", "table-not-allowed"],
)
def test_trailers_that_cannot_be_understood_are_an_error(block):
    whole = frames.HeadersFrame(1, block, flags=["END_HEADERS", "END_STREAM"]).serialize()
    with pytest.raises(ConnectionError, match="cannot be read"):
        read([whole])


def test_headers_in_several_frames_are_not_an_answer():
    heard, _ = read([frames.HeadersFrame(1, b"\x88", flags=["END_STREAM"]).serialize()])

    assert heard.rare == [(1, 1, 1, b"\x88")]
