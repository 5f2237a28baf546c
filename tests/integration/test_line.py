"""The whole line with the shipped models: a real server, real requests, every answer checked."""

import re
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

from server.pb import open_inference_pb2 as oip
from server.pb import sluice_pb2 as typed
from tests import oip as wire
from tests.server_process import ROOT, serve

TOLERANCE = 1e-5
REVIEWS = [
    "A wonderful film, warm and funny from the first scene to the last.",
    "Dull.",
    "",
    "The worst two hours of my life. " * 60,
    "I came for the music and stayed for the story; <br /><br />the ending is a small miracle. " * 12,
    "Nothing happens, slowly, and then it happens again. I want my money back.",
]


def customers(count):
    random = np.random.default_rng(7)
    return [
        {
            **wire.CUSTOMER,
            "CreditScore": float(random.integers(350, 850)),
            "Age": float(random.integers(18, 90)),
            "Balance": float(random.integers(0, 200_000)),
            "NumOfProducts": float(random.integers(1, 5)),
        }
        for _ in range(count)
    ]


def glyphs(count):
    random = np.random.default_rng(11)
    images = np.zeros((count, 28, 28), np.uint8)
    for image in images:
        left, top = random.integers(6, 14, 2)
        image[top : top + 14, left : left + 3] = 255
        image[top : top + 3, left : left + random.integers(3, 12)] = 200
    return images


def single_answers(stub, requests):
    return [wire.outputs(stub.ModelInfer(request)) for request in requests]


@pytest.mark.parametrize("model", ["churn", "mnist", "sentiment"])
def test_batched_and_single_answers_agree(stub, model):
    rows = {"churn": customers(12), "mnist": glyphs(12), "sentiment": REVIEWS}[model]
    build = {
        "churn": wire.churn,
        "mnist": lambda images: wire.mnist(np.stack(images)),
        "sentiment": wire.sentiment,
    }[model]

    together = wire.outputs(stub.ModelInfer(build(rows)))
    alone = single_answers(stub, [build([row]) for row in rows])

    for name, answer in together.items():
        assert np.isfinite(answer).all()
        np.testing.assert_allclose(np.concatenate([one[name] for one in alone]), answer, atol=TOLERANCE, rtol=0)
        assert len(np.unique(answer.round(4), axis=0)) > 1


def test_short_and_long_reviews_from_many_callers_share_batches_and_keep_their_answers(stub):
    alone = single_answers(stub, [wire.sentiment([text]) for text in REVIEWS])

    calls = [
        (i % len(REVIEWS), stub.future("ModelInfer", wire.sentiment([REVIEWS[i % len(REVIEWS)]]))) for i in range(96)
    ]

    for which, call in calls:
        np.testing.assert_allclose(
            wire.outputs(call.result())["probabilities"], alone[which]["probabilities"], atol=TOLERANCE, rtol=0
        )


def test_256_concurrent_callers_each_get_their_own_answer_in_shared_batches(server, stub):
    rows = customers(256)
    alone = [
        float(value)
        for start in range(0, 256, 32)
        for value in wire.outputs(stub.ModelInfer(wire.churn(rows[start : start + 32])))["probability"].ravel()
    ]
    before = server.scrape()

    places = threading.Semaphore(256)
    calls = []
    for i in range(256 * 8):
        assert places.acquire(timeout=30)
        call = stub.future("ModelInfer", wire.churn([rows[i % 256]], id=f"caller-{i}"))
        call.add_done_callback(lambda _: places.release())
        calls.append((i, call))
    for i, call in calls:
        response = call.result()
        assert response.id == f"caller-{i}"
        assert response.model_version.isdecimal()
        assert wire.outputs(response)["probability"].item() == pytest.approx(alone[i % 256], abs=TOLERANCE)

    after = server.scrape()
    ran = {
        name: sum(
            after[key] - before.get(key, 0) for key in after if key.startswith(f'sluice_{name}_total{{model="churn"')
        )
        for name in ("rows", "batches")
    }
    assert ran["rows"] == 256 * 8
    assert ran["rows"] / ran["batches"] > 2


def test_the_typed_api_says_what_the_raw_one_says(stub):
    customer = typed.Customer(
        credit_score=500, geography="Spain", gender="Female", age=40, tenure=3, balance=50000,
        num_of_products=2, has_credit_card=True, is_active_member=True, estimated_salary=40000,
    )  # fmt: skip
    churn = stub.PredictChurn(typed.PredictChurnRequest(customers=[customer, customer]))
    raw = wire.outputs(stub.ModelInfer(wire.churn([wire.CUSTOMER])))["probability"].item()
    assert [p.probability for p in churn.predictions] == [pytest.approx(raw, abs=TOLERANCE)] * 2

    image = glyphs(1)
    digit = stub.ClassifyDigit(typed.ClassifyDigitRequest(images=[typed.DigitImage(pixels=image.tobytes())]))
    raw = wire.outputs(stub.ModelInfer(wire.mnist(image)))["probabilities"][0]
    np.testing.assert_allclose(digit.predictions[0].probabilities, raw, atol=TOLERANCE)
    assert digit.predictions[0].digit == raw.argmax()

    review = stub.AnalyzeSentiment(typed.AnalyzeSentimentRequest(texts=REVIEWS[:2]))
    raw = wire.outputs(stub.ModelInfer(wire.sentiment(REVIEWS[:2])))["probabilities"]
    assert [p.positive for p in review.predictions] == [pytest.approx(p, abs=TOLERANCE) for p in raw[:, 1]]
    assert [p.sentiment for p in review.predictions] == [typed.POSITIVE, typed.NEGATIVE]


def test_metadata_is_what_the_design_promises(stub):
    metadata = stub.ModelMetadata(oip.ModelMetadataRequest(name="churn"))
    inputs = {tensor.name: (tensor.datatype, tuple(tensor.shape)) for tensor in metadata.inputs}

    assert metadata.platform == "onnxruntime_onnx"
    assert inputs == {
        **dict.fromkeys(wire.CHURN_NUMBERS, ("FP32", (-1, 1))),
        "Geography": ("BYTES", (-1, 1)),
        "Gender": ("BYTES", (-1, 1)),
    }
    assert [(o.name, o.datatype, tuple(o.shape)) for o in metadata.outputs] == [("probability", "FP32", (-1, 1))]
    for name, kind, tensor in (("mnist", "UINT8", (-1, 28, 28)), ("sentiment", "BYTES", (-1, 1))):
        (only,) = stub.ModelMetadata(oip.ModelMetadataRequest(name=name)).inputs
        assert (only.datatype, tuple(only.shape)) == (kind, tensor)


def test_live_ready_and_health_agree(server, stub):
    assert stub.ServerLive(oip.ServerLiveRequest()).live
    assert stub.ServerReady(oip.ServerReadyRequest()).ready
    for name in ("churn", "mnist", "sentiment"):
        assert stub.ModelReady(oip.ModelReadyRequest(name=name)).ready
    # a HealthCheckResponse with status SERVING is field 1 = 1
    assert stub.raw("/grpc.health.v1.Health/Check", b"") == b"\x08\x01"


def test_a_deadline_is_kept_and_an_abandoned_call_leaves_the_others_alone(stub):
    doomed = [stub.future("ModelInfer", wire.sentiment([REVIEWS[3]]), timeout=0.000_01) for _ in range(20)]
    abandoned = [stub.future("ModelInfer", wire.sentiment([REVIEWS[3]])) for _ in range(20)]
    neighbours = [stub.future("ModelInfer", wire.sentiment([REVIEWS[0]])) for _ in range(20)]
    for call in abandoned:
        call.cancel()

    for call in neighbours:
        assert wire.outputs(call.result())["probabilities"].shape == (1, 2)
    for call in doomed:
        assert call.exception().code() in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED)
    for call in abandoned:  # one that was answered before it was given up is no fault
        assert call.cancelled() or call.code() is grpc.StatusCode.OK


def test_sigterm_lets_the_requests_in_flight_finish_and_exits_with_0():
    with serve() as server, server.channel() as channel:
        stub = wire.Stub(channel)
        stub.ModelInfer(wire.sentiment(REVIEWS))
        with ThreadPoolExecutor(8) as pool:
            calls = [pool.submit(stub.ModelInfer, wire.sentiment([REVIEWS[i % 6]])) for i in range(64)]
            calls[0].result()
            server.process.send_signal(signal.SIGTERM)
            outcomes = [call.exception() for call in calls]

        assert server.stop() == 0
        refused = [error for error in outcomes if error is not None]
        codes = {(error.code().name, error.details()) for error in refused}
        # gRPC's core (aio) cancels calls that come before its GOAWAY has reached their caller (docs/transport.md)
        assert {name for name, _ in codes} <= {"UNAVAILABLE", "CANCELLED"}, codes
        assert len(refused) < 64
        assert not [line for line in server.log if "Traceback" in line]


def test_sigterm_while_models_load_ends_the_process_at_once():
    process = subprocess.Popen(
        [sys.executable, "-m", "server", "serve", "--grpc-port", "0", "--http-port", "0", "--metrics-port", "0"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    for line in process.stderr:
        if re.search(r"\bstarting\b", line):
            break
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=20)

    assert process.returncode == 0
    assert "listening" not in out


def test_requests_leave_nothing_for_the_garbage_collector(server, stub):
    def collected():
        samples = server.scrape()
        return sum(value for name, value in samples.items() if name.startswith("python_gc_objects_collected_total"))

    def ask(calls):
        futures = [stub.future("ModelInfer", wire.churn([wire.CUSTOMER], id=f"{i}")) for i in range(calls)]
        assert all(wire.outputs(future.result())["probability"].size == 1 for future in futures)

    ask(100)
    before = collected()
    ask(4000)  # a cycle in each would be 19 objects in each, and the collector comes after 50,000

    assert collected() - before < 4000
