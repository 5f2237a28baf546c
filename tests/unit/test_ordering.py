from server.ordering import OrderedReplies
from server.pending import Pending
from tests.unit.simulation import request


def line(ordered, count, reply):
    """Put requests in line; `reply(number, outcome)` is what each calls."""
    pendings = [Pending(request(), lambda outcome, n=n: reply(n, outcome), None, 0.0) for n in range(count)]
    for pending in pendings:
        ordered.accept(pending)
    return pendings


def test_answers_wait_for_those_before_them():
    ordered, heard = OrderedReplies(), []
    pendings = line(ordered, 4, lambda number, _: heard.append(number))
    for number in (2, 1, 3):
        ordered.deliver(pendings[number], "answer")

    assert heard == []

    ordered.deliver(pendings[0], "answer")

    assert heard == [0, 1, 2, 3]


def test_a_reply_is_finished_before_the_next_one_begins():
    ordered, heard = OrderedReplies(), []

    def reply(number, _):
        if number == 0:
            ordered.deliver(pendings[1], "answer")
        heard.append(number)

    pendings = line(ordered, 2, reply)
    ordered.deliver(pendings[0], "answer")

    assert heard == [0, 1]
