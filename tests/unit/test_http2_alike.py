"""Which calls are taken for one that was refused: those that a reader of single bytes would take, and no other."""

import struct
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.transports.http2.alike import count_alike, repeated
from server.transports.http2.frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME_LIMIT,
    HEAD_SIZE,
    HEADERS,
    MOST,
    PREFIX_SIZE,
    frame,
)


@dataclass(frozen=True)
class Run:
    """What was read: calls, and around them what is none of them."""

    data: bytes
    at: int
    size: int
    second: int
    same: int

    def count(self):
        return count_alike(self.data, self.at, self.size, self.second, self.same)

    def reference(self):
        """Count the calls that are like the first one, byte by byte."""
        streams = {*range(5, 9), *range(self.second + 5, self.second + 9)}
        places = [place for place in range(min(self.same, self.size)) if place not in streams]
        first = self.data[self.at :]
        number = int.from_bytes(first[5:9], "big")
        calls = 1
        while True:
            call = self.data[self.at + calls * self.size :][: self.size]
            stream = number + 2 * calls
            wanted = struct.pack(">I", stream)
            if len(call) < self.size or stream > MOST:
                return calls
            if call[5:9] != wanted or call[self.second + 5 : self.second + 9] != wanted:
                return calls
            if any(call[place] != first[place] for place in places):
                return calls
            calls += 1


def call(stream, block, message):
    """Return a call as a caller sends it."""
    body = struct.pack(">BI", 0, len(message)) + message
    return frame(HEADERS, END_HEADERS, stream, block) + frame(DATA, END_STREAM, stream, body)


def run(streams, alike=4, before=b"", behind=b"", block=b"the headers", message=b"%04dtail"):
    """Return a run of calls; their messages are numbered in the bytes that do not matter."""
    messages = [b"full" + (message % number if b"%" in message else message) for number in range(len(streams))]
    calls = b"".join(call(stream, block, text) for stream, text in zip(streams, messages, strict=True))
    second = HEAD_SIZE + len(block)
    size = second + HEAD_SIZE + PREFIX_SIZE + len(messages[0])
    return Run(before + calls + behind, len(before), size, second, second + HEAD_SIZE + PREFIX_SIZE + alike)


@pytest.mark.parametrize("first", [1, 255, 65535 - 20, (1 << 24) - 11, MOST - 2 * 499])
@pytest.mark.parametrize("calls", [1, 2, 3, 50, 500])
def test_calls_that_differ_in_their_messages_only_are_all_found(first, calls):
    streams = range(first, first + 2 * calls, 2)

    assert run(streams).count() == calls
    assert run(streams, before=b"what came before", behind=b"\0\0\1").count() == calls


@pytest.mark.parametrize("gap", [0, 1, 3, 4, 256])
@pytest.mark.parametrize("place", [1, 2, 7, 49])
def test_a_stream_that_does_not_follow_ends_a_run(gap, place):
    streams = [*range(1, 2 * place, 2), *range(2 * place - 1 + gap, 2 * place + 99 + gap, 2)]

    assert run(streams).count() == place


@pytest.mark.parametrize("missing", [1, 4, 8])
def test_a_call_that_has_not_come_whole_is_not_counted(missing):
    whole = run(range(1, 41, 2), before=bytes(1000))

    assert Run(whole.data[:-missing], whole.at, whole.size, whole.second, whole.same).count() == 19


def test_no_stream_comes_after_the_last_one():
    with_the_reserved_bit = call(MOST + 2, b"the headers", b"full0002tail")

    assert run([MOST - 2, MOST], behind=with_the_reserved_bit).count() == 2


@pytest.mark.parametrize("place", range(9 + 11 + 9 + 5 + 4))
def test_any_byte_that_matters_ends_a_run(place):
    clean = run(range(1, 41, 2))
    data = bytearray(clean.data)
    data[12 * clean.size + place] ^= 1

    assert Run(bytes(data), 0, clean.size, clean.second, clean.same).count() == 12


@pytest.mark.parametrize("place", range(9 + 11 + 9 + 5 + 4, 9 + 11 + 9 + 5 + 12))
def test_no_other_byte_does(place):
    clean = run(range(1, 41, 2))
    data = bytearray(clean.data)
    data[12 * clean.size + place] ^= 1

    assert Run(bytes(data), 0, clean.size, clean.second, clean.same).count() == 20


def test_where_more_bytes_are_to_be_the_same_than_a_call_has_all_of_them_are():
    same, numbered = (run(range(1, 41, 2), alike=100, message=message) for message in (b"tail", b"%04dtail"))

    assert (same.count(), numbered.count()) == (20, 1)


CHANGES = st.lists(st.tuples(st.integers(0, 29), st.integers(0, 60), st.integers(0, 255)), max_size=4)


@settings(max_examples=1000, deadline=None, derandomize=True)
@given(
    first=st.sampled_from([1, 3, 121, 255, 65533, MOST - 8]) | st.integers(0, MOST // 2).map(lambda half: 2 * half + 1),
    gaps=st.lists(st.sampled_from([2] * 30 + [0, 1, 4, 256]), max_size=29),
    texts=st.tuples(
        st.sampled_from([b"", b"\x82", b"headers", bytes(9)]), st.sampled_from([b"", b"a", b"%04d", b"\0" * 12])
    ),
    alike=st.integers(-PREFIX_SIZE, 20),
    changes=CHANGES,
    around=st.tuples(st.binary(max_size=20), st.binary(max_size=40)),
)
def test_whatever_was_read_the_count_is_that_of_a_reader_of_single_bytes(first, gaps, texts, alike, changes, around):
    streams = [first]
    for gap in gaps:
        streams.append(min(streams[-1] + gap, (1 << 32) - 1))
    clean = run(streams, alike, *around, *texts)
    data = bytearray(clean.data)
    for number, place, value in changes:
        where = clean.at + number * clean.size + place
        if number and where < len(data):
            data[where] = value
    found = Run(bytes(data), clean.at, clean.size, clean.second, clean.same)

    assert found.count() == found.reference()


@pytest.mark.parametrize("payload", [b"", b"an answer", bytes(FRAME_LIMIT)], ids=["empty", "short", "long"])
@pytest.mark.parametrize("first", [1, 127, 255, 65535, (1 << 24) - 3, MOST - 18])
@pytest.mark.parametrize("calls", [1, 2, 10])
def test_a_frame_is_repeated_once_for_each_stream(payload, first, calls):
    flags = END_HEADERS | END_STREAM
    frames = [frame(HEADERS, flags, stream, payload) for stream in range(first, first + 2 * calls, 2)]

    assert repeated(frame(HEADERS, flags, 0, payload), first, calls) == b"".join(frames)
