import pytest

from server.counts import ID_CHARACTERS, RequestCounts

KEY = ("churn", "1", "ModelInfer")
FAST, SLOW = 0.0004, 3.0


@pytest.fixture
def counts():
    return RequestCounts()


def count(counts, seconds, request_id="", trace_id=""):
    wanted = counts.count(*KEY, "OK", seconds)
    if wanted:
        counts.exemplify(KEY, seconds, request_id, trace_id)
    return wanted


def shown(counts):
    return [(e.seconds, e.request_id, e.trace_id) for e in counts.snapshot()[1][KEY].examples if e is not None]


def test_each_bucket_keeps_the_first_request_as_its_example_and_wants_no_other(counts):
    assert [count(counts, FAST, "a"), count(counts, FAST, "b"), count(counts, SLOW, "c", "t")] == [True, False, True]

    assert shown(counts) == [(FAST, "a", ""), (SLOW, "c", "t")]


def test_after_the_counts_were_read_a_newer_example_replaces_the_one_shown(counts):
    count(counts, FAST, "a")
    count(counts, SLOW, "b")
    counts.snapshot()

    assert count(counts, FAST, "c")
    assert shown(counts) == [(FAST, "c", ""), (SLOW, "b", "")]


def test_a_request_that_nobody_could_find_again_is_no_example_and_asks_for_no_second_look(counts):
    assert count(counts, FAST)
    assert not count(counts, FAST, "named")

    assert shown(counts) == []


def test_a_long_id_is_cut_so_that_openmetrics_takes_the_exemplar(counts):
    count(counts, FAST, "x" * 1000, "4bf92f3577b34da6a3ce929d0e0e4736")

    ((_, request_id, trace_id),) = shown(counts)
    assert len(request_id) == ID_CHARACTERS
    assert len("request_id") + len(request_id) + len("trace_id") + len(trace_id) <= 128


def test_a_snapshot_does_not_change_any_more(counts):
    count(counts, FAST, "a")
    codes, seconds = counts.snapshot()

    count(counts, FAST, "b")

    assert codes == {(*KEY, "OK"): 1}
    assert sum(seconds[KEY].counts) == 1
    assert [e.request_id for e in seconds[KEY].examples if e] == ["a"]
