"""Steady made-up traffic for the three shipped models: something to see on dashboards, something to break in tests.

Open loop: calls leave on schedule whether or not earlier ones were answered, as real callers' do, in a slow wave so
that the panels have a shape. One call in a hundred is wrong on purpose. The channel is configured as docs/operations.md
asks every client: round robin over all addresses, and a retry policy for UNAVAILABLE alone.
"""

import argparse
import json
import math
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import grpc

from server.pb import sluice_pb2 as pb

SERVICE = "/sluice.v1.Predictions/"
WAVE_SECONDS = 120.0
TICK_SECONDS = 0.05
WRONG_SHARE = 0.01
CLIENT_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.05s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
    "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.5},
}
WORDS = (
    "a",
    "the",
    "film",
    "plot",
    "was",
    "is",
    "dull",
    "warm",
    "funny",
    "slow",
    "lovely",
    "and",
    "but",
    "never",
    "again",
)

Message = pb.PredictChurnRequest | pb.ClassifyDigitRequest | pb.AnalyzeSentimentRequest


def churn(dice: random.Random, rows: int) -> Message:
    """Return a question about plausible customers."""
    customers = [
        pb.Customer(
            credit_score=dice.randint(350, 850), geography=dice.choice(("France", "Germany", "Spain")),
            gender=dice.choice(("Female", "Male")), age=dice.randint(18, 90), tenure=dice.randint(0, 10),
            balance=dice.uniform(0, 200_000), num_of_products=dice.randint(1, 4), has_credit_card=dice.random() < 0.7,
            is_active_member=dice.random() < 0.5, estimated_salary=dice.uniform(10_000, 200_000),
        )
        for _ in range(rows)
    ]  # fmt: skip
    return pb.PredictChurnRequest(customers=customers)


def digit(dice: random.Random, rows: int) -> Message:
    """Return pictures of one thick vertical stroke, somewhere."""
    column, pixels = dice.randint(8, 18), bytearray(784)
    for row in range(5, 23):
        pixels[row * 28 + column : row * 28 + column + 3] = b"\xff\xff\xff"
    return pb.ClassifyDigitRequest(images=[pb.DigitImage(pixels=bytes(pixels))] * rows)


def review(dice: random.Random, rows: int) -> Message:
    """Return reviews of 5 to 60 words."""
    return pb.AnalyzeSentimentRequest(texts=[" ".join(dice.choices(WORDS, k=dice.randint(5, 60))) for _ in range(rows)])


def wrong(_dice: random.Random, rows: int) -> Message:
    """Return customers of whom nothing is known: INVALID_ARGUMENT is the right answer."""
    return pb.PredictChurnRequest(customers=[pb.Customer()] * rows)


KINDS: tuple[tuple[str, Callable[[random.Random, int], Message]], ...] = (
    ("PredictChurn", churn),
    ("ClassifyDigit", digit),
    ("AnalyzeSentiment", review),
)


@dataclass(frozen=True, slots=True)
class Options:
    """What calls look like: most rows, deadline in seconds, and which status codes are well beside the right ones."""

    rows: int
    deadline: float
    accepted: frozenset[str]
    seed: int


class Traffic:
    """One channel, its calls and how they ended."""

    def __init__(self, target: str, options: Options) -> None:
        channel = [("grpc.service_config", json.dumps(CLIENT_CONFIG)), ("grpc.enable_retries", 1)]
        self._channel = grpc.insecure_channel(target, channel)
        self._options = options
        self._dice = random.Random(options.seed)  # noqa: S311 - made-up traffic
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self.sent = 0
        self.codes: Counter[str] = Counter()

    def send(self) -> None:
        """Start one call of a random kind; its end is counted whenever it comes."""
        method, make = self._dice.choice(KINDS)
        expected = grpc.StatusCode.OK
        if self._dice.random() < WRONG_SHARE:
            method, make, expected = "PredictChurn", wrong, grpc.StatusCode.INVALID_ARGUMENT
        message = make(self._dice, self._dice.randint(1, self._options.rows))
        call = self._channel.unary_unary(SERVICE + method, type(message).SerializeToString, bytes)
        self.sent += 1
        future = call.future(message, timeout=self._options.deadline, wait_for_ready=True)
        future.add_done_callback(lambda done: self._ended(cast("grpc.Call", done).code(), expected))

    def _ended(self, code: grpc.StatusCode, expected: grpc.StatusCode) -> None:
        with self._idle:
            self.codes["as expected" if code is expected else code.name] += 1
            self._idle.notify_all()

    def well(self) -> bool:
        """Return whether every call was answered with a code that may be."""
        with self._lock:
            return self.codes.total() == self.sent and not set(self.codes) - self._options.accepted - {"as expected"}

    def run(self, rate: float, seconds: float, stop: threading.Event) -> None:
        """Send `rate` calls a second on average until `stop` or for `seconds` (0: for ever), then wait for the last."""
        start = time.monotonic()
        due = 0.0
        while not stop.wait(TICK_SECONDS):
            elapsed = time.monotonic() - start
            if seconds and elapsed >= seconds:
                break
            # the integral of rate * (1 + sin / 2): what should have left by now
            phase = 2 * math.pi / WAVE_SECONDS
            due = rate * (elapsed + (1 - math.cos(phase * elapsed)) / (2 * phase))
            while self.sent < due:
                self.send()
        with self._idle:
            self._idle.wait_for(lambda: self.codes.total() == self.sent, timeout=self._options.deadline + 5)

    def summary(self) -> str:
        """Return how many calls ended how, as one line of JSON."""
        with self._lock:
            return json.dumps({"sent": self.sent, "unanswered": self.sent - self.codes.total(), **self.codes})


def main() -> int:
    """Send, then print the summary; 0 when every call ended as it may."""
    parser = argparse.ArgumentParser(description="Steady made-up traffic for the three shipped models.")
    parser.add_argument("--server", default="127.0.0.1:8001", help="gRPC target, e.g. dns:///NAME:PORT")
    parser.add_argument("--rate", type=float, default=60.0, help="calls a second on average (default: %(default)g)")
    parser.add_argument("--seconds", type=float, default=0.0, help="how long; 0 until SIGTERM (default)")
    parser.add_argument("--rows", type=int, default=4, help="most rows of a call (default: %(default)d)")
    parser.add_argument("--deadline", type=float, default=2.0, help="of each call, in seconds (default: %(default)g)")
    parser.add_argument(
        "--accept", default="", metavar="CODE,...", help="status codes that are well, beside the right ones"
    )
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    accepted = frozenset(arguments.accept.split(","))
    options = Options(arguments.rows, arguments.deadline, accepted, arguments.seed)
    traffic = Traffic(arguments.server, options)
    traffic.run(arguments.rate, arguments.seconds, stop)
    sys.stdout.write(traffic.summary() + "\n")
    return int(not traffic.well())


if __name__ == "__main__":
    sys.exit(main())
