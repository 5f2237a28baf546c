"""Header compression on the wire (RFC 7541): every form of a field is read, and what is none ends the connection."""

import pytest
from h2.errors import ErrorCodes

from tests.http2.frames import (
    CONTINUATION,
    ECHO,
    END_HEADERS,
    END_STREAM,
    HEADER_TABLE_SIZE,
    HEADERS,
    NONE,
    OK,
    UNIMPLEMENTED,
    data,
    raw,
)
from tests.transports import frame

METHOD, SCHEME, PATH, AUTHORITY = b"\x83", b"\x86", b"\x44\x09/t.S/Echo", b"\x41\x09localhost"
REST = SCHEME + PATH + AUTHORITY + b"\x5f\x10application/grpc"
REQUEST = METHOD + REST
PLAIN = METHOD + SCHEME + b"\x04\x09/t.S/Echo\x01\x09localhost\x0f\x10\x10application/grpc"
"""The same without an entry for the table."""
FIRST = 62
"""The index of the newest entry of the dynamic table."""


def literal(kind, name, value, name_index=0):
    """Make a literal field: kind 0x40 with indexing, 0x00 without, 0x10 never; small lengths only."""
    head = bytes([kind | name_index])
    return head + (b"" if name_index else bytes([len(name)]) + name) + bytes([len(value)]) + value


def call(peer, block, *more):
    """Send a call of a ready-made block and CONTINUATIONs; return its answer."""
    number = peer.stream()
    blocks = [block, *more]
    for place, part in enumerate(blocks):
        flags = END_HEADERS if place == len(blocks) - 1 else NONE
        peer.send(raw(CONTINUATION if place else HEADERS, flags, number, part))
    peer.send(data(number, frame(b"x")))
    return peer.answer(number)


WRONG = {
    "index-0": b"\x80",
    "index-beyond-the-tables": bytes([0x80 | FIRST + 30]),
    "index-far-beyond-the-tables": b"\xff\xff\xff\x7f",
    "name-index-beyond-the-tables": b"\x7f\x20\x01x",
    "an-integer-without-an-end": b"\xff" + b"\xff" * 30,
    "an-integer-cut-off": b"\xff",
    "a-name-cut-off": b"\x40\x05ab",
    "a-value-cut-off": b"\x40\x01a\x7f",
    "a-value-without-a-length": b"\x40\x01a",
    "a-length-of-4-gb": b"\x40\x01a\x7f\xff\xff\xff\xff\x0f",
    "a-table-larger-than-allowed": b"\x3f\xe2\x1f",
    "a-table-far-larger-than-allowed": b"\x3f\xff\xff\xff\xff\x07",
    "huffman-padding-of-8-bits": literal(0, b"a", b"")[:-1] + b"\x82\x1f\xff",
    "huffman-padding-of-zeros": literal(0, b"a", b"")[:-1] + b"\x81\x18",
    "huffman-end-of-string": literal(0, b"a", b"")[:-1] + b"\x84\xff\xff\xff\xff",
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
def test_a_block_that_cannot_be_decoded_ends_the_connection(peer, wrong):
    number = peer.stream()
    peer.send(raw(HEADERS, END_HEADERS | END_STREAM, number, wrong if wrong[0] & 0xE0 == 0x20 else REQUEST + wrong))

    assert peer.goaway() == ErrorCodes.COMPRESSION_ERROR


def test_a_table_size_update_behind_a_field_ends_the_connection(peer):
    peer.send(raw(HEADERS, END_HEADERS | END_STREAM, peer.stream(), REQUEST + b"\x20"))

    assert peer.goaway() == ErrorCodes.COMPRESSION_ERROR


def test_a_block_of_a_call_that_is_refused_is_decoded_all_the_same(peer):
    peer.send(raw(HEADERS, END_HEADERS | END_STREAM, peer.stream(), REQUEST + b"\x40\x01A\x01b" + b"\xff\xff\xff\x7f"))

    assert peer.goaway() == ErrorCodes.COMPRESSION_ERROR


GOOD = {
    "indexed": METHOD,
    "literal-with-indexing": literal(0x40, b":method", b"POST"),
    "literal-with-indexing-of-a-known-name": literal(0x40, b"", b"POST", 2),
    "literal-without-indexing": literal(0x00, b":method", b"POST"),
    "literal-without-indexing-of-a-known-name": literal(0x00, b"", b"POST", 2),
    "literal-never-indexed": literal(0x10, b":method", b"POST"),
    "huffman": b"\x02\x84\xd7\xab\x76\xff",
    "table-of-no-size-before": b"\x20" + METHOD,
    "table-sizes-before": b"\x20\x3f\xe1\x1f" + METHOD,
    "a-size-written-in-a-long-way": b"\x3f\xe1\x9f\x80\x00" + METHOD,
}


@pytest.mark.parametrize("first", GOOD.values(), ids=GOOD.keys())
def test_every_form_of_a_field_is_read(peer, first):
    assert call(peer, first + REST).message == b"x"
    assert call(peer, REQUEST).message == b"x"


def test_what_was_indexed_is_known_in_later_blocks(peer):
    assert call(peer, REQUEST).message == b"x"
    kind, authority, path = (bytes([0x80 | FIRST + place]) for place in range(3))

    assert call(peer, METHOD + path + SCHEME + authority + kind).message == b"x"


def test_an_entry_larger_than_the_table_empties_it(peer):
    assert call(peer, REQUEST + b"\x40\x01a\x7f\x81\x1f" + b"y" * 4096).status == OK
    peer.send(raw(HEADERS, END_HEADERS | END_STREAM, peer.stream(), bytes([0x80 | FIRST]) + PLAIN))

    assert peer.goaway() == ErrorCodes.COMPRESSION_ERROR


def test_entries_that_do_not_fit_any_more_are_forgotten_oldest_first(peer):
    oldest, older = (bytes([0x80 | FIRST + place]) for place in (28, 29))  # of 137 bytes each, in a table of 4096
    for number in range(100, 200):
        assert call(peer, PLAIN + literal(0x40, b"x-%d" % number, b"y" * 100)).status == OK

    assert call(peer, PLAIN + oldest).status == OK
    peer.send(raw(HEADERS, END_HEADERS | END_STREAM, peer.stream(), PLAIN + older))
    assert peer.goaway() == ErrorCodes.COMPRESSION_ERROR


def test_a_block_seen_before_means_what_the_table_says_now(peer):
    """A server that remembers whole blocks must not remember one that a change of the table has made wrong."""
    known, emptying = PLAIN + bytes([0x80 | FIRST]), b"\x20\x3f\xe1\x1f" + PLAIN
    for _ in range(3):
        assert call(peer, PLAIN + literal(0x40, b"x-a", b"1")).status == OK
        assert {call(peer, known).status for _ in range(3)} == {OK}
        assert {call(peer, emptying).status for _ in range(2)} == {OK}
    peer.send(raw(HEADERS, END_HEADERS | END_STREAM, peer.stream(), known))

    assert peer.goaway() == ErrorCodes.COMPRESSION_ERROR


def test_a_block_may_be_cut_anywhere_into_continuations(peer):
    cuts = range(len(REQUEST) + 1)

    assert [call(peer, REQUEST[:cut], REQUEST[cut:]).message for cut in cuts] == [b"x"] * len(cuts)


def test_a_block_of_many_small_continuations_is_read(peer):
    parts = [REQUEST[start : start + 2] for start in range(0, len(REQUEST), 2)]

    assert call(peer, *parts).message == b"x"


def test_a_smaller_table_of_the_callers_is_respected_and_acknowledged(host):
    with host.connect((HEADER_TABLE_SIZE, 0)) as peer:
        peer.decoder.max_allowed_table_size = 0

        assert [peer.ask(ECHO, b"x").message for _ in range(3)] == [b"x"] * 3


def test_a_callers_table_may_change_its_size_between_calls(peer):
    for size in (0, 4096, 100, 1 << 20, 0):
        peer.settings((HEADER_TABLE_SIZE, size))
        assert peer.pong()
        peer.decoder.max_allowed_table_size = size
        assert peer.ask("/t.S/Unknown").status == UNIMPLEMENTED
        assert peer.ask(ECHO, b"x").message == b"x"
