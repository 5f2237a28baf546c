"""What an unmodified `tritonclient[grpc]` does against a running server: `triton_client.py HOST:PORT`.

Runs in a virtual environment of its own (the client pins its own grpcio and protobuf and registers the same message
names), so it imports nothing of Sluice. The server must run with `--model-control explicit` and the shipped models.
Prints one line a check and exits 1 when any fails.
"""

import asyncio
import queue
import sys
import traceback

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException

ADDRESS = sys.argv[1]
NUMBERS = {
    "CreditScore": 500, "Age": 40, "Tenure": 3, "Balance": 50000,
    "NumOfProducts": 2, "HasCrCard": 1, "IsActiveMember": 1, "EstimatedSalary": 40000,
}  # fmt: skip
IMAGES = np.zeros((3, 28, 28), np.uint8)
IMAGES[:, 4:24, 12:16] = 255
TEXTS = np.array([["a wonderful film"], ["a dreadful bore"]], dtype=np.object_)


def tensor(name, array, datatype):
    made = triton.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array)
    return made


def images(count=3):
    return [tensor("image", IMAGES[:count], "UINT8")]


def texts():
    return [tensor("text", TEXTS, "BYTES")]


def customers(rows=2):
    made = [tensor(n, np.full((rows, 1), v, np.float32), "FP32") for n, v in NUMBERS.items()]
    for name, word in (("Geography", "Spain"), ("Gender", "Female")):
        made.append(tensor(name, np.array([[word]] * rows, dtype=np.object_), "BYTES"))
    return made


def expect_status(code, call, *words):
    try:
        call()
    except InferenceServerException as error:
        assert error.status() in [f"StatusCode.{name}" for name in code.split("|")], error.status()
        for word in words:
            assert word in error.message(), error.message()
    else:
        raise AssertionError(f"expected {code}, the call succeeded")


def check_live_ready_and_metadata(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("mnist")
    assert client.is_model_ready("mnist", "1")
    assert not client.is_model_ready("nobody")
    server = client.get_server_metadata()
    assert server.name == "sluice"
    assert {"statistics", "model_repository", "model_configuration", "classification"} <= set(server.extensions)
    model = client.get_model_metadata("mnist", as_json=True)
    assert model["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": ["-1", "28", "28"]}]
    assert all(version.isdecimal() for version in model["versions"])


def check_config(client):
    config = client.get_model_config("mnist").config
    assert config.name == "mnist"
    assert config.max_batch_size > 1
    assert config.WhichOneof("scheduling_choice") == "dynamic_batching"
    assert [list(i.dims) for i in config.input] == [[28, 28]]
    assert [list(o.dims) for o in config.output] == [[10]]


def check_infer_raw(client):
    result = client.infer("mnist", images(), request_id="r1")
    answer = result.as_numpy("probabilities")
    assert answer.shape == (3, 10)
    np.testing.assert_allclose(answer.sum(axis=1), 1, atol=1e-4)
    response = result.get_response()
    assert response.id == "r1"
    assert response.model_name == "mnist"
    assert response.model_version.isdecimal()


def check_infer_bytes_and_many_inputs(client):
    answer = client.infer("sentiment", texts()).as_numpy("probabilities")
    assert answer[0, 1] > 0.5 > answer[1, 1]
    answer = client.infer("churn", customers()).as_numpy("probability")
    assert answer.shape == (2, 1)
    assert answer[0] == answer[1]


def check_typed_contents(client):
    stub = client._client_stub
    request = triton.service_pb2.ModelInferRequest(model_name="churn")
    for name, value in NUMBERS.items():
        made = request.inputs.add(name=name, datatype="FP32", shape=[1, 1])
        made.contents.fp32_contents.append(value)
    for name, word in (("Geography", b"Spain"), ("Gender", b"Female")):
        made = request.inputs.add(name=name, datatype="BYTES", shape=[1, 1])
        made.contents.bytes_contents.append(word)
    typed = np.frombuffer(stub.ModelInfer(request).raw_output_contents[0], np.float32)
    raw = client.infer("churn", customers(1)).as_numpy("probability")
    np.testing.assert_allclose(typed, raw.ravel(), atol=1e-5)


def check_requested_outputs_and_classification(client):
    plain = client.infer("mnist", images(1), outputs=[triton.InferRequestedOutput("probabilities")])
    top = client.infer("mnist", images(1), outputs=[triton.InferRequestedOutput("probabilities", class_count=3)])
    classes = [entry.decode().split(":") for entry in top.as_numpy("probabilities").ravel()]
    scores = plain.as_numpy("probabilities")[0]
    assert len(classes) == 3
    assert [int(index) for _, index, *_ in classes] == list(np.argsort(-scores, kind="stable")[:3])
    assert float(classes[0][0]) == np.float32(scores.max()) or abs(float(classes[0][0]) - scores.max()) < 1e-5
    assert classes[0][2] == classes[0][1]


def check_parameters_priority_timeout_and_compression(client):
    client.infer("mnist", images(), priority=1, timeout=5_000_000, client_timeout=10)
    client.infer("mnist", images(), compression_algorithm="gzip")
    client.infer("mnist", images(), headers={"x-trace": "abc"})
    # what the C++ client (so perf_analyzer) always sends, and the Python one reserves
    request = triton.service_pb2.ModelInferRequest(model_name="mnist", raw_input_contents=[IMAGES[:1].tobytes()])
    request.inputs.add(name="image", datatype="UINT8", shape=[1, 28, 28])
    request.parameters["triton_enable_empty_final_response"].bool_param = False
    client._client_stub.ModelInfer(request)


def check_async_callbacks(client):
    done = queue.Queue()
    for i in range(64):
        client.async_infer(
            "mnist", images(1 + i % 3), callback=lambda result, error: done.put((result, error)), request_id=str(i)
        )
    seen = set()
    for _ in range(64):
        result, error = done.get(timeout=30)
        assert error is None, error
        identity = result.get_response().id
        assert result.as_numpy("probabilities").shape == (1 + int(identity) % 3, 10)
        seen.add(identity)
    assert len(seen) == 64


def check_cancellation(client):
    done = queue.Queue()
    call = client.async_infer("sentiment", texts(), callback=lambda result, error: done.put((result, error)))
    call.cancel()
    _, error = done.get(timeout=30)
    assert error is None or error.status() == "StatusCode.CANCELLED"


def check_streaming_keeps_order_and_reports_errors_in_band(client):
    answers = queue.Queue()
    client.start_stream(callback=lambda result, error: answers.put((result, error)))
    for i in range(20):
        client.async_stream_infer("mnist", images(1), request_id=str(i))
    client.async_stream_infer("nobody", images(1), request_id="bad")
    client.async_stream_infer("mnist", images(1), request_id="after")
    for i in range(20):
        result, error = answers.get(timeout=30)
        assert error is None, error
        assert result.get_response().id == str(i)
    result, error = answers.get(timeout=30)
    assert result is None
    assert "nobody" in str(error)
    result, error = answers.get(timeout=30)
    assert error is None
    assert result.get_response().id == "after"
    client.stop_stream()


def check_streaming_can_ask_for_the_final_marker(client):
    answers = queue.Queue()
    client.start_stream(callback=lambda result, error: answers.put((result, error)))
    client.async_stream_infer("mnist", images(1), enable_empty_final_response=True)
    result, error = answers.get(timeout=30)
    assert error is None
    assert result.get_response().parameters["triton_final_response"].bool_param
    client.stop_stream()


def check_statistics_count_requests_and_batches(client):
    def counted():
        (model,) = client.get_inference_statistics("mnist").model_stats
        return (
            model.inference_stats.success.count,
            model.inference_stats.queue.count,
            model.inference_count,
            model.execution_count,
        )

    before = counted()
    client.infer("mnist", images(3))
    after = counted()
    succeeded, queued, rows, executions = (b - a for a, b in zip(before, after, strict=True))
    assert (succeeded, queued, rows) == (1, 1, 3)
    assert 1 <= executions <= 3  # a request larger than the knee of the cost curve is split
    (model,) = client.get_inference_statistics("mnist").model_stats
    assert int(model.version) >= 1
    assert model.last_inference > 1_600_000_000_000
    assert model.inference_stats.compute_infer.ns > 0
    assert sum(b.compute_infer.count for b in model.batch_stats) == model.execution_count
    assert {m.name for m in client.get_inference_statistics().model_stats} == {"churn", "mnist", "sentiment"}


def check_repository_control(client):
    def state():
        ready = {m.name for m in client.get_model_repository_index().models if m.state == "READY"}
        names = {m.name for m in client.get_model_repository_index().models}
        return {name: "READY" if name in ready else "UNAVAILABLE" for name in names}

    assert state() == {"churn": "READY", "mnist": "READY", "sentiment": "READY"}
    client.unload_model("churn")
    assert not client.is_model_ready("churn")
    assert state()["churn"] == "UNAVAILABLE"
    expect_status("UNAVAILABLE", lambda: client.infer("churn", customers()), "churn")
    client.load_model("churn")
    assert client.is_model_ready("churn")
    client.infer("churn", customers())
    client.load_model("churn", config='{"max_batch_size": 8, "dynamic_batching": {}}')
    assert client.get_model_config("churn").config.max_batch_size == 8
    client.load_model("churn")
    expect_status("NOT_FOUND", lambda: client.load_model("nobody"), "nobody")
    expect_status("NOT_FOUND", lambda: client.unload_model("nobody"), "nobody")


def check_errors_carry_the_right_code(client):
    expect_status("NOT_FOUND", lambda: client.infer("nobody", images()), "nobody")
    expect_status("NOT_FOUND", lambda: client.infer("mnist", images(), model_version="99"), "99")
    wrong = [tensor("image", np.zeros((1, 27, 28), np.uint8), "UINT8")]
    expect_status("INVALID_ARGUMENT", lambda: client.infer("mnist", wrong), "27")
    expect_status("INVALID_ARGUMENT", lambda: client.infer("mnist", [tensor("pic", IMAGES, "UINT8")]), "pic")
    expect_status(
        "INVALID_ARGUMENT", lambda: client.infer("mnist", [tensor("image", IMAGES.astype(np.float32), "FP32")])
    )
    # a short review is answered within the millisecond that gRPC makes of any shorter timeout
    long = [tensor("text", np.array([["so many words of praise " * 200]] * 64, dtype=np.object_), "BYTES")]
    expect_status("DEADLINE_EXCEEDED|RESOURCE_EXHAUSTED", lambda: client.infer("sentiment", long, client_timeout=0.001))
    expect_status("UNIMPLEMENTED", client.get_cuda_shared_memory_status)


def check_log_settings_do_what_they_say_and_trace_settings_say_that_they_do_not(client):
    def settings():
        return client.get_log_settings().settings

    assert settings()["log_info"].bool_param or settings()["log_error"].bool_param
    client.update_log_settings({"log_verbose_level": 1})
    assert settings()["log_verbose_level"].uint32_param == 1
    client.update_log_settings({"log_verbose_level": 0, "log_info": False, "log_warning": True})
    assert not settings()["log_info"].bool_param
    assert settings()["log_warning"].bool_param
    expect_status("INVALID_ARGUMENT", lambda: client.update_log_settings({"log_file": "x"}), "log_file")
    expect_status("UNIMPLEMENTED", client.get_trace_settings)


async def check_asyncio_client():
    async with triton_aio.InferenceServerClient(ADDRESS) as client:
        assert await client.is_server_ready()
        results = await asyncio.gather(*(client.infer("mnist", images(1 + i % 3)) for i in range(64)))
        assert [r.as_numpy("probabilities").shape[0] for r in results] == [1 + i % 3 for i in range(64)]

        async def requests():
            for i in range(10):
                yield {"model_name": "sentiment", "inputs": texts(), "request_id": str(i)}

        got = []
        async for result, error in client.stream_infer(requests()):
            assert error is None, error
            got.append(result.get_response().id)
        assert got == [str(i) for i in range(10)]


def main():
    client = triton.InferenceServerClient(ADDRESS)
    checks = [(name, check) for name, check in globals().items() if name.startswith("check_")]
    failed = 0
    for name, check in checks:
        try:
            asyncio.run(check()) if asyncio.iscoroutinefunction(check) else check(client)
            print(f"ok      {name[6:]}")
        except Exception:  # a failing check must not hide the ones after it
            failed += 1
            print(f"FAILED  {name[6:]}\n{traceback.format_exc()}")
    client.close()
    print(f"{len(checks) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
