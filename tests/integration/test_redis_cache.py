"""The shared response cache when its Redis is damaged, full, silent, killed or not there; then two real servers."""

import asyncio
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import onnx.helper
import pytest

from server.answers import content_key
from server.errors import ServingError
from server.messages import InferRequest, Tensor
from server.queues import redis_cache
from server.queues.envelope import encode_outcome
from server.queues.redis_address import parse_address
from server.queues.redis_cache import RedisCache
from tests import models
from tests import oip as wire
from tests.redis_server import RedisServer, free_port, redis_server, require_redis, until
from tests.server_process import ROOT, serve
from tests.unit.simulation import spec

pytestmark = pytest.mark.redis
WAIT = 20.0
OUTPUTS = (Tensor("y", "UINT8", (1, 1), b"\x07"),)


@pytest.fixture
def redis():
    with redis_server("--appendonly", "no") as server:
        yield server


@pytest.fixture
def lines():
    opened = []

    def connect(server, *, reached=True, **options):
        cache = RedisCache(parse_address(server.url), **{"ttl": 60.0, "patience": WAIT, **options})
        opened.append(cache)
        cache.start()
        if reached:
            until(lambda: cache.statistics().available, WAIT, "the cache reaches Redis")
        return cache

    yield connect
    for cache in opened:
        cache.close()


def key(number=1):
    return content_key(InferRequest("m", "1", "", (Tensor("x", "INT32", (1, 1), number.to_bytes(4, "little")),), 1))


class Question:
    """One look-up: what came, how often and how long after it was asked."""

    def __init__(self, shelf, wanted):
        self.answers = []
        self.came = threading.Event()
        self.asked = time.monotonic()
        self.sent = shelf.fetch(wanted, self._found)

    def _found(self, outputs):
        self.answers.append(outputs)
        self.seconds = time.monotonic() - self.asked
        self.came.set()

    def wait(self):
        assert self.sent
        assert self.came.wait(WAIT)
        return self.answers[0]


def counted(cache, operation, result, at_least=1):
    until(
        lambda: cache.statistics().counts.get((operation, result), 0) >= at_least, WAIT, f"{operation} {result} counted"
    )
    return cache.statistics().counts[operation, result]


def test_what_is_told_can_be_asked_for(redis, lines):
    shelf = (cache := lines(redis)).shelf(spec(), "d")

    assert Question(shelf, key()).wait() is None
    shelf.put(key(), OUTPUTS)
    counted(cache, "put", "stored")
    assert Question(shelf, key()).wait() == OUTPUTS
    assert cache.statistics().counts == {("get", "miss"): 1, ("put", "stored"): 1, ("get", "hit"): 1}


@pytest.mark.parametrize("value", ["cut", "flipped", "not an envelope", "an error", "another model's"])
def test_a_value_that_is_not_what_was_told_is_a_miss_and_mended_by_the_next_answer(redis, lines, value):
    shelf = (cache := lines(redis)).shelf(spec(), "d")
    shelf.put(key(), OUTPUTS)
    counted(cache, "put", "stored")
    name, good = shelf.name(key()), shelf._set(key(), OUTPUTS)[2]
    other = cache.shelf(replace(spec(), name="n"), "d")
    spoilt = {
        "cut": good[:-1],
        "flipped": good[:-1] + bytes([good[-1] ^ 1]),
        "not an envelope": b"",
        "an error": encode_outcome(ServingError("no")),
        "another model's": other._set(key(), OUTPUTS)[2],
    }[value]
    assert plant(redis, name, spoilt) == b"+OK"

    assert Question(shelf, key()).wait() is None
    assert counted(cache, "get", "damaged") == 1

    shelf.put(key(), OUTPUTS)
    counted(cache, "put", "stored", 2)

    assert Question(shelf, key()).wait() == OUTPUTS


def plant(server, name, value):
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as conversation:
        parts = b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in (b"SET", name.encode(), value))
        conversation.sendall(b"*3\r\n" + parts)
        return conversation.recv(100).strip()


def test_a_silent_redis_costs_a_look_up_its_patience_and_then_nothing(redis, lines):
    cache = lines(redis, patience=0.05)
    shelf = cache.shelf(spec(), "d")
    redis.pause()
    first = Question(shelf, key())

    assert first.wait() is None
    assert first.seconds >= 0.05
    assert counted(cache, "get", "late") == 1

    until(lambda: not cache.statistics().available, WAIT, "Redis counts as away")
    before = cache.statistics().counts
    assert not Question(shelf, key()).sent
    shelf.put(key(), OUTPUTS)
    after = cache.statistics().counts
    assert after["get", "away"] == before.get(("get", "away"), 0) + 1
    assert after["put", "away"] == before.get(("put", "away"), 0) + 1

    redis.resume()
    until(lambda: cache.statistics().available, WAIT, "the cache reaches Redis again")
    shelf.put(key(), OUTPUTS)
    counted(cache, "put", "stored")


def test_a_patient_look_up_ends_when_redis_counts_as_away(redis, lines):
    cache = lines(redis)
    redis.pause()
    question = Question(cache.shelf(spec(), "d"), key())

    assert question.wait() is None
    assert question.seconds < 1.5, "soon, not after the connection's own timeout of 2 s"
    assert counted(cache, "get", "away") == 1
    redis.resume()


def test_a_full_redis_keeps_no_new_answer_and_answers_what_it_has(lines):
    flags = ("--appendonly", "no", "--maxmemory-policy", "noeviction")
    with redis_server(*flags) as redis:
        shelf = (cache := lines(redis)).shelf(spec(), "d")
        shelf.put(key(1), OUTPUTS)
        counted(cache, "put", "stored")
        assert redis.ask("CONFIG", "SET", "maxmemory", "1") == b"+OK"
        shelf.put(key(2), OUTPUTS)

        assert counted(cache, "put", "failed") == 1
        assert Question(shelf, key(1)).wait() == OUTPUTS


def test_answers_on_their_way_are_bounded(redis, lines, monkeypatch):
    monkeypatch.setattr(redis_cache, "MOST_BYTES", 1000)
    shelf = (cache := lines(redis)).shelf(spec(), "d")
    shelf.put(key(1), (Tensor("y", "UINT8", (1001,), bytes(1001)),))

    assert counted(cache, "put", "dropped") == 1

    for number in range(5):  # each fits once the one before has arrived
        shelf.put(key(number), (Tensor("y", "UINT8", (900,), bytes(900)),))
        counted(cache, "put", "stored", number + 1)


def test_answers_that_were_lost_on_their_way_make_room_for_others(redis, lines, monkeypatch):
    monkeypatch.setattr(redis_cache, "MOST_BYTES", 1000)
    shelf, most = (cache := lines(redis)).shelf(spec(), "d"), (Tensor("y", "UINT8", (900,), bytes(900)),)
    redis.pause()
    shelf.put(key(1), most)
    assert counted(cache, "put", "away") == 1
    redis.resume()
    until(lambda: cache.statistics().available, WAIT, "the cache reaches Redis again")
    shelf.put(key(2), most)

    assert counted(cache, "put", "stored") == 1


def test_closing_answers_even_what_was_not_looked_at_yet(redis, lines, monkeypatch):
    async def idle(*_):
        await asyncio.Event().wait()

    monkeypatch.setattr(RedisCache, "_hand_over", idle)
    cache = lines(redis)
    question = Question(cache.shelf(spec(), "d"), key())
    assert question.answers == []
    cache.close()

    assert question.answers == [None]


def test_look_ups_during_kills_and_restarts_are_each_answered_once(redis, lines):
    cache = lines(redis, patience=0.02)
    shelf = cache.shelf(spec(), "d")
    questions, stop = [[] for _ in range(3)], threading.Event()

    def ask(mine, first):
        number = first
        while not stop.is_set():
            question = Question(shelf, key(number % 250))
            mine.append(question)
            if question.sent:
                question.came.wait(WAIT)
            shelf.put(key(number % 250), OUTPUTS)
            number += 1

    threads = [threading.Thread(target=ask, args=(mine, n)) for n, mine in enumerate(questions)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        known = cache.statistics().counts.get(("put", "stored"), 0)
        counted(cache, "put", "stored", known + 20)
        redis.kill()
        until(lambda: not cache.statistics().available, WAIT, "Redis counts as away")
        redis.start()
        until(lambda: cache.statistics().available, WAIT, "the cache reaches Redis again")
    stop.set()
    for thread in threads:
        thread.join(WAIT)
    sent = [question for mine in questions for question in mine if question.sent]

    assert not any(thread.is_alive() for thread in threads)
    assert all(len(question.answers) == 1 for question in sent)
    assert all(question.answers[0] in (None, OUTPUTS) for question in sent)
    counts = cache.statistics().counts
    assert sum(count for (operation, _), count in counts.items() if operation == "get") == sum(map(len, questions))
    assert counts["get", "away"] >= 3


def test_a_redis_that_comes_later_is_found_and_look_ups_until_then_are_not_even_tried(lines, tmp_path):
    require_redis()
    server = RedisServer(tmp_path, "--appendonly", "no", port=free_port())
    cache = lines(server, reached=False)
    shelf = cache.shelf(spec(), "d")

    assert not Question(shelf, key()).sent
    try:
        server.start()
        until(lambda: cache.statistics().available, WAIT, "the cache reaches Redis")
    finally:
        server.kill()


def test_a_wrong_password_is_as_good_as_no_redis(lines):
    with redis_server("--requirepass", "right") as redis:
        wrong = lines(redis, reached=False)
        until(lambda: wrong._known is False, WAIT, "the first attempt has failed")

        assert not Question(wrong.shelf(spec(), "d"), key()).sent

        right = RedisCache(parse_address(redis.url).with_password("right"), ttl=60, patience=WAIT)
        right.start()
        until(lambda: right.statistics().available, WAIT, "the cache reaches Redis")
        right.close()


def test_closing_answers_what_was_asked(redis, lines):
    cache = lines(redis)
    redis.pause()
    questions = [Question(cache.shelf(spec(), "d"), key(number)) for number in range(300)]
    cache.close()

    assert all(question.answers == [None] for question in questions if question.sent)
    assert questions[0].sent
    assert not Question(cache.shelf(spec(), "d"), key()).sent
    cache.close()


# Two servers


def store(root, number):
    """Write a store with one cached model, `y = x + number`, always as version 1."""
    node = onnx.helper.make_node("Add", ["x", "number"], ["y"])
    tensors = [models.value("x", "FP32", ["N", 2])], [models.value("y", "FP32", ["N", 2])]
    data = models.model([node], *tensors, [models.constant("number", np.float32([number]))])
    models.write_version(root / "plus" / "1", data)
    (root / "plus" / "config.pbtxt").write_text("max_batch_size: 8\nresponse_cache { enable: true }\n")
    return root


def ask(server, *numbers):
    """Return the answers to one request of a row for each number, or raise."""
    x = np.repeat(np.float32(numbers)[:, None], 2, axis=1)
    with server.channel() as channel:
        response = wire.Stub(channel).ModelInfer(wire.request("plus", [("x", "FP32", x.shape, x.tobytes())]))
    return np.frombuffer(response.raw_output_contents[0], np.float32).reshape(-1, 2)[:, 0].tolist()


MODEL = '{model="plus",version="1"}'


def batches(server):
    return server.scrape()[f"sluice_batches_total{MODEL}"]


def shared(server, operation, result):
    return server.scrape().get(f'sluice_shared_cache_total{{operation="{operation}",result="{result}"}}', 0)


def test_two_servers_answer_for_each_other_but_never_for_other_files(redis, tmp_path):
    flags = ("--cache", redis.url, "--cache-patience-seconds", "1", "--isolation", "none", "--device", "cpu")
    with (
        serve(*flags, store=store(tmp_path / "a", 1)) as one,
        serve(*flags, store=store(tmp_path / "b", 1)) as two,
        serve(*flags, store=store(tmp_path / "c", 2)) as retrained,
    ):
        servers = (one, two, retrained)
        for server in servers:
            until(lambda s=server: s.scrape()["sluice_shared_cache_available"] == 1, WAIT, "the cache reaches Redis")
        before = [batches(server) for server in servers]

        def ran():
            return [batches(server) - count for server, count in zip(servers, before, strict=True)]

        assert ask(one, 5, 6) == [6, 7]
        until(lambda: shared(one, "put", "stored") == 1, WAIT, "the answer is in Redis")
        assert ask(two, 5, 6) == [6, 7]
        assert ask(retrained, 5, 6) == [7, 8]

        assert ran() == [1, 0, 1]
        assert [server.scrape()[f"sluice_cache_hits_total{MODEL}"] for server in servers] == [0, 1, 0]
        assert two.scrape()[f"nv_cache_num_hits_per_model{MODEL}"] == 1
        assert two.scrape()[f"nv_inference_request_success{MODEL}"] == 1

        redis.kill()

        assert ask(two, 7) == [8]
        assert ask(one, 7) == [8]
        until(lambda: two.scrape()["sluice_shared_cache_available"] == 0, WAIT, "Redis counts as away")
        assert ask(two, 8) == [9]
        assert shared(two, "get", "away") >= 1
        assert ran() == [2, 2, 1]

        redis.start()
        for server in (one, two):
            until(lambda s=server: s.scrape()["sluice_shared_cache_available"] == 1, WAIT, "Redis is back")
        assert ask(one, 9) == [10]
        until(lambda: shared(one, "put", "stored") == 2, WAIT, "the answer is in Redis")
        assert ask(two, 9) == [10]
        assert ran() == [3, 2, 1]
        assert [server.stop() for server in servers] == [0, 0, 0]


def test_an_address_that_cannot_be_is_said_in_one_line():
    done = subprocess.run(
        [sys.executable, "-m", "server", "serve", "--cache", "memcached://127.0.0.1"],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip

    assert done.returncode == 2
    assert "--cache: redis url: expected one of redis" in done.stderr.splitlines()[-1]
