import asyncio

import pytest
from grpc_health.v1 import health_pb2

from server.transports.base import StatusCode, StatusError
from server.wire.services import HEALTH, paths
from tests.wire import Bench, FakeStream

PATH = paths(HEALTH)
SERVING, NOT_SERVING, UNKNOWN = 1, 2, 3


@pytest.fixture
def bench():
    return Bench()


async def check(bench, service):
    request = health_pb2.HealthCheckRequest(service=service)
    return (await bench.ask(PATH["Check"], request, health_pb2.HealthCheckResponse)).status


@pytest.mark.parametrize("service", ["", "inference.GRPCInferenceService", "sluice.v1.Predictions", "churn"])
async def test_what_serves_is_serving_until_the_server_drains(bench, service):
    assert await check(bench, service) == SERVING

    bench.lifecycle.set(draining=True)
    assert await check(bench, service) == NOT_SERVING


async def test_one_absent_model_takes_the_server_down_but_not_its_neighbour(bench):
    bench.catalog.absent.add("mnist")

    assert [await check(bench, name) for name in ("mnist", "churn", "")] == [NOT_SERVING, SERVING, NOT_SERVING]


@pytest.mark.parametrize("service", ["nobody", "a b", "x" * 5000])
async def test_a_service_nobody_knows_is_not_found(bench, service):
    with pytest.raises(StatusError) as error:
        await check(bench, service)

    assert error.value.code is StatusCode.NOT_FOUND
    assert len(error.value.details) < 200


async def test_the_list_names_the_server_its_services_and_its_models(bench):
    bench.catalog.absent.add("mnist")
    answer = await bench.ask(PATH["List"], b"", health_pb2.HealthListResponse)

    assert {"", "churn", "mnist", "grpc.health.v1.Health"} <= set(answer.statuses)
    assert answer.statuses["mnist"].status == NOT_SERVING


async def heard(stream):
    async with asyncio.timeout(5):
        return health_pb2.HealthCheckResponse.FromString(await stream.sent.get()).status


async def test_a_watcher_hears_of_each_change_once(bench):
    stream = FakeStream([health_pb2.HealthCheckRequest(service="mnist").SerializeToString()], PATH["Watch"])
    watching = asyncio.create_task(bench.stream(stream))
    assert await heard(stream) == SERVING

    bench.lifecycle.ring()  # nothing changed
    for _ in range(10):
        await asyncio.sleep(0)
    assert stream.sent.empty()

    bench.catalog.absent.add("mnist")
    bench.lifecycle.ring()
    assert await heard(stream) == NOT_SERVING

    bench.catalog.absent.clear()
    bench.lifecycle.ring()
    assert await heard(stream) == SERVING

    bench.lifecycle.set(draining=True)
    assert await heard(stream) == NOT_SERVING
    assert stream.sent.empty()
    watching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watching
    assert bench.recorder.outcomes[-1].code is StatusCode.CANCELLED
    assert not bench.lifecycle._waiting


async def test_watching_what_nobody_knows_waits_for_it(bench):
    stream = FakeStream([health_pb2.HealthCheckRequest(service="later").SerializeToString()], PATH["Watch"])
    watching = asyncio.create_task(bench.stream(stream))
    assert await heard(stream) == UNKNOWN

    bench.catalog.models["later"] = bench.catalog.models["churn"]
    bench.lifecycle.ring()
    assert await heard(stream) == SERVING
    watching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watching
