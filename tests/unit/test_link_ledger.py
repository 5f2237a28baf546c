"""What comes together over a link is written down once, on the thread that it comes on, which says so first."""

import socket
import threading

from server.link.end import End
from server.link.frames import NOTE, frame
from server.link.linked_queue import LinkedQueue

WAIT = 10.0


class Ledger:
    """Notes who calls, and what had been heard by then."""

    def __init__(self, heard):
        self.heard = heard
        self.calls = []
        self.changed = threading.Condition()

    def begin(self):
        self._note("begin")

    def settle(self):
        self._note("settle")

    def _note(self, what):
        with self.changed:
            self.calls.append((what, tuple(self.heard), threading.get_ident()))
            self.changed.notify()

    def until(self, calls):
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.calls) >= calls, WAIT)
        return [(what, heard) for what, heard, _ in self.calls]


def test_answers_that_come_together_are_settled_together_by_the_thread_that_hears_them():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    heard: list[int] = []
    ledger, queue = Ledger(heard), LinkedQueue(lambda _: 0)
    handlers = {NOTE: lambda number, *_: heard.append(number)}
    end = End(ours, handlers, lambda _: None, handed_on=queue.settle)
    queue.write_down(ledger)
    end.start("link")
    try:
        theirs.sendall(frame(NOTE, 1) + frame(NOTE, 2))
        assert ledger.until(2) == [("begin", (1, 2)), ("settle", (1, 2))]
        theirs.sendall(frame(NOTE, 3))
        assert ledger.until(3)[2:] == [("settle", (1, 2, 3))]
    finally:
        theirs.close()
        end.close()

    assert {thread for _, _, thread in ledger.calls} == {end.receiver}
