"""Sockets that the transport's thread reads for others: their turn, their end, and what is too late."""

import selectors
import socket

import pytest

from server.transports.http2.readers import Readers


@pytest.fixture
def pair():
    one, other = socket.socketpair()
    with one, other:
        yield one, other


@pytest.fixture
def selector():
    with selectors.DefaultSelector() as selector:
        yield selector


@pytest.fixture
def readers(selector):
    return Readers(selector, lambda act, *arguments: act(*arguments))


@pytest.mark.parametrize("heard_first", [True, False])
def test_what_was_computed_goes_before_what_callers_ask(selector, readers, pair, heard_first):
    heard, caller = pair
    readers.add(heard, lambda: True, lambda: None)
    selector.register(caller, selectors.EVENT_READ)
    keys = [selector.get_key(heard), selector.get_key(caller)]
    ready = [(key, selectors.EVENT_READ) for key in (keys if heard_first else reversed(keys))]

    assert [key.fileobj for key, _ in readers.before_callers(ready)] == [heard, caller]


def test_who_has_nothing_more_to_say_is_heard_no_more_and_told_so(selector, readers, pair):
    told, answers = [], [True, False]
    readers.add(pair[0], lambda: answers.pop(0), lambda: told.append("over"))
    act = selector.get_key(pair[0]).data
    act(selectors.EVENT_READ)
    assert (told, readers.sockets) == ([], (pair[0],))
    act(selectors.EVENT_READ)

    assert (told, readers.sockets) == (["over"], ())
    assert pair[0] not in selector.get_map()


def test_at_the_end_everybody_is_told_and_nobody_new_is_heard(readers, pair):
    told = []
    for source in pair:
        assert readers.add(source, lambda: True, lambda: told.append("over"))
    readers.refuse()
    assert not readers.add(pair[0], lambda: True, lambda: told.append("never heard"))
    readers.end()

    assert told == ["over", "over"]
