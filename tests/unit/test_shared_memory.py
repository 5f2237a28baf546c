import os
import struct

import pytest

from server.pb import open_inference_pb2 as pb
from server.transports.base import StatusCode, StatusError
from server.wire.services import INFERENCE, paths
from server.wire.shared_memory import SharedMemory
from tests.wire import CHURN, SENTIMENT, Bench, message, text

PATH = paths(INFERENCE)
REGISTER = PATH["SystemSharedMemoryRegister"]


@pytest.fixture
def shm(tmp_path):
    (tmp_path / "client_a").write_bytes(bytes(range(64)))
    return tmp_path


@pytest.fixture
def bench(shm):
    return Bench(shared_memory=SharedMemory("/client_", shm))


async def register(bench, name="in", key="/client_a", offset=0, byte_size=64):
    request = pb.SystemSharedMemoryRegisterRequest(name=name, key=key, offset=offset, byte_size=byte_size)
    return await bench.ask(REGISTER, request, pb.SystemSharedMemoryRegisterResponse)


def from_region(parameters, region="in", size=4, offset=0):
    parameters["shared_memory_region"].string_param = region
    parameters["shared_memory_byte_size"].int64_param = size
    if offset:
        parameters["shared_memory_offset"].int64_param = offset


def with_age_in_region(**where):
    built = message(CHURN)
    del built.raw_input_contents[1]
    from_region(built.inputs[1].parameters, **where)
    return built


async def test_an_input_is_read_from_its_region_and_the_rest_from_the_message(bench):
    await register(bench, offset=8, byte_size=16)
    for _ in range(2):
        bench.infer(with_age_in_region(offset=4))

    for request in bench.queue.submitted:
        assert bytes(request.inputs[1].data) == bytes([12, 13, 14, 15])
        assert bytes(request.inputs[9].data) == text(b"x")


async def test_an_output_is_written_to_its_region_and_its_raw_entry_is_empty(bench, shm):
    await register(bench)
    built = message(CHURN)
    from_region(built.outputs.add(name="probability").parameters, offset=8)
    bench.queue.outcome = lambda request: _half(bench, request)
    answer = bench.infer(built)

    assert list(answer.raw_output_contents) == [b""]
    assert answer.outputs[0].parameters["shared_memory_region"].string_param == "in"
    assert answer.outputs[0].parameters["shared_memory_byte_size"].int64_param == 4
    assert answer.outputs[0].parameters["shared_memory_offset"].int64_param == 8
    assert (shm / "client_a").read_bytes()[8:12] == struct.pack("<f", 0.5)


def _half(bench, request):
    answer = bench.queue.zeros(request)
    answer.outputs[0].data = struct.pack("<f", 0.5)
    return answer


async def test_texts_in_a_region_are_checked_like_any_other(bench, shm):
    (shm / "client_t").write_bytes(text(b"good") + text(b"\xff\xfe"))
    await register(bench, "t", "/client_t", 0, 14)
    built = message(SENTIMENT)
    del built.raw_input_contents[:]
    from_region(built.inputs[0].parameters, "t", 8)
    bench.infer(built)
    assert bytes(bench.queue.submitted[0].inputs[0].data) == text(b"good")

    from_region(built.inputs[0].parameters, "t", 6, 8)
    with pytest.raises(StatusError, match="expected UTF-8 text"):
        bench.infer(built)


@pytest.mark.parametrize(
    ("where", "says", "code"),
    [
        ({"region": "other"}, "no shared memory region 'other' is registered", StatusCode.NOT_FOUND),
        ({"size": 8}, "input 'Age': expected 4 bytes", StatusCode.INVALID_ARGUMENT),
        ({"offset": 61}, "expected at most 64 bytes, got 4 from 61 on", StatusCode.INVALID_ARGUMENT),
        ({"offset": -1}, "shared_memory_offset: expected 0 to", StatusCode.INVALID_ARGUMENT),
        ({"size": 0}, "shared_memory_byte_size: expected 1 to", StatusCode.INVALID_ARGUMENT),
        ({"size": 1 << 40}, "shared_memory_byte_size: expected 1 to 16777216", StatusCode.INVALID_ARGUMENT),
    ],
)
async def test_a_wrong_place_is_told_so(bench, where, says, code):
    await register(bench)
    with pytest.raises(StatusError, match=says) as error:
        bench.infer(with_age_in_region(**where))

    assert error.value.code is code


async def test_a_region_that_shrank_is_an_error_and_no_crash(bench, shm):
    await register(bench)
    os.truncate(shm / "client_a", 2)
    with pytest.raises(StatusError, match="expected 4 bytes at 0, got 2") as error:
        bench.infer(with_age_in_region())

    assert error.value.code is StatusCode.INVALID_ARGUMENT


async def test_an_output_that_does_not_fit_is_an_error(bench):
    await register(bench)
    built = message(CHURN, rows=2)
    from_region(built.outputs.add(name="probability").parameters, size=4)
    with pytest.raises(StatusError, match="expected room for 8 bytes of output, got 4"):
        bench.infer(built)

    assert bench.admission.inflight == 0


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"key": "/other"}, "expected a key that begins with /client_, got '/other'"),
        ({"key": "/client_/../passwd"}, "expected a key that begins with /client_"),
        ({"key": "client_a"}, "expected a key that begins with /client_"),
        ({"key": "/client_none"}, "expected a shared memory object of at least 64 bytes"),
        ({"key": "/client_link"}, "expected a shared memory object of at least 64 bytes"),
        ({"key": "/client_pipe"}, "expected a shared memory object of at least 64 bytes"),
        ({"byte_size": 65}, "expected a shared memory object of at least 65 bytes"),
        ({"byte_size": 0}, "expected 1 to"),
        ({"offset": 1 << 63}, "expected 1 to 1099511627776 bytes, got 64 at"),
        ({"name": ""}, "expected a name, got none"),
        ({"name": "a\nb"}, "region name: expected at most 256 printable"),
    ],
)
async def test_only_long_enough_objects_with_the_prefix_can_be_registered(bench, shm, fields, says):
    (shm / "secret").write_bytes(bytes(100))
    (shm / "client_link").symlink_to(shm / "secret")
    os.mkfifo(shm / "client_pipe")
    with pytest.raises(StatusError, match=says) as error:
        await register(bench, **fields)

    assert error.value.code is StatusCode.INVALID_ARGUMENT
    assert str(shm) not in error.value.details


async def test_regions_are_listed_and_given_up(bench):
    await register(bench, "a", byte_size=8)
    await register(bench, "b", offset=8, byte_size=8)
    with pytest.raises(StatusError) as again:
        await register(bench, "a")
    assert again.value.code is StatusCode.ALREADY_EXISTS

    async def status(name):
        request = pb.SystemSharedMemoryStatusRequest(name=name)
        return await bench.ask(PATH["SystemSharedMemoryStatus"], request, pb.SystemSharedMemoryStatusResponse)

    async def forget(name):
        request = pb.SystemSharedMemoryUnregisterRequest(name=name)
        await bench.ask(PATH["SystemSharedMemoryUnregister"], request, pb.SystemSharedMemoryUnregisterResponse)

    assert set((await status("")).regions) == {"a", "b"}
    assert (await status("b")).regions["b"].offset == 8
    await forget("a")
    await forget("never known")
    with pytest.raises(StatusError) as gone:
        await status("a")
    assert gone.value.code is StatusCode.NOT_FOUND
    await forget("")
    assert not (await status("")).regions


async def test_the_extension_is_named_only_where_it_is_offered(bench):
    for made, offered in ((bench, True), (Bench(), False)):
        answer = await made.ask(PATH["ServerMetadata"], b"", pb.ServerMetadataResponse)
        assert ("system_shared_memory" in answer.extensions) is offered


def test_a_server_without_it_says_so():
    with pytest.raises(StatusError, match="send raw_input_contents") as error:
        Bench().infer(with_age_in_region())

    assert error.value.code is StatusCode.UNIMPLEMENTED
