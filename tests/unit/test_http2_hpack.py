"""Header compression against RFC 7541's own examples and against the `hpack` library, in both directions."""

import hpack
import pytest
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable
from hypothesis import example, given
from hypothesis import strategies as st

from server.transports.http2 import hpack as ours
from server.transports.http2 import huffman
from server.transports.http2.hpack import (
    HeaderDecoder,
    HeaderError,
    HeadersTooLarge,
    encode_indexed,
    encode_plain,
    integer,
)
from server.transports.http2.hpack_tables import CODE_BITS, STATIC

TABLE_256, TABLE_0, TABLE_4096 = bytes.fromhex("3fe101"), b"\x20", bytes.fromhex("3fe11f")
NEWEST, SECOND = b"\xbe", b"\xbf"
"""The two entries that came last into the dynamic table."""


def table(decoder):
    """What the dynamic table holds, the newest entry first; and that its size is counted right."""
    entries = [entry[0] for entry in decoder._table[ours._NEWEST :]]
    assert decoder._used == sum(len(name) + len(value) + 32 for name, value in entries) <= decoder._capacity
    return entries


def compress(text):
    return HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH).encode(text)


def literal(name, value, first=0x40):
    return bytes((first, len(name))) + name + bytes((len(value),)) + value


def fields(text):
    """`name: value` in lines, as the RFC writes header lists."""
    return [tuple(part.encode() for part in line.strip().rsplit(": ", 1)) for line in text.strip().splitlines()]


# The examples of RFC 7541, appendix C.

REQUESTS = [
    fields(
        """:method: GET
        :scheme: http
        :path: /
        :authority: www.example.com"""
    ),
    fields(
        """:method: GET
        :scheme: http
        :path: /
        :authority: www.example.com
        cache-control: no-cache"""
    ),
    fields(
        """:method: GET
        :scheme: https
        :path: /index.html
        :authority: www.example.com
        custom-key: custom-value"""
    ),
]
REQUEST_TABLE = fields(
    """custom-key: custom-value
    cache-control: no-cache
    :authority: www.example.com"""
)
COOKIE = b"foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"
FIRST_DATE, SECOND_DATE = b"Mon, 21 Oct 2013 20:13:21 GMT", b"Mon, 21 Oct 2013 20:13:22 GMT"
LOCATION = (b"location", b"https://www.example.com")
RESPONSES = [
    [(b":status", b"302"), (b"cache-control", b"private"), (b"date", FIRST_DATE), LOCATION],
    [(b":status", b"307"), (b"cache-control", b"private"), (b"date", FIRST_DATE), LOCATION],
    [
        (b":status", b"200"),
        (b"cache-control", b"private"),
        (b"date", SECOND_DATE),
        LOCATION,
        (b"content-encoding", b"gzip"),
        (b"set-cookie", COOKIE),
    ],
]
RESPONSE_TABLE = [(b"set-cookie", COOKIE), (b"content-encoding", b"gzip"), (b"date", SECOND_DATE)]


@pytest.mark.parametrize(
    ("value", "prefix_bits", "encoded"), [(10, 5, "0a"), (1337, 5, "1f9a0a"), (42, 8, "2a"), (31, 5, "1f00")]
)
def test_integers_are_those_of_c_1(value, prefix_bits, encoded):
    block = bytes.fromhex(encoded)

    assert integer(value, prefix_bits, 0) == block
    assert ours._read_integer(block, 0, (1 << prefix_bits) - 1) == (value, len(block))


@pytest.mark.parametrize(
    ("block", "field", "indexed"),
    [
        ("400a637573746f6d2d6b65790d637573746f6d2d686561646572", (b"custom-key", b"custom-header"), True),
        ("040c2f73616d706c652f70617468", (b":path", b"/sample/path"), False),
        ("100870617373776f726406736563726574", (b"password", b"secret"), False),
        ("82", (b":method", b"GET"), False),
    ],
    ids=["with indexing", "without indexing", "never indexed", "indexed"],
)
def test_single_fields_are_those_of_c_2(block, field, indexed):
    decoder = HeaderDecoder()

    assert decoder.decode(bytes.fromhex(block)) == [field]
    assert table(decoder) == [field] * indexed
    assert decoder.changes == indexed


@pytest.mark.parametrize(
    "blocks",
    [
        [
            "828684410f7777772e6578616d706c652e636f6d",
            "828684be58086e6f2d6361636865",
            "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
        ],
        [
            "828684418cf1e3c2e5f23a6ba0ab90f4ff",
            "828684be5886a8eb10649cbf",
            "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
        ],
    ],
    ids=["plain", "huffman"],
)
def test_requests_are_those_of_c_3_and_c_4(blocks):
    decoder = HeaderDecoder()

    assert [decoder.decode(bytes.fromhex(block)) for block in blocks] == REQUESTS
    assert table(decoder) == REQUEST_TABLE
    assert decoder._used == 164


@pytest.mark.parametrize(
    "blocks",
    [
        [
            (
                "4803333032580770726976617465611d4d6f6e2c203231204f637420323031332032303a31333a323120474d54"
                "6e1768747470733a2f2f7777772e6578616d706c652e636f6d"
            ),
            "4803333037c1c0bf",
            (
                "88c1611d4d6f6e2c203231204f637420323031332032303a31333a323220474d54c05a04677a69707738"
                "666f6f3d4153444a4b48514b425a584f5157454f50495541585157454f49553b206d61782d6167653d333630303b2076657273696f6e3d31"
            ),
        ],
        [
            "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97c8e9ae82ae43d3",
            "4883640effc1c0bf",
            (
                "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6c7b335dfdfcd5b3960d5af2708"
                "7f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007"
            ),
        ],
    ],
    ids=["plain", "huffman"],
)
def test_responses_with_eviction_are_those_of_c_5_and_c_6(blocks):
    decoder = HeaderDecoder()
    decoder.decode(TABLE_256)

    assert [decoder.decode(bytes.fromhex(block)) for block in blocks] == RESPONSES
    assert table(decoder) == RESPONSE_TABLE
    assert decoder._used == 215


def test_the_constants_are_those_of_the_other_implementation():
    assert tuple(HeaderTable.STATIC_TABLE) == STATIC
    assert tuple(REQUEST_CODES_LENGTH) == CODE_BITS


# Against the other implementation.

NAMES = st.sampled_from([b":path", b"te", b"user-agent", b"grpc-timeout", b"x", b"cookie", b"accept-charset"])
TEXTS = st.binary(max_size=24) | st.text("abcdefghij0123456789/.-", max_size=150).map(str.encode)
FIELDS = st.sampled_from(STATIC) | st.tuples(NAMES | TEXTS, st.sampled_from([b"", b"1S"]) | TEXTS)
LISTS = st.lists(FIELDS, max_size=12)
SIZES = st.integers(0, 4096) | st.sampled_from([0, 31, 32, 33, 64, 100])


def resize(encoder, sizes):
    for size in sizes:
        if size != encoder.header_table_size:  # setting it twice to the same makes the library forget to say so
            encoder.header_table_size = size


@given(st.lists(st.tuples(LISTS, st.booleans(), st.lists(SIZES, max_size=2)), max_size=8))
def test_what_the_other_implementation_encodes_is_decoded(blocks):
    encoder, decoder = hpack.Encoder(), HeaderDecoder()

    for headers, compressed, sizes in blocks:
        resize(encoder, sizes)
        assert decoder.decode(encoder.encode(headers, huffman=compressed)) == headers
        assert table(decoder) == list(encoder.header_table.dynamic_entries)
        assert decoder._capacity == encoder.header_table_size


@given(LISTS, st.booleans())
def test_sensitive_fields_are_decoded_and_not_kept(headers, compressed):
    encoder, decoder = hpack.Encoder(), HeaderDecoder()

    assert decoder.decode(encoder.encode([(*field, True) for field in headers], huffman=compressed)) == headers
    assert table(decoder) == []


@given(st.lists(LISTS, max_size=4))
def test_what_is_encoded_plainly_is_decoded_anywhere_and_leaves_no_trace(lists):
    theirs, own = hpack.Decoder(), HeaderDecoder()

    for headers in lists:
        block = encode_plain(iter(headers))
        assert theirs.decode(block, raw=True) == own.decode(block) == headers
    assert not theirs.header_table.dynamic_entries
    assert own.changes == 0


@given(st.lists(LISTS, max_size=4))
def test_what_is_encoded_with_indexing_enters_the_table_in_its_order(lists):
    theirs, own = hpack.Decoder(), HeaderDecoder()

    for headers in lists:
        block = encode_indexed(iter(headers))
        assert theirs.decode(block, raw=True) == own.decode(block) == headers
        assert table(own) == list(theirs.header_table.dynamic_entries)
    entered = [field for headers in lists for field in headers if field not in STATIC]
    kept = table(own)
    assert kept == entered[::-1][: len(kept)]


def test_fields_are_encoded_as_short_as_the_static_table_makes_them():
    assert encode_plain([(b":status", b"200")]) == b"\x88"
    assert encode_plain([(b":status", b"418")]) == b"\x08\x03418"  # the first index of that name
    assert encode_plain([(b"content-type", b"application/grpc")]) == b"\x0f\x10\x10application/grpc"
    assert encode_plain([(b"grpc-status", b"0")]) == b"\x00\x0bgrpc-status\x010"
    assert encode_indexed([(b"content-type", b"application/grpc")]) == b"\x5f\x10application/grpc"
    assert encode_indexed([(b":status", b"200"), (b"grpc-status", b"0")]) == b"\x88\x40\x0bgrpc-status\x010"


@given(st.integers(0, 2**32), st.integers(1, 8), st.integers(0, 255))
@example(127, 7, 0)
def test_integers_come_back_whatever_stands_before_them(value, prefix_bits, first):
    mask = (1 << prefix_bits) - 1
    encoded = integer(value, prefix_bits, first & ~mask)

    assert encoded[0] & ~mask == first & ~mask
    assert ours._read_integer(b"?" + encoded + b"?", 1, mask) == (value, 1 + len(encoded))


def decoded(decode, refused, data):
    """What a decoder makes of it, None if it refuses."""
    try:
        return decode(data)
    except refused:
        return None


PIECES = st.one_of(
    st.binary(min_size=1, max_size=6),
    st.integers(0x80, 0xFF).map(lambda first: bytes((first,))),
    st.tuples(NAMES, TEXTS.filter(lambda text: len(text) < 127), st.sampled_from([0, 0x10, 0x40])).map(
        lambda parts: literal(*parts)
    ),
    st.builds(lambda value, form: integer(value, *form), SIZES, st.sampled_from([(5, 0x20), (7, 0x80)])),
    TEXTS.map(lambda text: b"\x40\x01h" + integer(len(compress(text)), 7, 0x80) + compress(text)),
    st.binary(max_size=9).map(lambda text: b"\x00\x01h" + bytes((0x80 | len(text),)) + text),
)


@given(st.lists(st.lists(PIECES, max_size=6).map(b"".join), max_size=6))
@example([b"\x20" * 100 + b"\x82"])
def test_damaged_blocks_are_refused_or_read_as_the_other_implementation_does(blocks):
    """Without any difference, because what is advertised is what the table begins with."""
    theirs, own = hpack.Decoder(), HeaderDecoder()

    for block in blocks:
        expected = decoded(lambda data: theirs.decode(data, raw=True), hpack.HPACKError, block)
        assert decoded(own.decode, HeaderError, block) == expected
        if expected is None:
            return
        assert table(own) == list(theirs.header_table.dynamic_entries)


@given(st.binary(max_size=40) | TEXTS.map(compress))
def test_bytes_are_a_huffman_text_or_none_as_in_the_other_implementation(data):
    expected = decoded(decode_huffman, hpack.HPACKError, data)

    assert decoded(huffman.decode, huffman.Invalid, data) == expected


# Errors.

EOS_BITS = "1" * 30


def bits(text):
    """A string of bits, filled up with ones."""
    text += "1" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big")


def test_every_symbol_is_read_at_every_bit_of_a_byte():
    for symbol in range(256):
        for before in range(8):  # a 0 has five bits, so eight of them reach every place
            text = b"0" * before + bytes((symbol,)) + b"a"
            assert huffman.decode(compress(text)) == text


@pytest.mark.parametrize(
    "data",
    [
        b"\xff",
        bits("00011") + b"\xff",
        bits("00011111") + b"\xff",
        bits("00011" + EOS_BITS + "00011"),
        bits(EOS_BITS),
        b"\xff" * 20,
        bytes((0b00011_110,)),
        bytes((0b00011_000,)),
    ],
    ids=[
        "eight bits of padding",
        "eleven bits of padding",
        "a whole byte of it after a full one",
        "EOS within",
        "EOS alone",
        "EOS again and again",
        "padding that ends in a zero",
        "padding of zeros",
    ],
)
def test_bytes_that_are_no_huffman_text_are_refused(data):
    with pytest.raises(huffman.Invalid):
        huffman.decode(data)
    with pytest.raises(HeaderError, match="Huffman"):
        HeaderDecoder().decode(b"\x00\x01h" + bytes((0x80 | len(data),)) + data)
    with pytest.raises(HeaderError, match="Huffman"):
        HeaderDecoder().decode(b"\x00" + bytes((0x80 | len(data),)) + data + b"\x01v")


@pytest.mark.parametrize("padding", range(8))
def test_up_to_seven_bits_of_padding_are_right(padding):
    text = next(text for text in (b"0" * n for n in range(1, 9)) if len(text) * -5 % 8 == padding)

    assert huffman.decode(bits("00000" * len(text))) == text


@pytest.mark.parametrize(
    ("block", "words"),
    [
        pytest.param(b"\x80", "index 0", id="index 0"),
        pytest.param(b"\xbe", "not in the table", id="index 62, of an empty table"),
        pytest.param(b"\xff\x00", "not in the table", id="index 127, of an empty table"),
        pytest.param(b"\xff\xff\xff\xff\xff\x07", "not in the table", id="an index beyond any table"),
        pytest.param(b"\x7e\x01v", "not in the table", id="the name of index 62, of an empty table"),
        pytest.param(b"\x0f\x2f\x01v", "not in the table", id="that name without indexing"),
        pytest.param(b"\x82\x20", "start of its block", id="a resize after a field"),
        pytest.param(b"\x82\x20\x01n\x01v", "start of its block", id="a resize that could be taken for a field"),
        pytest.param(b"\x82\x3f\xe1\x1f", "start of its block", id="a resize to the size it has"),
        pytest.param(literal(b"a", b"b") + b"\x20\x82", "start of its block", id="a resize between fields"),
        pytest.param(b"\x3f\xe2\x1f", "4097 bytes, where 4096", id="a table larger than advertised"),
        pytest.param(b"\x20\x3f\xe2\x1f", "4097 bytes, where 4096", id="a smaller one first"),
        pytest.param(b"\xff\x80\x80\x80\x80\x80\x00", "too long", id="an index in too many bytes"),
        pytest.param(b"\x3f\x80\x80\x80\x80\x80\x00", "too long", id="a size in too many bytes"),
        pytest.param(b"\x00\x7f\x80\x80\x80\x80\x80\x00a\x00", "too long", id="a length in too many bytes"),
        pytest.param(b"\x00\x01n\x7f\xff\xff\xff\xff\x7fv", "within a string", id="a length of gigabytes"),
    ],
)
def test_blocks_that_break_a_rule_are_refused(block, words):
    with pytest.raises(HeaderError, match=words) as caught:
        HeaderDecoder().decode(block)
    assert not isinstance(caught.value, HeadersTooLarge)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_integers_may_be_longer_than_they_need_to_be():
    assert HeaderDecoder().decode(b"\x00\x01a\x7f\x81\x80\x80\x80\x00" + b"v" * 128) == [(b"a", b"v" * 128)]


@pytest.mark.parametrize(
    "block",
    [
        literal(b"name", b"value"),
        literal(b"n" * 126, b"v" * 5, 0),
        b"\x3f\xe1\x1f\x3f\xe1\x1f" + encode_indexed([(b"content-type", b"application/grpc"), (b"a", b"v" * 3000)]),
        encode_plain([(b"n" * 200, b"v" * 200), (b"content-type", b"")]),
        b"\x41\x8c\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff",
        b"\x7d\x01v\xff\x01",
    ],
    ids=["with indexing", "without indexing", "indexed names", "long ones", "huffman", "an index of two bytes"],
)
def test_a_block_may_end_only_between_fields(block):
    """Whatever is cut off: the rest is refused, or is fewer whole fields."""
    old = [(b"x", b"%d" % number) for number in range(70)]
    whole = HeaderDecoder()
    whole.decode(encode_indexed(old))
    expected = whole.decode(block)

    for cut in range(len(block)):
        decoder = HeaderDecoder()
        decoder.decode(encode_indexed(old))
        found = decoded(decoder.decode, HeaderError, block[:cut])
        assert found is None or (found == expected[: len(found)] and len(found) < len(expected))


# The dynamic table.


def test_an_entry_from_the_table_is_the_same_object_each_time():
    decoder = HeaderDecoder()
    (entered,) = decoder.decode(literal(b"a", b"b"))

    assert decoder.decode(NEWEST)[0] is decoder.decode(NEWEST)[0] is entered


def test_all_that_fits_is_kept_and_the_oldest_goes_first():
    decoder = HeaderDecoder()
    decoder.decode(integer(3 * 34, 5, 0x20) + b"".join(literal(b"a", value) for value in (b"1", b"2", b"3")))
    assert [value for _, value in table(decoder)] == [b"3", b"2", b"1"]

    decoder.decode(literal(b"a", b"4"))
    assert [value for _, value in table(decoder)] == [b"4", b"3", b"2"]
    decoder.decode(literal(b"a", b"55"))
    assert [value for _, value in table(decoder)] == [b"55", b"4"]


def test_the_name_of_an_entry_may_come_from_the_one_that_it_evicts():
    decoder = HeaderDecoder()
    decoder.decode(integer(40, 5, 0x20) + literal(b"name", b"old"))

    assert decoder.decode(b"\x7e\x03new") == [(b"name", b"new")]
    assert table(decoder) == [(b"name", b"new")]


@pytest.mark.parametrize(("value_bytes", "kept"), [(40 - 32 - 1, 1), (40 - 32, 0)])
def test_an_entry_larger_than_the_table_empties_it_and_is_still_a_field(value_bytes, kept):
    decoder = HeaderDecoder()
    decoder.decode(integer(40, 5, 0x20) + literal(b"old", b"1"))

    assert decoder.decode(literal(b"n", b"v" * value_bytes)) == [(b"n", b"v" * value_bytes)]
    assert table(decoder) == [(b"n", b"v" * value_bytes)] * kept


def test_a_table_shrinks_at_once_and_may_grow_again():
    decoder = HeaderDecoder()
    decoder.decode(literal(b"a", b"1") + literal(b"b", b"2"))

    assert decoder.decode(integer(34, 5, 0x20) + NEWEST) == [(b"b", b"2")]
    assert decoder.decode(TABLE_0 + TABLE_4096) == []
    assert table(decoder) == []
    assert decoder.decode(literal(b"c", b"3") + NEWEST) == [(b"c", b"3")] * 2


def test_a_client_may_use_the_protocols_table_until_it_has_heard_of_ours():
    """The library refuses what comes before the update that it waits for; here a client may be late with it."""
    decoder = HeaderDecoder(table_size=0)

    assert decoder.decode(literal(b"a", b"1")) == decoder.decode(NEWEST) == [(b"a", b"1")]
    assert decoder.decode(TABLE_0) == []
    with pytest.raises(HeaderError):
        decoder.decode(NEWEST)
    with pytest.raises(HeaderError, match="1 bytes, where 0"):
        HeaderDecoder(table_size=0).decode(b"\x21")


def test_a_larger_table_is_used_when_the_client_says_so():
    decoder = HeaderDecoder(table_size=10_000)
    decoder.decode(encode_indexed([(b"a", b"1" * 3000), (b"b", b"2" * 3000)]))
    assert len(table(decoder)) == 1

    decoder.decode(integer(10_000, 5, 0x20) + encode_indexed([(b"c", b"3" * 3000), (b"d", b"4" * 3000)]))
    assert [name for name, _ in table(decoder)] == [b"d", b"c", b"b"]


@pytest.mark.parametrize(
    ("block", "moves"),
    [
        (b"", False),
        (b"\x82\x86\x84", False),
        (NEWEST + SECOND, False),
        (literal(b"n", b"v", 0x00), False),
        (literal(b"n", b"v", 0x10), False),
        (b"\x0f\x2f\x01v", False),
        (integer(200, 5, 0x20), False),
        (integer(199, 5, 0x20), True),
        (integer(201, 5, 0x20), True),
        (TABLE_0, True),
        (TABLE_0 + integer(200, 5, 0x20), True),
        (literal(b"n", b"v"), True),
        (b"\x41\x01v", True),
        (b"\x7e\x01v", True),
        (literal(b"n", b"v" * 120), True),
        (encode_indexed([(b"n", b"v" * 300)]), True),
    ],
)
def test_changes_moves_when_the_table_does(block, moves):
    """A caller may keep what it made of a block, so what changes how the same bytes are read must count."""
    decoder = HeaderDecoder()
    decoder.decode(integer(200, 5, 0x20) + literal(b"a", b"1") + literal(b"b", b"2"))
    before, held, capacity = decoder.changes, table(decoder), decoder._capacity

    decoder.decode(block)

    assert (decoder.changes > before) is moves
    assert ((table(decoder), decoder._capacity) != (held, capacity) or block.startswith(TABLE_0)) is moves


def test_changes_stays_when_nothing_is_there_to_be_evicted():
    decoder = HeaderDecoder()
    decoder.decode(TABLE_0)
    before = decoder.changes

    decoder.decode(literal(b"too", b"large") + literal(b"too", b"large"))

    assert decoder.changes == before


@given(st.lists(st.tuples(LISTS, st.booleans(), st.lists(SIZES, max_size=2)), max_size=8))
def test_a_block_means_the_same_as_long_as_changes_stays(blocks):
    """What a caller's cache does: keep a block's fields for as long as nothing changed, and never decode it again."""
    encoder, decoder, cached = hpack.Encoder(), HeaderDecoder(), HeaderDecoder()
    kept, seen = {}, -1

    for headers, compressed, sizes in blocks * 2:
        resize(encoder, sizes)
        block = encoder.encode(headers, huffman=compressed)
        if cached.changes != seen:
            kept, seen = {}, cached.changes
        if block not in kept:
            fields = cached.decode(block)
            if cached.changes == seen:
                kept[block] = fields
        assert kept.get(block, headers) == decoder.decode(block) == headers
        assert table(cached) == table(decoder)


# Limits.


@pytest.mark.parametrize("encode", [encode_plain, encode_indexed])
def test_the_limit_counts_names_values_and_32_each(encode):
    headers = [(b":method", b"GET"), (b"content-type", b"application/grpc"), (b"name", b"v" * 100)]
    size = sum(len(name) + len(value) + 32 for name, value in headers)

    assert HeaderDecoder(limit=size).decode(encode(headers)) == headers
    with pytest.raises(HeadersTooLarge):
        HeaderDecoder(limit=size - 1).decode(encode(headers))


@pytest.mark.parametrize("field", [NEWEST, b"\x82", literal(b"n", b"v" * 50, 0), b"\x00\x01h\x81\x07"])
def test_nothing_is_read_beyond_the_limit(field):
    decoder = HeaderDecoder(limit=5000)
    decoder.decode(literal(b"a", b"b"))
    index_zero = b"\x80"

    with pytest.raises(HeadersTooLarge):
        decoder.decode(field * 160 + index_zero)
    with pytest.raises(HeaderError, match="index 0"):
        HeaderDecoder().decode(b"\x82" * 160 + index_zero)


def test_a_small_block_cannot_become_a_large_list():
    decoder = HeaderDecoder()
    decoder.decode(encode_indexed([(b"a", b"v" * 4000)]))

    assert len(decoder.decode(NEWEST * 16)) == 16
    with pytest.raises(HeadersTooLarge):
        decoder.decode(NEWEST * 17)


def test_a_block_that_must_be_too_large_is_not_even_begun():
    with pytest.raises(HeadersTooLarge):
        HeaderDecoder(limit=100).decode(b"\x80" * 401)


@given(st.lists(st.tuples(st.sampled_from([b"\x00", b"\n", b"\r", b"0"]), st.integers(0, 90)), min_size=1, max_size=3))
def test_what_is_within_the_limit_is_never_too_large_to_begin(parts):
    """Three of these have the longest codes, 30 bits: nothing makes a block longer for what it says."""
    text = b"".join(symbol * count for symbol, count in parts)
    packed = compress(text)
    packed = integer(len(packed), 7, 0x80) + packed

    assert HeaderDecoder(limit=2 * len(text) + 32).decode(b"\x00" + packed + packed) == [(text, text)]
