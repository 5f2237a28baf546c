import pytest

from server.messages import Packed, Tensor

FORM = (("a", "FP32", (1, 1)), ("b", "BYTES", (1, 1)))
TENSORS = (Tensor("a", "FP32", (1, 1), b"0000"), Tensor("b", "BYTES", (1, 1), b"\1\0\0\0x"))


@pytest.fixture
def packed():
    return Packed(FORM, [b"0000", b"\1\0\0\0x"])


def test_packed_tensors_are_a_sequence_of_tensors(packed):
    assert tuple(packed) == TENSORS
    assert (len(packed), packed[1], packed[-2], packed[:1]) == (2, TENSORS[1], TENSORS[0], TENSORS[:1])
    assert packed == TENSORS
    assert packed == Packed(FORM, [b"0000", b"\1\0\0\0x"])
    assert repr(packed) == repr(TENSORS)


def test_packed_tensors_differ_where_their_bytes_do(packed):
    assert packed != Packed(FORM, [b"0001", b"\1\0\0\0x"])
    assert packed != 1
