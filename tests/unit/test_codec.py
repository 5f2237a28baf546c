import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.codec import check_text, decode_bytes, encode_bytes, join_rows, split_rows
from server.errors import InvalidRequest
from server.messages import ITEM_BYTES, Tensor

elements = st.lists(st.binary(max_size=40), max_size=20)


@given(elements)
def test_bytes_elements_come_back_as_they_were(values):
    assert decode_bytes(encode_bytes(values)) == values


@given(st.lists(st.text(max_size=20), min_size=1, max_size=12))
def test_text_of_the_right_count_passes(values):
    check_text(encode_bytes(value.encode() for value in values), len(values))


@given(st.lists(st.text(max_size=20), max_size=12), st.integers(0, 12))
def test_text_of_another_count_is_refused(values, count):
    data = encode_bytes(value.encode() for value in values)
    if count == len(values):
        check_text(data, count)
    else:
        with pytest.raises(InvalidRequest, match=f"expected {count} BYTES elements, got {len(values)}"):
            check_text(data, count)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\x01\0\0", "expected a 4-byte length, got 3 bytes"),
        (b"\xff\xff\xff\xffab", "its length says 4294967295 bytes, 2 are left"),
        (b"\x02\0\0\0a", "its length says 2 bytes, 1 are left"),
        (b"\x01\0\0\0ab", "expected a 4-byte length, got 1 bytes"),
        (b"\x02\0\0\0\xff\xfe", "expected UTF-8 text, got byte 0xff at 0"),
        (b"\x03\0\0\0\xed\xa0\x80", "expected UTF-8 text"),
        (b"", "expected 1 BYTES elements, got 0"),
    ],
)
def test_damaged_text_is_refused_with_what_is_wrong(data, says):
    with pytest.raises(InvalidRequest, match=says):
        check_text(data, 1)


def test_the_second_of_two_texts_is_named_when_it_is_not_utf8():
    with pytest.raises(InvalidRequest, match="element 1: expected UTF-8"):
        check_text(encode_bytes([b"good", b"\x80"]), 2)


def test_a_nul_survives():
    check_text(encode_bytes([b"a\0b"]), 1)


def fixed(datatype, rows, width):
    data = bytes(range(256)) * 64
    return Tensor("t", datatype, (rows, width), data[: rows * width * ITEM_BYTES[datatype]])


@given(st.data(), st.integers(1, 12), st.integers(1, 3), st.sampled_from(["UINT8", "FP16", "INT64", "BYTES"]))
def test_rows_cut_anywhere_join_to_the_same_tensor(data, rows, width, datatype):
    if datatype == "BYTES":
        values = data.draw(st.lists(st.binary(max_size=9), min_size=rows * width, max_size=rows * width))
        tensor = Tensor("t", "BYTES", (rows, width), encode_bytes(values))
    else:
        tensor = fixed(datatype, rows, width)
    inner = data.draw(st.sets(st.integers(1, rows), max_size=4))
    bounds = sorted({0, rows, *inner})

    parts = split_rows(tensor, bounds)
    joined = join_rows(parts)

    assert [part.shape[0] for part in parts] == [b - a for a, b in pairwise(bounds)]
    assert joined.shape == tensor.shape
    assert bytes(joined.data) == bytes(tensor.data)


def test_a_part_of_a_bytes_tensor_is_a_tensor_of_its_own():
    tensor = Tensor("t", "BYTES", (3, 1), encode_bytes([b"a", b"", b"ccc"]))

    last = split_rows(tensor, [0, 2, 3])[1]

    assert bytes(last.data) == struct.pack("<I", 3) + b"ccc"
