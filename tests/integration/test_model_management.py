"""Versions come and go under load: a real server and real models, then fakes and many threads."""

import asyncio
import random
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import grpc
import numpy as np
import onnx.helper
import psutil
import pytest

from server.errors import ModelNotFound, ModelNotReady
from server.pb import open_inference_pb2 as oip
from tests import models
from tests import oip as wire
from tests.management import WAIT, Bench, eventually
from tests.models import constant, value
from tests.server_process import serve
from tests.transports import loop_in_a_thread

TRITON = """
# As a Triton user wrote it.
name: "adder"
platform: "onnxruntime_onnx"
max_batch_size: 8
input [ { name: "b" data_type: TYPE_FP32 dims: [ 4 ] }, { name: "a" data_type: TYPE_FP32 dims: [ 4 ] } ]
output [ { name: "sum" data_type: TYPE_FP32 dims: [ 4 ] label_filename: "labels.txt" } ]
instance_group [ { count: 2 kind: KIND_CPU } ]
dynamic_batching { preferred_batch_size: [ 4, 8 ] max_queue_delay_microseconds: 1000 }
version_policy: { latest: { num_versions: 2 } }
optimization { graph { level: 1 } execution_accelerators { cpu_execution_accelerator: [ { name: "openvino" } ] } }
model_warmup [ { name: "w" batch_size: 2 inputs {
  key: "a" value: { data_type: TYPE_FP32 dims: 4 zero_data: true } } inputs {
  key: "b" value: { data_type: TYPE_FP32 dims: 4 random_data: true } } } ]
metric_tags { key: "team" value: "sums" }
field_of_a_newer_triton: 1
"""


def plus(number: int) -> bytes:
    """`y = x + number`: a model whose answers say which version gave them."""
    node = onnx.helper.make_node("Add", ["x", "number"], ["y"])
    tensors = [value("x", "FP32", ["N", 2])], [value("y", "FP32", ["N", 2])]
    return models.model([node], *tensors, [constant("number", np.float32([number]))])


def put(root, name, version, data):
    """Write a version as the protocol of the store wants it: beside, then renamed."""
    (root / name).mkdir(exist_ok=True)
    models.write_version(root / f".{name}-{version}", data).parent.rename(root / name / str(version))


def ask(stub, rows=1, **fields):
    x = np.ones((rows, 2), np.float32)
    response = stub.ModelInfer(wire.request("plus", [("x", "FP32", x.shape, x.tobytes())], **fields))
    return response.model_version, wire.outputs(response)["y"]


@pytest.fixture(scope="module")
def managed(tmp_path_factory):
    """Return a server under explicit control and its store."""
    root = tmp_path_factory.mktemp("managed") / "store"
    root.mkdir()
    for version in (1, 2, 3):
        put(root, "adder", version, models.add())
    (root / "adder" / "config.pbtxt").write_text(TRITON)
    (root / "adder" / "labels.txt").write_text("north\neast\nsouth\nwest\n")
    put(root, "upper", 1, models.upper())
    put(root, "plus", 1, plus(1))
    flags = ("--model-control", "explicit", "--load-model", "*", "--isolation", "process")
    with serve(*flags, store=root) as server, server.channel() as channel:
        yield root, server, wire.Stub(channel)


def test_a_hand_written_triton_repository_serves_unchanged(managed):
    _, server, stub = managed
    a, b = np.float32([[1, 2, 3, 4]]), np.float32([[10, 20, 30, 40]])
    tensors = [("a", "FP32", (1, 4), a.tobytes()), ("b", "FP32", (1, 4), b.tobytes())]

    response = stub.ModelInfer(wire.request("adder", tensors))
    metadata = stub.ModelMetadata(oip.ModelMetadataRequest(name="adder"))
    config = stub.ModelConfig(oip.ModelConfigRequest(name="adder")).config
    with ThreadPoolExecutor(8) as pool:
        sums = list(pool.map(lambda _: wire.outputs(stub.ModelInfer(wire.request("adder", tensors)))["sum"], range(40)))

    assert response.model_version == "3"
    assert (wire.outputs(response)["sum"] == a + b).all()
    assert all((total == a + b).all() for total in sums)
    assert list(metadata.versions) == ["2", "3"]
    assert [(tensor.name, list(tensor.shape)) for tensor in metadata.inputs] == [("b", [-1, 4]), ("a", [-1, 4])]
    assert config.max_batch_size == 8
    assert list(config.dynamic_batching.preferred_batch_size) == [4, 8]
    assert config.instance_group[0].count == 2
    (ignored,) = [line for line in server.log if "config_fields_ignored" in line and '"adder"' in line]
    for field in (
        "optimization.execution_accelerators.cpu_execution_accelerator",
        "metric_tags",
        "field_of_a_newer_triton",
    ):
        assert field in ignored


def test_a_model_without_config_serves_as_its_onnx_file_says(managed):
    _, _, stub = managed
    text = [("text", "BYTES", (1, 1), wire.strings(["louder"]))]

    response = stub.ModelInfer(wire.request("upper", text))

    assert wire.strings(["LOUDER"]) == response.raw_output_contents[0]


def test_versions_swap_under_load_without_a_failed_request(managed):
    root, _, stub = managed
    newest = [1]
    swapping = threading.Event()
    swapping.set()

    def drive(_):
        """Ask without a pause; return what was wrong and how many answers were right."""
        wrong, right, last = [], 0, 0
        while swapping.is_set():
            at_least = newest[0]
            try:
                version, answer = ask(stub, rows=3)
            except grpc.RpcError as error:
                wrong.append(f"{error.code()}: {error.details()}")
                continue
            if not (answer == 1 + int(version)).all() or int(version) < max(at_least, last):
                wrong.append(f"version {version} gave {answer.tolist()} after {last}, loaded {at_least}")
            last, right = int(version), right + 1
        return wrong, right

    with ThreadPoolExecutor(4) as pool:
        drivers = [pool.submit(drive, number) for number in range(4)]
        try:
            for version in range(2, 6):
                put(root, "plus", version, plus(version))
                stub.RepositoryModelLoad(oip.RepositoryModelLoadRequest(model_name="plus"))
                newest[0] = version
        finally:
            swapping.clear()

    wrong = [problem for driver in drivers for problem in driver.result()[0]]
    assert wrong == []
    assert all(driver.result()[1] > 10 for driver in drivers)
    assert ask(stub)[0] == "5"


def test_a_damaged_version_is_refused_and_the_one_before_goes_on(managed):
    root, server, stub = managed
    before = ask(stub)[0]
    put(root, "plus", 90, plus(90)[:40])

    with pytest.raises(grpc.RpcError) as refused:
        stub.RepositoryModelLoad(oip.RepositoryModelLoadRequest(model_name="plus"))

    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert refused.value.details().startswith("model 'plus' version 90: ")
    assert refused.value.details().endswith(f"; version {before} goes on serving")
    assert str(root) not in refused.value.details()
    assert before == ask(stub)[0]
    assert stub.ServerReady(oip.ServerReadyRequest()).ready
    index = stub.RepositoryIndex(oip.RepositoryIndexRequest()).models
    assert {("plus", before): "READY", ("plus", "90"): "UNAVAILABLE"}.items() <= {
        (entry.name, entry.version): entry.state for entry in index
    }.items()
    assert server.scrape()['sluice_model_load_failures_total{model="plus"}'] >= 1
    (root / "plus" / "90" / "model.onnx").unlink()
    (root / "plus" / "90").rmdir()


def test_an_override_holds_until_the_next_load_and_unload_takes_the_model_away(managed):
    _, server, stub = managed

    def sessions():
        family = psutil.Process(server.process.pid).children(recursive=True)
        return sum(process.name() == "sluice-session" for process in family)

    def load(**config):
        message = oip.RepositoryModelLoadRequest(model_name="plus")
        for text in config.values():
            message.parameters["config"].string_param = text
        stub.RepositoryModelLoad(message)
        return stub.ModelConfig(oip.ModelConfigRequest(name="plus")).config.max_batch_size

    assert load(config='{"max_batch_size": 3, "backend": "onnxruntime"}') == 3
    assert load() != 3
    with pytest.raises(grpc.RpcError, match="expected a whole number from 0 to 65536, got -1"):
        load(config='{"max_batch_size": -1}')

    stub.RepositoryModelUnload(oip.RepositoryModelUnloadRequest(model_name="plus"))
    with pytest.raises(grpc.RpcError) as gone:
        ask(stub)
    assert gone.value.code() is grpc.StatusCode.UNAVAILABLE
    eventually(lambda: sessions() == 5)  # two versions of two instances each, and one
    assert not stub.ModelReady(oip.ModelReadyRequest(name="plus")).ready
    assert stub.ServerReady(oip.ServerReadyRequest()).ready

    load()
    assert ask(stub)[0] == "5"


def test_many_threads_load_and_unload_the_same_models(tmp_path):
    bench = Bench(tmp_path / "store")
    for name in "abc":
        bench.put(name, 1, 2, config="version_policy { all {} }")
    allowed = (ModelNotReady, ModelNotFound)

    with loop_in_a_thread() as loop:

        def run(work):
            return asyncio.run_coroutine_threadsafe(work, loop).result(WAIT)

        async def make():
            return await bench.started()

        repository = run(make())

        def hammer(seed):
            chance = random.Random(seed)
            for _ in range(12):
                name = chance.choice("abc")
                run(repository.load(name, {}) if chance.random() < 0.6 else repository.unload(name))
                try:
                    served = repository.find(name, chance.choice(["", "1", "2"]))
                    assert served.scheduler.submit() == served.version
                    served.scheduler.finish()
                except allowed:
                    pass

        with ThreadPoolExecutor(32) as pool:
            list(pool.map(hammer, range(32)))

        for name in "abc":
            run(repository.load(name, {}))
            assert repository.versions(name) == ["1", "2"]
        run(repository.settled())
        assert bench.ledger.open_instances() == 6
        run(repository.close())
    assert bench.ledger.open_instances() == 0


@pytest.fixture
def hasty_threads():
    """Let the interpreter change threads between almost any two steps, so that races are met and not missed."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def test_a_caller_who_looks_again_when_refused_never_fails_however_often_versions_swap(tmp_path, hasty_threads):
    bench = Bench(tmp_path / "store")
    bench.put("m", 1)
    swaps, stop = 40, threading.Event()

    def call(repository):
        """Do what the wire does: look up, submit, look up again when refused."""
        for _ in range(3):
            served = repository.find("m", "")
            try:
                version = served.scheduler.submit()
            except ModelNotReady:
                continue
            served.scheduler.finish()
            return int(version)
        return 0

    def drive(repository):
        versions = []
        while not stop.is_set():
            versions.append(call(repository))
        return versions

    async def swap():
        repository = await bench.started()
        with ThreadPoolExecutor(3) as pool:
            drivers = [pool.submit(drive, repository) for _ in range(3)]
            try:
                for version in range(2, swaps):
                    bench.put("m", version)
                    await repository.load("m", {})
            finally:
                stop.set()
        await repository.settled()
        await repository.close()
        return [driver.result() for driver in drivers]

    for versions in asyncio.run(swap()):
        assert 0 not in versions
        assert all(older <= newer for older, newer in pairwise(versions))
    assert bench.ledger.open_instances() == 0
