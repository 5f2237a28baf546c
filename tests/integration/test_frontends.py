"""Several frontend processes on one port: to callers one server, whichever of its processes is killed."""

import json
import os
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from urllib.request import urlopen

import grpc
import numpy as np
import psutil
import pytest
from grpc_health.v1 import health_pb2

from server.pb import open_inference_pb2 as oip
from tests import models
from tests import oip as wire
from tests.instances import eventually
from tests.server_process import FREE_PORTS, serve, sluice

PAIR = """
max_batch_size: 2
dynamic_batching { max_queue_delay_microseconds: 1500000 }
"""
"""A batch runs when it is full, or else after a while that a test notices."""


@pytest.fixture(scope="module")
def store(store):
    models.write_version(store / "pair" / "1", models.identity("FP32"))
    (store / "pair" / "config.pbtxt").write_text(PAIR)
    models.write_version(store / "later" / "1", models.identity("FP32"))
    return store


@contextmanager
def frontends(store, *flags):
    """Serve `churn` and `pair` from two frontends, `later` not yet."""
    with serve(
        "--frontends", "2", "--model-control", "explicit", "--load-model", "churn,pair", *flags, store=store
    ) as server:
        yield server


@pytest.fixture(scope="module")
def server(store):
    with frontends(store) as server:
        yield server


def processes(server):
    """Return the frontend processes, oldest first."""
    children = psutil.Process(server.process.pid).children(recursive=True)
    return [child for child in children if "server.frontend" in child.cmdline()]


def served(server):
    """Return how many RPCs each frontend has finished."""
    page = server.scrape()
    return [page[f'sluice_frontend_requests_total{{frontend="{number}"}}'] for number in range(2)]


@contextmanager
def one_channel_each(server):
    """Yield a channel to each frontend; the kernel chooses, so connect until both were chosen."""
    with ExitStack() as stack:
        found = {}
        for _ in range(64):
            channel = stack.enter_context(server.channel())
            before = served(server)
            wire.Stub(channel).ModelInfer(wire.churn([wire.CUSTOMER]))
            (chosen,) = (i for i, (b, a) in enumerate(zip(before, served(server), strict=True)) if a > b)
            found[chosen] = channel
            if len(found) == 2:
                break
        yield [found[number] for number in range(2)]


def pair(values=(1.0, 2.0, 3.0)):
    data = np.array([values], np.float32)
    return wire.request("pair", [("x", "FP32", data.shape, data.tobytes())])


def load(stub, name):
    stub.RepositoryModelLoad(oip.RepositoryModelLoadRequest(model_name=name))


def unload(stub, name):
    stub.RepositoryModelUnload(oip.RepositoryModelUnloadRequest(model_name=name))


def test_concurrent_callers_on_several_channels_get_their_own_answers_from_both_frontends(server):
    ages = [20.0 + number % 60 for number in range(256)]
    with ExitStack() as stack:
        stubs = [wire.Stub(stack.enter_context(server.channel())) for _ in range(16)]
        before = server.scrape()
        calls = [
            stubs[number % 16].future("ModelInfer", wire.churn([wire.CUSTOMER | {"Age": age}], id=str(number)))
            for number, age in enumerate(ages)
        ]
        answers = [call.result() for call in calls]
        expected = {
            age: wire.outputs(stubs[0].ModelInfer(wire.churn([wire.CUSTOMER | {"Age": age}])))["probability"].item()
            for age in set(ages)
        }
        after = server.scrape()

    assert [answer.id for answer in answers] == [str(number) for number in range(256)]
    values = [wire.outputs(answer)["probability"].item() for answer in answers]
    np.testing.assert_allclose(values, [expected[age] for age in ages], atol=1e-5)
    assert all(
        after[name] > before.get(name, 0)
        for name in (f'sluice_frontend_requests_total{{frontend="{n}"}}' for n in (0, 1))
    )
    ok = [name for name in after if name.startswith("sluice_requests_total") and 'model="churn"' in name]
    assert sum(after[name] - before.get(name, 0) for name in ok) == 256 + len(expected)


def test_one_batch_holds_requests_of_both_frontends(server):
    with one_channel_each(server) as channels:
        before = server.scrape()
        calls = [
            wire.Stub(channel).future("ModelInfer", pair((number, 0, 0))) for number, channel in enumerate(channels)
        ]
        answers = [wire.outputs(call.result())["y"] for call in calls]
        after = server.scrape()

    assert [answer[0, 0] for answer in answers] == [0, 1]
    assert after['sluice_batches_total{model="pair",version="1"}'] == 1 + before.get(
        'sluice_batches_total{model="pair",version="1"}', 0
    )


def test_a_tensor_larger_than_any_buffer_on_the_way_comes_through(server):
    customers = [wire.CUSTOMER | {"Balance": float(number)} for number in range(4000)]
    with server.channel() as channel:
        stub = wire.Stub(channel)
        all_at_once = wire.outputs(stub.ModelInfer(wire.churn(customers, geography="Spain" * 40)))["probability"]
        alone = wire.outputs(stub.ModelInfer(wire.churn(customers[3999:], geography="Spain" * 40)))["probability"]

    assert all_at_once.shape == (4000, 1)
    np.testing.assert_allclose(all_at_once[3999:], alone, atol=1e-5)


def test_models_come_and_go_for_both_whichever_is_asked(server):
    request = wire.request("later", [("x", "FP32", (1, 3), np.ones(3, np.float32).tobytes())])
    with one_channel_each(server) as channels:
        one, other = map(wire.Stub, channels)
        load(one, "later")
        answers = [wire.outputs(stub.ModelInfer(request))["y"].tolist() for stub in (one, other)]
        indexes = [stub.RepositoryIndex(oip.RepositoryIndexRequest()) for stub in (one, other)]
        unload(other, "later")
        refusals = []
        for stub in (one, other):
            with pytest.raises(grpc.RpcError) as refusal:
                stub.ModelInfer(request)
            refusals.append((refusal.value.code(), refusal.value.details()))

    assert answers == [[[1.0, 1.0, 1.0]]] * 2
    assert indexes[0] == indexes[1]
    assert refusals == [(grpc.StatusCode.UNAVAILABLE, "model 'later' is not in service: unloaded")] * 2


def test_what_is_asked_rarely_is_answered_alike_by_both(server):
    with one_channel_each(server) as channels:
        stubs = [wire.Stub(channel) for channel in channels]
        statistics = [stub.ModelStatistics(oip.ModelStatisticsRequest(name="churn")) for stub in stubs]
        for answer in statistics:
            answer.model_stats[0].last_inference = 0
        metadata = [stub.ModelMetadata(oip.ModelMetadataRequest(name="pair")) for stub in stubs]
        ready = [stub.ServerReady(oip.ServerReadyRequest()).ready for stub in stubs]

    assert statistics[0] == statistics[1]
    assert statistics[0].model_stats[0].inference_count > 0
    assert metadata[0] == metadata[1]
    assert ready == [True, True]


def test_http_is_on_a_shared_port_too(server):
    with urlopen(f"http://{server.http}/v2/health/ready", timeout=10) as answer:
        ready = answer.status
    with urlopen(f"http://{server.http}/v2/models/churn/stats", timeout=10) as answer:
        stats = json.load(answer)

    assert ready == 200
    assert stats["model_stats"][0]["name"] == "churn"


def test_no_request_fails_while_its_model_is_loaded_again_and_again(server):
    stop = threading.Event()

    def call(channel):
        stub, count = wire.Stub(channel), 0
        while not stop.is_set():
            stub.ModelInfer(wire.churn([wire.CUSTOMER]))
            count += 1
        return count

    with one_channel_each(server) as channels, ThreadPoolExecutor(8) as pool:
        counts = [pool.submit(call, channel) for channel in channels * 4]
        for size in (8, 16, 32):
            override = oip.RepositoryModelLoadRequest(model_name="churn")
            override.parameters["config"].string_param = f'{{"max_batch_size": {size}}}'
            wire.Stub(channels[0]).RepositoryModelLoad(override)
        stop.set()

        assert min(count.result() for count in counts) > 0


def test_a_watcher_of_health_hears_of_a_model_that_goes(server):
    with server.channel() as channel:
        watch = channel.unary_stream(
            "/grpc.health.v1.Health/Watch",
            lambda message: message.SerializeToString(),
            health_pb2.HealthCheckResponse.FromString,
        )
        heard = iter(watch(health_pb2.HealthCheckRequest(service="pair"), timeout=30))
        before = next(heard).status
        unload(wire.Stub(channel), "pair")
        after = next(heard).status
        load(wire.Stub(channel), "pair")

    assert (before, after) == (health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING)


def test_the_engine_alone_hears_signals_that_reach_the_whole_group(server):
    for process in processes(server):
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
    with one_channel_each(server) as channels:
        answers = [wire.outputs(wire.Stub(channel).ModelInfer(wire.churn([wire.CUSTOMER]))) for channel in channels]

    assert len(answers) == 2


def test_a_killed_frontend_takes_its_own_connections_with_it_and_is_back_within_seconds(server):
    with one_channel_each(server) as channels:
        victim, survivor = map(wire.Stub, channels)
        before = server.scrape()
        waiting = victim.future("ModelInfer", pair())
        assert eventually(lambda: server.scrape()['sluice_queue_depth{model="pair",version="1"}'] == 1)
        processes(server)[0].kill()

        assert waiting.exception().code() is grpc.StatusCode.UNAVAILABLE
        assert eventually(lambda: server.scrape()['sluice_queue_depth{model="pair",version="1"}'] == 0)
        assert wire.outputs(survivor.ModelInfer(wire.churn([wire.CUSTOMER])))["probability"].shape == (1, 1)
        assert eventually(lambda: server.scrape()['sluice_frontend_up{frontend="0"}'] == 1)
        after = server.scrape()

    assert after['sluice_frontend_restarts_total{frontend="0"}'] == 1
    assert after['sluice_frontend_restarts_total{frontend="1"}'] == 0
    for name, value in before.items():
        if "_total{" in name and "cpu" not in name:
            assert after[name] >= value, name
    with one_channel_each(server) as channels:
        for channel in channels:
            wire.Stub(channel).ModelInfer(wire.churn([wire.CUSTOMER]))


def test_a_second_server_on_the_port_is_refused(server, store):
    taken = ("--grpc-port", server.grpc.rpartition(":")[2])
    done = sluice("serve", *FREE_PORTS, *taken, "--frontends", "2", "--model-store", str(store))

    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith("Address already in use")


@pytest.mark.parametrize("transport", ["lean", "aio"])
def test_sigterm_answers_what_was_accepted_and_ends_every_process(store, transport):
    with frontends(store, "--transport", transport) as server, server.channel() as channel:
        family = psutil.Process(server.process.pid).children(recursive=True)
        waiting = wire.Stub(channel).future("ModelInfer", pair())
        assert eventually(lambda: server.scrape()['sluice_queue_depth{model="pair",version="1"}'] == 1)
        server.process.send_signal(signal.SIGTERM)

        assert wire.outputs(waiting.result())["y"].tolist() == [[1.0, 2.0, 3.0]]
        assert server.stop() == 0
        assert not any(process.is_running() for process in family)


def test_no_frontend_outlives_an_engine_that_was_killed(store):
    with frontends(store) as server, server.channel() as channel:
        family = processes(server)
        waiting = wire.Stub(channel).future("ModelInfer", pair())
        assert eventually(lambda: server.scrape()['sluice_queue_depth{model="pair",version="1"}'] == 1)
        os.kill(server.process.pid, signal.SIGKILL)

        assert waiting.exception().code() is grpc.StatusCode.UNAVAILABLE
        assert eventually(lambda: not any(process.is_running() for process in family))
        host, _, port = server.grpc.rpartition(":")
        with socket.socket() as probe:
            assert probe.connect_ex((host, int(port))) != 0
