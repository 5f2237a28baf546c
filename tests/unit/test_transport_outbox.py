import threading

import pytest

from server.transports.lean_outbox import DIRECT, Outbox


class Core:
    """As much of the core as an outbox sees: it keeps the batches, and the test decides when it answers a wake."""

    def __init__(self):
        self.sent = []
        self.wakes = []
        self.refuse_wakes = False

    def start_server_batch(self, operations, tag):
        if operations:
            self.sent.append(operations)
            return 0
        self.wakes.append(tag)
        return 1 if self.refuse_wakes else 0


@pytest.fixture
def core():
    return Core()


@pytest.fixture
def outbox():
    outbox = Outbox()
    outbox.calls |= {object() for _ in range(DIRECT + 1)}
    return outbox


def test_with_few_calls_open_every_thread_sends_its_own_answers(core):
    outbox = Outbox()
    outbox.calls |= {object() for _ in range(DIRECT)}
    outbox.send(core, ("answer",), print)

    assert (core.sent, core.wakes) == ([("answer",)], [])


def test_the_polling_thread_sends_its_own_answers_however_many_are_open(core, outbox):
    outbox.thread = threading.get_ident()
    outbox.send(core, ("answer",), print)

    assert (core.sent, core.wakes) == ([("answer",)], [])


def test_answers_of_other_threads_wait_for_one_wake_and_leave_in_order(core, outbox):
    for number in range(5):
        outbox.send(core, (number,), print)

    assert (core.sent, len(core.wakes)) == ([], 1)

    core.wakes.pop()(None)

    assert core.sent == [(number,) for number in range(5)]

    outbox.send(core, (5,), print)

    assert len(core.wakes) == 1


def test_an_answer_given_while_the_others_leave_is_not_forgotten(core, outbox):
    send = core.start_server_batch

    def answer_once_more(operations, tag):
        if operations == (0,):
            outbox.send(core, (1,), print)
        return send(operations, tag)

    core.start_server_batch = answer_once_more
    outbox.send(core, (0,), print)
    core.wakes.pop()(None)
    for wake in core.wakes:
        wake(None)

    assert core.sent == [(0,), (1,)]


def test_where_the_core_takes_no_wake_answers_leave_at_once(core, outbox):
    core.refuse_wakes = True
    outbox.send(core, ("answer",), print)

    assert core.sent == [("answer",)]


def test_answers_of_many_threads_all_leave_once(core, outbox):
    together = threading.Barrier(9)

    def answer(first):
        together.wait()
        for number in range(first, first + 500):
            outbox.send(core, (number,), print)

    def poll():
        together.wait()
        while len(core.sent) < 8 * 500:
            if core.wakes:
                core.wakes.pop()(None)

    threads = [threading.Thread(target=answer, args=(500 * i,)) for i in range(8)] + [threading.Thread(target=poll)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert sorted(core.sent) == [(number,) for number in range(8 * 500)]
