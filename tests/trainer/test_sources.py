import gzip

import pytest

from tests.trainer.made_up import customers, write_customers
from trainer import sources
from trainer.errors import DataError
from trainer.sources import CHURN, DataFile, DataSource

FILE = DataFile("set/rows.csv", ("5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03",))  # of "hello\n"


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "set").mkdir()
    return tmp_path


@pytest.mark.parametrize("name", ["rows.csv", "rows.csv.gz"])
def test_a_checksum_is_of_the_content_whatever_the_compression(directory, name):
    content = b"hello\n"
    (directory / "set" / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)

    assert (directory / "set" / name, content) == sources.read(directory, FILE, own=False)


def test_another_content_is_refused_and_the_way_out_named(directory):
    (directory / "set" / "rows.csv").write_bytes(b"hello!\n")

    with pytest.raises(DataError, match=r"not the published file: expected content sha256 5891b5.*--own-data"):
        sources.read(directory, FILE, own=False)


def test_own_data_is_taken_as_it_is(directory):
    (directory / "set" / "rows.csv").write_bytes(b"hello!\n")

    assert sources.read(directory, FILE, own=True)[1] == b"hello!\n"


def test_a_missing_file_is_named_with_where_to_get_it(directory):
    with pytest.raises(DataError, match=r"rows.csv\[.gz\] is missing; docs/data.md says where to get it"):
        sources.read(directory, FILE, own=True)


@pytest.mark.parametrize("damage", [lambda whole: whole[:-9], lambda whole: b"no" + whole])
def test_a_damaged_gzip_file_is_named(directory, damage):
    (directory / "set" / "rows.csv.gz").write_bytes(damage(gzip.compress(b"hello\n" * 100)))

    with pytest.raises(DataError, match=r"rows\.csv\.gz is not a whole gzip file"):
        sources.read(directory, FILE, own=True)


def test_a_card_tells_own_rows_from_the_published_ones(tmp_path):
    write_customers(tmp_path, customers())

    (found,) = sources.fingerprints(tmp_path, CHURN)

    assert (found["path"], found["published"]) == ("churn/Churn_Modelling.csv", False)


@pytest.mark.parametrize("source", sources.SOURCES.values(), ids=lambda source: source.name)
def test_the_real_files_are_the_published_ones(real_data, source: DataSource):
    assert all(found["published"] for found in sources.fingerprints(real_data, source))
