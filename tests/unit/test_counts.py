import threading
from bisect import bisect_left

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.counts import ID_CHARACTERS, RequestCounts
from server.statistics import SECONDS_BUCKETS

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


def test_nothing_is_lost_between_threads_while_others_read(counts):
    each, threads, seen = 20_000, 4, []
    done = threading.Event()

    def write():
        for number in range(each):
            counts.count(*KEY, "OK" if number % 10 else "CANCELLED", FAST)

    def read():
        while not done.is_set():
            codes, seconds = counts.snapshot()
            seen.append((sum(codes.values()), sum(seconds[KEY].counts) if seconds else 0))

    reader, writers = threading.Thread(target=read), [threading.Thread(target=write) for _ in range(threads)]
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    reader.join()
    codes, seconds = counts.snapshot()

    assert codes == {(*KEY, "OK"): each * threads * 9 // 10, (*KEY, "CANCELLED"): each * threads // 10}
    assert sum(seconds[KEY].counts) == each * threads
    assert seconds[KEY].sum == pytest.approx(each * threads * FAST)
    assert all(calls == durations for calls, durations in seen)
    assert seen == sorted(seen)


class Raced(list):
    """Durations to which another thread adds one, once, in the instant after they were read."""

    added = False

    def __getitem__(self, key):
        found = super().__getitem__(key)
        if not self.added:
            self.added = True
            self.append(SLOW)
        return found


def test_a_duration_that_comes_while_others_are_entered_is_entered_next(counts):
    count(counts, FAST)
    line = counts._lines[*KEY, "OK"]
    line._news = Raced(line._news)

    assert counts.snapshot()[0] == {(*KEY, "OK"): 1}
    codes, seconds = counts.snapshot()
    assert codes == {(*KEY, "OK"): 2}
    assert seconds[KEY].sum == FAST + SLOW


@given(st.lists(st.sampled_from([0.0, *SECONDS_BUCKETS, *(2 * bound for bound in SECONDS_BUCKETS), 1e6]), max_size=60))
def test_a_bucket_wants_an_example_exactly_until_it_has_one(durations):
    counts, has = RequestCounts(), set()
    for seconds in durations:
        bucket = bisect_left(SECONDS_BUCKETS, seconds)
        assert count(counts, seconds) == (bucket not in has)
        has.add(bucket)
