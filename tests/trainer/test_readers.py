import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trainer.made_up import customers, idx_bytes, write_customers
from trainer import churn, mnist, readers, sentiment
from trainer.errors import DataError
from trainer.examples import Dataset

FILE = Path("some.csv")


def _load(tmp_path: Path, table: list[list[str]], end: str = "\n") -> Dataset:
    write_customers(tmp_path, table, end)
    return churn.load(tmp_path, True)


def _ages(data: Dataset) -> list[float]:
    return sorted(np.concatenate([data.train.inputs["Age"], data.test.inputs["Age"]])[:, 0].tolist())


def test_line_ends_column_order_and_extra_columns_make_no_difference(tmp_path):
    table = customers()
    turned = [[*reversed(row), "extra"] for row in table]
    plain = _load(tmp_path / "a", table)

    other = _load(tmp_path / "b", turned, "\r\n")

    assert plain.train.labels.tolist() == other.train.labels.tolist()
    for name, array in plain.train.inputs.items():
        assert array.tolist() == other.train.inputs[name].tolist()


def test_a_byte_order_mark_and_blank_lines_are_coped_with(tmp_path):
    table = customers()
    path = write_customers(tmp_path, table)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\n\n", 5))

    assert len(table) - 1 == len(_ages(churn.load(tmp_path, True)))


def test_a_blank_number_is_not_known_and_an_unknown_country_is_kept(tmp_path):
    table = customers()
    table[1][table[0].index("Balance")] = ""
    table[2][table[0].index("Geography")] = "Atlantis"

    data = _load(tmp_path, table)

    everyone = np.concatenate([data.train.inputs["Balance"], data.test.inputs["Balance"]])
    assert int(np.isnan(everyone).sum()) == 1
    countries = np.concatenate([data.train.inputs["Geography"], data.test.inputs["Geography"]])
    assert int((countries == "Atlantis").sum()) == 1


@pytest.mark.parametrize(
    ("column", "cell", "message"),
    [
        ("Age", "old", "row 4, column Age: expected a number, found 'old'"),
        ("Age", "inf", "row 4, column Age: expected a number, found 'inf'"),
        ("Balance", "1,5", "row 4: expected 14 cells, found 15"),
        ("Exited", "2", "row 4, column Exited: expected the label 0 or 1, found '2'"),
        ("Exited", "", "row 4, column Exited: expected the label 0 or 1, found ''"),
        ("Exited", "yes", "row 4, column Exited: expected the label 0 or 1, found 'yes'"),
    ],
)
def test_a_wrong_cell_is_named_by_row_and_column(tmp_path, column, cell, message):
    table = customers()
    table[3][table[0].index(column)] = cell

    with pytest.raises(DataError, match=message):
        _load(tmp_path, table)


def test_a_missing_column_is_named(tmp_path):
    table = [row[:3] + row[4:] for row in customers()]

    with pytest.raises(DataError, match="expected one column 'CreditScore', found 0"):
        _load(tmp_path, table)


def test_customers_of_one_kind_only_are_refused(tmp_path):
    table = [row if number == 0 else [*row[:-1], "0"] for number, row in enumerate(customers())]

    with pytest.raises(DataError, match="customers of both kinds in column Exited, found only 0"):
        _load(tmp_path, table)


def test_too_few_customers_are_refused(tmp_path):
    with pytest.raises(DataError, match="at least 100 customers, found 20"):
        _load(tmp_path, customers(20))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "expected one column 'a', found 0"),
        (b"a,b\n", "expected rows after the header, found none"),
        (b"a,b\n1\n", "row 2: expected 2 cells, found 1"),
        (b"a,a\n1,2\n", "expected one column 'a', found 2"),
        (b"a,b\n\xff,1\n", "expected UTF-8, found byte 0xff at 4"),
    ],
)
def test_a_file_that_is_no_table_is_refused_in_words(data, message):
    with pytest.raises(DataError, match=message):
        list(readers.records(FILE, data, ("a",)))


def test_a_quoted_cell_keeps_its_commas_and_unusual_line_marks():
    rows = list(readers.records(FILE, 'a,b\n"x, \x85y",2\n'.encode(), ("b", "a")))

    assert rows == [(2, {"a": "x, \x85y", "b": "2"})]


@given(st.text(max_size=12))
def test_a_number_is_finite_or_not_known_or_refused(cell):
    try:
        value = readers.number(FILE, 7, "Age", cell)
    except DataError as error:
        assert "row 7, column Age" in str(error)
    else:
        assert math.isfinite(value) if cell else math.isnan(value)


@given(st.binary(max_size=40))
def test_any_bytes_are_a_table_or_refused_with_a_data_error(data):
    try:
        rows = list(readers.records(FILE, data, ("a",)))
    except DataError as error:
        assert "some.csv" in str(error)
    else:
        assert all(set(row) == {"a"} for _, row in rows)


@given(st.binary(max_size=40), st.sampled_from([1, 3]))
def test_any_bytes_are_an_idx_file_or_refused_with_a_data_error(data, dimensions):
    try:
        values = readers.idx(FILE, data, dimensions)
    except DataError as error:
        assert "some.csv" in str(error)
    else:
        assert values.ndim == dimensions


@given(st.integers(0, 5), st.integers(1, 4))
def test_an_idx_file_reads_back_as_written(rows, side):
    values = np.arange(rows * side * side, dtype=np.uint8).reshape(rows, side, side)

    assert values.tolist() == readers.idx(FILE, idx_bytes(values), 3).tolist()


def test_a_truncated_idx_file_says_how_many_bytes_are_missing():
    whole = idx_bytes(np.zeros((2, 28, 28), np.uint8))

    with pytest.raises(DataError, match=r"sizes \[2, 28, 28\] need 1584 bytes, found 1580; is the file cut short"):
        readers.idx(FILE, whole[:-4], 3)


def test_labels_are_not_images():
    with pytest.raises(DataError, match="expected IDX magic 0x00000803, found 0x00000801"):
        readers.idx(FILE, idx_bytes(np.zeros(20, np.uint8)), 3)


@pytest.mark.parametrize(
    ("labels", "message"),
    [(np.zeros(599, np.uint8), "expected 600 labels"), (np.full(600, 10, np.uint8), "labels 0 to 9, found 10")],
)
def test_labels_that_do_not_fit_the_pictures_are_refused(made_up_data, labels, message):
    (made_up_data / "mnist" / "train-labels-idx1-ubyte").write_bytes(idx_bytes(labels))

    with pytest.raises(DataError, match=message):
        mnist.load(made_up_data, True)


def test_pictures_of_another_size_are_refused(made_up_data):
    (made_up_data / "mnist" / "train-images-idx3-ubyte.gz").unlink()
    (made_up_data / "mnist" / "train-images-idx3-ubyte").write_bytes(idx_bytes(np.zeros((600, 8, 8), np.uint8)))

    with pytest.raises(DataError, match=r"pictures of 28x28 pixels, found \(8, 8\)"):
        mnist.load(made_up_data, True)


def test_the_star_rating_of_a_review_is_never_an_input(made_up_data):
    data = sentiment.load(made_up_data, True)

    assert list(data.train.inputs) == ["text"]
    assert (len(data.train), len(data.test)) == (300, 60)
