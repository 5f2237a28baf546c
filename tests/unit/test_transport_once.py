import threading
import weakref

import pytest

from server.transports.once import Once


@pytest.fixture
def once():
    return Once()


def test_one_of_many_threads_may_end_a_call(once):
    winners, together = [], threading.Barrier(8)

    def race():
        together.wait()
        if once.take():
            winners.append(threading.get_ident())

    threads = [threading.Thread(target=race) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(winners) == 1


def test_leaving_tells_every_callback_once(once):
    told = []
    once.on_cancel(lambda: told.append(1))
    once.on_cancel(lambda: told.append(2))
    once.leave()
    once.leave()

    assert sorted(told) == [1, 2]


def test_leaving_after_the_answer_tells_nobody(once):
    told = []
    once.on_cancel(lambda: told.append(1))
    assert once.take()
    once.leave()
    once.on_cancel(lambda: told.append(2))

    assert told == []


def test_a_callback_that_raises_does_not_keep_the_others_from_being_told(once, caplog):
    told = []
    once.on_cancel(lambda: told.append(1))
    once.on_cancel(lambda: told.append(1 / 0))
    once.leave()

    assert told == [1]
    assert "cancel_callback_failed" in caplog.text


def test_callbacks_given_while_the_caller_leaves_are_each_told_once():
    for _ in range(200):
        once, told, together = Once(), [], threading.Barrier(2)

        def give(once=once, told=told, together=together):
            together.wait()
            for number in range(20):
                once.on_cancel(lambda number=number: told.append(number))

        thread = threading.Thread(target=give)
        thread.start()
        together.wait()
        once.leave()
        thread.join()

        assert sorted(told) == list(range(20))


class Waiter:
    """Something that a callback keeps alive."""


@pytest.mark.parametrize("late", [False, True], ids=["before the answer", "after it"])
def test_an_answered_call_holds_on_to_nobody(once, late):
    waiter = Waiter()
    gone = weakref.ref(waiter)
    if late:
        once.take()
    once.on_cancel(lambda kept=waiter: kept)
    if not late:
        once.take()
    del waiter

    assert gone() is None
