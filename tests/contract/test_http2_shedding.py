"""Calls that are refused unheard, many at once: each is answered and counted once, and nothing else comes to harm.

`Scene.check` is what all of them must pass: the right end of every stream, every accepted call handled with its own
message, every refused one counted, every byte paid for, and the next call on the connection served.
"""

import os

import pytest
from h2.errors import ErrorCodes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.transports.base import StatusCode, StatusError
from tests.http2.frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADER_TABLE_SIZE,
    NONE,
    PRIORITY,
    RESOURCE_EXHAUSTED,
    data,
    raw,
    request,
    reset,
    update,
)
from tests.http2.host import wait_for
from tests.http2.shedding import BRIM, CREDIT, FULL, GUEST, PATH, WELCOME, Group, Method, Refusal, stage
from tests.transports import frame

BOTH = pytest.mark.parametrize("crowded", [False, True], ids=["by-message", "by-headers"])
FEW = 40
"""Calls of a run."""


@pytest.fixture(scope="module")
def played():
    with stage() as one:
        yield one


@pytest.fixture
def by_headers(played):
    with played.scene(crowded=True) as scene:
        yield scene


@pytest.fixture
def by_message(played):
    with played.scene() as scene:
        yield scene


SCENES = {
    "alike": [Group(500)],
    "of-no-bytes-but-the-number": [Group(500, size=0)],
    "other-messages": [Group(3 * FEW), Group(FEW, BRIM), Group(FEW, WELCOME), Group(FEW)],
    "one-by-one": [Group(1, start) for start in (FULL, WELCOME, FULL, BRIM) * FEW],
    "other-sizes": [Group(3, size=20 + size) for size in range(FEW)],
    "large": [Group(5), Group(20, size=20_000), Group(5), Group(20, WELCOME, size=20_000), Group(5)],
    "as-large-as-a-frame": [Group(10, size=size) for size in (16378, 16379, 16380)],
    "new-headers-each": [Group(FEW), Group(FEW, numbered=True), Group(FEW), Group(FEW, WELCOME, numbered=True)],
    "headers-beside-the-table": [Group(FEW, table="unused"), Group(FEW, table="unused", numbered=True), Group(FEW)],
    "the-same-headers-that-enter-the-table": [Group(FEW), Group(FEW, table="filled"), Group(FEW, numbered=True)],
    "a-table-that-overflows": [Group(3 * FEW, numbered=True, fields=(GUEST, ("x-long", "y" * 200)))] * 2,
    "a-header-too-large-for-the-table": [Group(FEW, fields=(GUEST, ("x-large", "y" * 5000))), Group(FEW)],
    "who-may-not-know": [Group(FEW), Group(FEW, fields=()), Group(FEW), Group(FEW, fields=(("x-guest", "no"),))],
    "other-deadlines": [Group(FEW, timeout=timeout) for timeout in ("30S", "31S", None, "30S", "9999m", None)],
    "other-gaps": [Group(FEW, gap=gap) for gap in (2, 4, 2, 256, 65536, 2)],
    "padded-headers": [Group(FEW), Group(FEW, headers="padded"), Group(FEW)],
    "continued-headers": [Group(FEW), Group(FEW, headers="continued"), Group(FEW)],
    "padded-data": [Group(FEW), Group(FEW, body="padded"), Group(FEW)],
    "data-in-halves": [Group(FEW), Group(FEW, body="halves"), Group(FEW)],
    "data-that-ends-late": [Group(FEW), Group(FEW, body="late end"), Group(FEW)],
    "trailers": [Group(FEW), Group(FEW, body="trailers"), Group(FEW)],
}


@BOTH
@pytest.mark.parametrize("groups", SCENES.values(), ids=SCENES.keys())
def test_every_call_ends_as_it_must(played, groups, crowded):
    with played.scene(crowded=crowded) as scene:
        scene.pour(scene.make(groups))
        scene.check()


GROUPS = st.builds(
    Group,
    calls=st.integers(1, 30),
    starts=st.sampled_from([FULL, FULL, FULL, BRIM, WELCOME]),
    size=st.sampled_from([20, 20, 21, 300, 20_000]),
    timeout=st.sampled_from(["30S", "30S", "30S", "31S", None]),
    fields=st.sampled_from([(GUEST,), (GUEST,), (GUEST, ("x-other", "one")), ()]),
    numbered=st.sampled_from([False, False, True]),
    table=st.sampled_from(["used", "used", "unused", "filled"]),
    headers=st.sampled_from(["plain"] * 6 + ["padded", "continued"]),
    body=st.sampled_from(["whole"] * 6 + ["padded", "halves", "late end", "trailers"]),
    gap=st.sampled_from([2, 2, 2, 2, 4, 300]),
)


@settings(
    max_examples=int(os.environ.get("HTTP2_EXAMPLES", "150")),
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(
    groups=st.lists(GROUPS, min_size=1, max_size=6),
    cuts=st.lists(st.floats(0, 1), max_size=6),
    crowded=st.booleans(),
    settled=st.sampled_from([(), (), ((HEADER_TABLE_SIZE, 0),)]),
)
def test_every_call_ends_as_it_must_in_whatever_pieces_it_comes(played, groups, cuts, crowded, settled):
    with played.scene(*settled, crowded=crowded) as scene:
        scene.pour(scene.make(groups), cuts)
        scene.check()


@BOTH
@pytest.mark.parametrize("size", [1000, 16379])
def test_what_refused_calls_have_sent_is_paid_back(played, crowded, size):
    with played.scene(crowded=crowded) as scene:
        while scene.data < 2 * CREDIT:
            scene.pour(scene.make([Group((1 << 18) // size, size=size)]))
            last = max(scene.sent)
            assert scene.peer.answer(last).status == RESOURCE_EXHAUSTED
            assert scene.data - (scene.peer.sendable[0] - CREDIT) <= CREDIT, "a caller that heeds the window would wait"
        scene.check()


@BOTH
def test_a_caller_without_a_table_is_told_so_before_the_first_answer_of_a_run(played, crowded):
    with played.scene((HEADER_TABLE_SIZE, 0), crowded=crowded) as scene:
        scene.pour(scene.make([Group(FEW, table="unused"), Group(FEW, WELCOME), Group(FEW)]))
        scene.check()


REFUSED, ACCEPTED = frame(FULL), frame(WELCOME)
ODD = {
    "an-unknown-frame": ("0", lambda stream: raw(0xFA, END_STREAM, stream, REFUSED) + data(stream, ACCEPTED)),
    "a-compressed-message": ("13", lambda stream: data(stream, b"\1" + REFUSED[1:])),
    "less-than-a-message": ("13", lambda stream: data(stream, REFUSED[:-1])),
    "less-than-a-prefix": ("13", lambda stream: data(stream, REFUSED[:4])),
    "more-than-a-message": ("0", lambda stream: data(stream, ACCEPTED + REFUSED)),
    "nothing": ("12", lambda stream: data(stream, b"")),
}


@pytest.mark.parametrize(("status", "odd"), ODD.values(), ids=ODD.keys())
def test_what_is_no_whole_message_is_not_judged_as_one(by_message, status, odd):
    stream = by_message.peer.stream()
    timed = request(PATH, GUEST, ("grpc-timeout", "30S"))
    by_message.peer.send(by_message.peer.headers(stream, timed), odd(stream))

    assert by_message.peer.answer(stream).status == status
    assert by_message.handled == ([(WELCOME, None)] if status == "0" else [])
    assert by_message.peer.alive()
    assert by_message.shed.counts() == (0, 0, 0)


def test_a_second_message_behind_a_whole_one_is_a_mistake_on_its_stream(by_message):
    stream = by_message.peer.stream()
    body = data(stream, ACCEPTED)
    by_message.peer.send(by_message.peer.headers(stream, request(PATH, ("grpc-timeout", "30S"))), body, body)

    assert by_message.peer.verdict(stream) is ErrorCodes.STREAM_CLOSED
    assert by_message.peer.alive()
    assert by_message.handled in ([], [(WELCOME, None)])


@BOTH
def test_data_behind_the_headers_of_another_call_is_not_taken_for_its_own(played, crowded):
    with played.scene(crowded=crowded) as scene:
        groups = [Group(1, WELCOME), Group(1), Group(1), Group(1, WELCOME), Group(2), Group(2, WELCOME)]
        scene.pour(scene.make(groups * 20, crossed=True))
        scene.check()


def test_a_refusal_larger_than_a_frame_goes_out_in_several(by_message):
    words = "no room, and here is why: " + "x" * 40_000
    by_message.shed.refusals[FULL] = Refusal(StatusError(StatusCode.RESOURCE_EXHAUSTED, words), len(FULL))
    data = by_message.make([Group(FEW)])
    for sent in by_message.sent.values():
        sent.details = words
    by_message.pour(data)

    assert {by_message.peer.answer(stream).details for stream in by_message.sent} == {words}
    assert by_message.shed.counts() == (0, FEW, 0)
    assert by_message.peer.alive()


def test_calls_that_came_before_one_of_them_was_refused_are_refused_when_it_is_their_turn():
    method = Method()

    def become_strict(message):
        method.shed.strict = method.shed.strict or message.startswith(FULL)

    method.before = become_strict
    with stage(method) as one, one.scene() as scene:
        scene.shed.strict = False
        scene.pour(scene.make([Group(3, WELCOME), Group(10 * FEW), Group(3, WELCOME), Group(3, timeout=None)]))
        first, *others = (stream for stream, sent in scene.sent.items() if sent.details == "no room")
        scene.sent[first].status, scene.sent[first].details = "0", None

        assert scene.peer.answer(others[-1]).details == "no room"
        scene.check()
    assert len(others) == 10 * FEW - 1


@pytest.mark.parametrize("body", [b"", frame(FULL)[:7]], ids=["headers", "headers-and-a-piece"])
def test_a_call_shed_by_its_headers_is_answered_at_once_and_the_rest_of_it_is_not_wanted(by_headers, body):
    peer = by_headers.peer
    stream = peer.stream()
    peer.send(peer.headers(stream, request(PATH, ("grpc-timeout", "30S"))))
    if body:
        peer.send(raw(DATA, NONE, stream, body))

    assert peer.verdict(stream) is ErrorCodes.NO_ERROR
    assert (peer.answer(stream).status, peer.answer(stream).details) == (RESOURCE_EXHAUSTED, "too many")
    assert peer.alive()
    assert by_headers.shed.counts() == (1, 0, 0)


def test_a_call_without_a_message_is_shed_once_as_well(by_headers):
    peer = by_headers.peer
    stream = peer.stream()
    peer.send(peer.headers(stream, request(PATH, ("grpc-timeout", "30S")), END_HEADERS | END_STREAM))

    assert peer.answer(stream).details == "too many"
    assert peer.pong()
    assert peer.answers[stream].reset is None
    assert by_headers.shed.counts() == (1, 0, 0)


LATE = {
    "data": lambda peer, stream: data(stream, frame(bytes(1000))),
    "data-in-pieces": lambda peer, stream: raw(DATA, NONE, stream, bytes(10)) * 3 + raw(DATA, END_STREAM, stream),
    "trailers": lambda peer, stream: peer.headers(stream, [("x-new", "trailer")], END_HEADERS | END_STREAM),
    "window-update": lambda peer, stream: update(stream, 5),
    "no-window-update": lambda peer, stream: update(stream, 0),
    "reset": lambda peer, stream: reset(stream),
    "priority": lambda peer, stream: raw(PRIORITY, NONE, stream, bytes(5)),
}


@pytest.mark.parametrize("late", LATE.values(), ids=LATE.keys())
def test_what_comes_for_a_call_that_was_shed_by_its_headers_is_read_over(by_headers, late):
    peer = by_headers.peer
    stream = peer.stream()
    peer.send(peer.headers(stream, request(PATH, ("grpc-timeout", "30S"))))
    assert peer.answer(stream).details == "too many"
    assert peer.pong()
    known = len(peer.frames)
    peer.send(late(peer, stream))

    assert peer.ask(PATH, b"next", ("x-new", "trailer")).message == b"next"
    assert stream not in {one.stream_id for one in peer.frames[known:]}


@BOTH
@pytest.mark.parametrize("late", ["window-update", "no-window-update", "reset", "priority"])
@pytest.mark.parametrize("which", [0, FEW // 2, -1], ids=["first", "middle", "last"])
def test_what_crosses_the_answer_to_any_call_of_a_run_disturbs_nothing(played, crowded, late, which):
    with played.scene(crowded=crowded) as scene:
        sent = scene.make([Group(FEW)])
        stream = list(scene.sent)[which]
        scene.pour(sent + LATE[late](scene.peer, stream))
        scene.check()


@BOTH
@pytest.mark.parametrize("which", [0, FEW // 2, -1], ids=["first", "middle", "last"])
def test_data_for_a_call_of_a_run_that_had_come_whole_is_a_mistake_on_its_stream(played, crowded, which):
    with played.scene(crowded=crowded) as scene:
        scene.pour(scene.make([Group(FEW)]))
        stream = list(scene.sent)[which]
        assert scene.peer.answer(max(scene.sent)).ended
        scene.peer.send(data(stream, frame(b"more")))

        assert scene.peer.verdict(stream) is ErrorCodes.STREAM_CLOSED
        assert scene.peer.alive()


@BOTH
def test_streams_of_a_run_are_not_taken_up_again(played, crowded):
    with played.scene(crowded=crowded) as scene:
        scene.pour(scene.make([Group(FEW)]))
        assert scene.peer.answer(max(scene.sent)).ended
        scene.peer.send(scene.peer.headers(max(scene.sent) - 4, request(PATH)))

        assert scene.peer.goaway() is ErrorCodes.PROTOCOL_ERROR
        assert scene.peer.gone.last_stream_id == max(scene.sent)


@BOTH
def test_who_is_sent_away_is_not_shed_and_not_counted(played, crowded):
    with played.scene(crowded=crowded) as scene:
        connection = scene.connection()
        held = scene.peer.call("/t.S/Hold", b"x")
        wait_for(lambda: scene.host.held.calls, "the call to arrive")
        scene.host.transport._loop.perform(connection.drained)
        wait_for(lambda: connection.refusing, "the connection to refuse")
        scene.pour(scene.make([Group(FEW)]))

        assert {scene.peer.answer(stream).reset for stream in scene.sent} == {ErrorCodes.REFUSED_STREAM}
        assert scene.shed.counts() == (0, 0, 0)
        scene.host.held.calls.pop().reply(b"held")
        assert scene.peer.answer(held).message == b"held"


@BOTH
def test_frames_that_carry_nothing_are_counted_from_the_latest_call_on(played, crowded):
    with played.scene(crowded=crowded) as scene:
        for _ in range(3):
            scene.pour(raw(PRIORITY, NONE, 1, bytes(5)) * 900 + scene.make([Group(FEW)]))
        scene.check()
