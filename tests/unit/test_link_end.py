"""An end of a link: what is gathered leaves together, nobody waits for the other end, and nonsense ends it."""

import socket
import subprocess
import sys
import threading

import pytest

from server.errors import Cancelled, QueueUnavailable
from server.frontends import Frontends
from server.link.desk import Desk
from server.link.end import End
from server.link.frames import HEAD, NOTE, REFUSAL, REQUEST, frame
from server.link.linked_queue import LinkedQueue
from server.link.packets import RequestWriter
from server.settings import Settings
from server.wire.lifecycle import Lifecycle
from tests.instances import eventually
from tests.server_process import ROOT
from tests.unit.simulation import request

WAIT = 10.0


class Ends:
    """One end of a pair, with what it heard, and the bare socket of the other."""

    def __init__(self, handlers=None, on_end=lambda: None):
        ours, self.other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.heard = []
        self.changed = threading.Condition()
        self.why = []
        self._on_end = on_end
        self.end = End(ours, handlers or {NOTE: self._hear}, self._ended, most=1 << 20)

    def _hear(self, number, data, start, stop):
        with self.changed:
            self.heard.append((number, bytes(data[start:stop])))
            self.changed.notify()

    def _ended(self, why):
        self._on_end()
        with self.changed:
            self.why.append(why)
            self.changed.notify()

    def until(self, condition):
        with self.changed:
            assert self.changed.wait_for(condition, WAIT)

    def read(self, count):
        data = b""
        while len(data) < count:
            data += self.other.recv(count - len(data))
        return data


@pytest.fixture
def ends():
    made = Ends()
    made.end.start("link")
    yield made
    made.other.close()
    made.end.close()


def test_what_was_put_leaves_together_at_the_flush(ends):
    for number in range(100):
        ends.end.put((frame(NOTE, number, b"x"),))
    ends.other.setblocking(False)
    with pytest.raises(BlockingIOError):
        ends.other.recv(1)
    ends.end.flush()

    assert ends.end.waiting() == 0
    assert ends.other.recv(1 << 16) == b"".join(frame(NOTE, number, b"x") for number in range(100))


def test_a_peer_that_reads_nothing_holds_nobody_up_and_gets_it_all_in_order_when_it_reads(ends):
    sent = [frame(NOTE, number, bytes([number]) * 100_000) for number in range(100)]
    for whole in sent:
        ends.end.put((whole[:50], whole[50:]))
        ends.end.flush()

    assert ends.read(sum(map(len, sent))) == b"".join(sent)
    ends.end.tell(NOTE, 7, b"after")
    assert ends.read(HEAD.size + 5) == frame(NOTE, 7, b"after")


def test_many_threads_that_put_and_flush_lose_nothing(ends):
    def send(thread):
        for number in range(300):
            ends.end.tell(NOTE, thread * 1000 + number, b"y" * number)

    threads = [threading.Thread(target=send, args=(thread,)) for thread in range(4)]
    receiver = Ends()
    for thread in threads:
        thread.start()
    data = ends.read(4 * sum(HEAD.size + number for number in range(300)))
    for thread in threads:
        thread.join()
    receiver.end.start("receiver")
    receiver.other.sendall(data)
    receiver.until(lambda: len(receiver.heard) == 1200)
    receiver.other.close()
    receiver.end.close()

    for thread in range(4):
        own = [number for number, _ in receiver.heard if number // 1000 == thread]
        assert own == [thread * 1000 + number for number in range(300)]
    assert all(len(body) == number % 1000 for number, body in receiver.heard)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(frame(200, 0), id="a kind nobody knows"),
        pytest.param(HEAD.pack(1 << 21, NOTE, 0), id="too long"),
        pytest.param(frame(NOTE, 1, b"whole") + frame(NOTE, 2, b"cut")[:-1], id="cut off"),
    ],
)
def test_nonsense_and_the_end_of_the_stream_end_the_link_once(ends, data):
    ends.other.sendall(data)
    ends.other.shutdown(socket.SHUT_WR)
    ends.until(lambda: ends.why)

    assert ends.end.lost
    assert len(ends.why) == 1
    assert (2, b"cut") not in ends.heard
    ends.end.tell(NOTE, 1)  # nobody is hurt


class Stuck:
    """A queue that keeps what it gets."""

    def __init__(self):
        self.taken = []
        self.cancelled = 0

    def submit(self, what, reply):
        self.taken.append((what, reply))
        return self

    def cancel(self):
        self.cancelled += 1
        self.taken[-1][1](Cancelled("as asked"))


@pytest.mark.parametrize(
    "body", [b"", b"\0" * 40, frame(REQUEST, 1, b"\0" * 80)], ids=["empty", "no template", "another frame in it"]
)
def test_a_request_that_is_none_ends_the_link_and_what_it_was_owed_is_cancelled(body):
    queue = Stuck()
    desk = Desk(queue, lambda _: None)
    ends = Ends(desk.handlers, desk.cancel_all)
    desk.attach(ends.end)
    ends.end.start("engine")
    writer = RequestWriter(lambda pieces: ends.other.sendall(b"".join(pieces)), lambda _: 0)
    writer.write(0, request([1]))
    ends.other.sendall(frame(REQUEST, 9, body))
    ends.until(lambda: ends.why)

    assert queue.cancelled == 1
    assert desk.owed == 0
    assert "CorruptFrame" in ends.why[0]
    ends.other.close()
    ends.end.close()


def test_everything_open_is_answered_when_the_engine_goes_and_nothing_new_is_taken():
    queue = LinkedQueue(lambda _: 0)
    ends = Ends(queue.handlers, queue.fail_all)
    queue.attach(ends.end)
    ends.end.start("frontend")
    outcomes = []
    for _ in range(3):
        queue.submit(request([1]), outcomes.append)
    ends.other.close()
    ends.until(lambda: ends.why)

    assert [type(outcome) for outcome in outcomes] == [QueueUnavailable] * 3
    with pytest.raises(QueueUnavailable):
        queue.submit(request([1]), outcomes.append)
    assert queue.statistics() == {}
    ends.end.close()


def test_an_answer_to_nothing_ends_the_link():
    queue = LinkedQueue(lambda _: 0)
    ends = Ends(queue.handlers)
    queue.attach(ends.end)
    ends.end.start("frontend")
    ends.other.sendall(frame(REFUSAL, 5, b'["Cancelled","x",null]'))
    ends.until(lambda: ends.why)
    ends.other.close()
    ends.end.close()

    assert "request 5, which is not open" in ends.why[0]


def test_what_is_put_between_the_last_look_and_the_end_of_a_flush_is_sent_all_the_same(ends):
    send_all, late = ends.end._send_all, [True]

    def meanwhile(flags):
        left = send_all(flags)
        if late:
            late.pop()
            ends.end.tell(NOTE, 2)  # its flush finds somebody sending and leaves
        return left

    ends.end._send_all = meanwhile
    ends.end.tell(NOTE, 1)

    assert ends.end.waiting() == 0
    assert ends.read(2 * HEAD.size) == frame(NOTE, 1) + frame(NOTE, 2)


def test_who_gathers_answers_sends_them_at_the_end_and_everybody_else_at_once():
    frontends = Frontends(Settings(frontends=2), Lifecycle(), lambda: ({}, {}))
    queue = Stuck()
    desk = Desk(queue, lambda _: None, frontends._gathering)
    ends = Ends(desk.handlers)
    desk.attach(ends.end)
    frontends._ends = (ends.end,)
    ends.end.start("engine")
    writer = RequestWriter(lambda pieces: ends.other.sendall(b"".join(pieces)), lambda _: 0)
    for number in range(3):
        writer.write(number, request([1]))
    assert eventually(lambda: len(queue.taken) == 3)
    replies = [reply for _, reply in queue.taken]
    replies[0](Cancelled("at once"))
    with frontends:
        replies[1](Cancelled("gathered"))
        waiting = ends.end.waiting()
        replies[2](Cancelled("gathered"))
    ends.other.shutdown(socket.SHUT_WR)
    ends.until(lambda: ends.why)

    assert waiting == 1
    assert ends.end.waiting() == 0
    assert ends.other.recv(1 << 16).count(b"Cancelled") == 3
    ends.other.close()
    ends.end.close()


def test_a_frontend_ends_with_its_link():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "server.frontend", str(theirs.fileno())],
            pass_fds=(theirs.fileno(),), cwd=ROOT, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    try:
        assert process.wait(WAIT) == 1
    finally:
        process.kill()
        process.wait()
