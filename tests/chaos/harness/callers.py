"""Callers that do what docs/operations.md tells them, and check every answer against a model run of their own.

The load comes in bursts, ten a second: the mean stays low, and whoever is killed is killed with work in its hands.
"""

import asyncio
import json
import re
import time
from dataclasses import dataclass, field
from typing import NamedTuple

import grpc
import numpy as np
import onnxruntime

from server.pb import open_inference_pb2 as oip
from tests import oip as wire
from tests.server_process import ROOT

INFER = "/inference.GRPCInferenceService/ModelInfer"
OPERATIONS = ROOT / "docs" / "operations.md"
RECONNECT = (("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 5000))
"""As docs/operations.md says; gRPC itself waits up to two minutes before it looks for a dead server again."""
BURSTS_PER_SECOND = 10
CUSTOMERS = 64
TOLERANCE = 1e-5


def service_config() -> str:
    """Return the service configuration that the documentation gives to clients."""
    (config,) = re.findall(r"```json\n(\{\n  \"loadBalancingConfig\".*?)```", OPERATIONS.read_text(), re.DOTALL)
    return json.dumps(json.loads(config))


class Question(NamedTuple):
    message: oip.ModelInferRequest
    answer: float


def questions(version: str) -> list[Question]:
    """Return customers whose answers all differ, with what ONNX Runtime itself says of each."""
    model = onnxruntime.InferenceSession(
        ROOT / "model_store" / "churn" / version / "model.onnx", providers=["CPUExecutionProvider"]
    )
    asked = []
    for number in range(CUSTOMERS):
        customer = dict(wire.CUSTOMER) | {"Age": 20.0 + number * 0.7, "Balance": 2500.0 * number}
        feeds = {name: np.array([[value]], np.float32) for name, value in customer.items()}
        feeds |= {"Geography": np.array([["Spain"]], object), "Gender": np.array([["Female"]], object)}
        (probability,) = model.run(["probability"], feeds)
        asked.append(Question(wire.churn([customer]), probability.item()))
    gaps = np.diff(np.sort([question.answer for question in asked]))
    assert gaps.min() > 2 * TOLERANCE, "an answer to another customer must be seen as wrong"
    return asked


@dataclass
class Heard:
    """One call as its caller saw it: instants on the monotonic clock, and the status that was left after retries."""

    sent: float
    ended: float
    code: grpc.StatusCode
    right: bool
    details: str = ""

    @property
    def seconds(self) -> float:
        return self.ended - self.sent


@dataclass
class Callers:
    """Steady load on every frontend at once; one entry of `heard` for each call that has ended."""

    addresses: list[str]
    per_burst: int
    timeout: float
    heard: list[Heard] = field(default_factory=list)
    open: int = 0
    bursts: int = 0

    async def run(self, asked: list[Question], stop: asyncio.Event) -> None:
        """Call until told to stop, then wait for what is open."""
        options = [("grpc.service_config", service_config()), *RECONNECT]
        async with grpc.aio.insecure_channel(f"ipv4:{','.join(self.addresses)}", options=options) as channel:
            infer = channel.unary_unary(
                INFER,
                request_serializer=oip.ModelInferRequest.SerializeToString,
                response_deserializer=oip.ModelInferResponse.FromString,
            )
            calls: set[asyncio.Task[None]] = set()
            start = time.monotonic()
            while not stop.is_set():
                for _ in range(self.per_burst):
                    number = self.open + len(self.heard)
                    self.open += 1
                    call = asyncio.create_task(self._call(infer, asked[number % len(asked)], str(number)))
                    calls.add(call)
                    call.add_done_callback(calls.discard)
                self.bursts += 1
                await asyncio.sleep(max(start + self.bursts / BURSTS_PER_SECOND - time.monotonic(), 0))
            await asyncio.gather(*calls)

    async def _call(self, infer, question: Question, ident: str) -> None:
        message = oip.ModelInferRequest()
        message.CopyFrom(question.message)
        message.id = ident
        sent = time.monotonic()
        code, right, details = grpc.StatusCode.OK, False, ""
        try:
            response = await infer(message, timeout=self.timeout)
            probability = wire.outputs(response)["probability"].item()
            right = response.id == ident and abs(probability - question.answer) < TOLERANCE
        except grpc.aio.AioRpcError as error:
            code, details = error.code(), error.details()
        self.heard.append(Heard(sent, time.monotonic(), code, right, details))
        self.open -= 1
