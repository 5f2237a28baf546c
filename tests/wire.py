"""The wire without a network: a call, a stream, a catalog and a queue that keep their contracts and their memories."""

import asyncio
import struct
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from server.catalog import IndexEntry
from server.errors import Cancelled, ModelNotFound, ModelNotReady, ServingError
from server.messages import ITEM_BYTES, InferRequest, InferResponse, Reply, Tensor, Timing, element_count
from server.pb import open_inference_pb2 as pb
from server.queues.base import QueueStatistics
from server.spec import ModelConfig, ModelSpec, TensorSpec
from server.statistics import ModelStatistics
from server.transports.base import Fast, Metadata, Methods, StatusCode, StatusError, Streaming, Unary
from server.wire.admission import Admission
from server.wire.auth import Authenticator
from server.wire.gate import Gate
from server.wire.lifecycle import Lifecycle
from server.wire.limits import Limits
from server.wire.observer import Outcome
from server.wire.open_inference import Identification
from server.wire.services import Wire, methods

LIMITS = Limits(max_message_bytes=16 << 20, max_inflight_requests=64, max_inflight_bytes=64 << 20, max_deadline=60.0)
INFER = "/inference.GRPCInferenceService/ModelInfer"

CHURN_NUMBERS = (
    "CreditScore", "Age", "Tenure", "Balance", "NumOfProducts", "HasCrCard", "IsActiveMember", "EstimatedSalary",
)  # fmt: skip


def spec(name, inputs, outputs, *, max_batch_size=8, version="1", **config):
    """Return a model's promise; tensors are (name, datatype, shape)."""
    return ModelSpec(
        name=name,
        version=version,
        platform="onnx_onnxv1",
        inputs=tuple(TensorSpec(*tensor) for tensor in inputs),
        outputs=tuple(TensorSpec(*tensor) for tensor in outputs),
        max_batch_size=max_batch_size,
        config=ModelConfig(name, **config),
    )


CHURN = spec(
    "churn",
    [
        *((name, "FP32", (-1, 1)) for name in CHURN_NUMBERS),
        ("Geography", "BYTES", (-1, 1)),
        ("Gender", "BYTES", (-1, 1)),
    ],
    [("probability", "FP32", (-1, 1))],
)
MNIST = spec("mnist", [("image", "UINT8", (-1, 28, 28))], [("probabilities", "FP32", (-1, 10))])
SENTIMENT = spec("sentiment", [("text", "BYTES", (-1, 1))], [("probabilities", "FP32", (-1, 2))])


@dataclass
class Model:
    """A version in service."""

    spec: ModelSpec
    provider: str = "CPUExecutionProvider"
    counted: ModelStatistics = field(default_factory=ModelStatistics)

    def statistics(self):
        return self.counted


class FakeCatalog:
    """Models by name and version; `absent` names exist and are not ready."""

    def __init__(self, *specs):
        self.models: dict[str, dict[str, Model]] = {}
        self.absent: set[str] = set()
        self.loaded: list[tuple[str, Mapping[str, object]]] = []
        self.unloaded: list[str] = []
        self.all_ready = True
        for each in specs:
            self.put(each)

    def put(self, each):
        self.models.setdefault(each.name, {})[each.version] = Model(each)

    def replace(self, each):
        self.models[each.name] = {each.version: Model(each)}

    def find(self, name, version):
        if name in self.absent:
            raise ModelNotReady(f"model {name!r} is not serving")
        versions = self.models.get(name)
        if not versions or (version and version not in versions):
            raise ModelNotFound(f"no model {name!r}, version {version!r}")
        return versions[version or max(versions, key=int)]

    def versions(self, name):
        self.find(name, "")
        return sorted(self.models[name], key=int)

    def ready(self):
        return self.all_ready and not self.absent

    def index(self):
        rows = [IndexEntry(name, version, "READY") for name, found in self.models.items() for version in found]
        return rows + [IndexEntry(name, "1", "UNAVAILABLE", "load failed") for name in sorted(self.absent)]

    async def load(self, name, parameters):
        self.loaded.append((name, parameters))

    async def unload(self, name):
        self.find(name, "")
        self.unloaded.append(name)


class FakeTicket:
    def __init__(self, queue, reply):
        self._queue = queue
        self._reply = reply

    def cancel(self):
        self._queue.cancelled += 1
        if self in self._queue.open:
            self._queue.open.remove(self)
            self._reply(Cancelled("the caller left"))


class FakeQueue:
    """Answers at once with zeros of the promised shape, holds requests back, or refuses with `refusal`."""

    def __init__(self, catalog):
        self._catalog = catalog
        self.submitted: list[InferRequest] = []
        self.replies: list[Reply] = []
        self.open: list[FakeTicket] = []
        self.hold = False
        self.cancelled = 0
        self.refusals: list[ServingError] = []
        self.rejected: list[tuple[str, str, str]] = []
        self.outcome: Callable[[InferRequest], InferResponse | ServingError] = self.zeros

    def submit(self, request, reply):
        if self.refusals:
            raise self.refusals.pop(0)
        self.submitted.append(request)
        ticket = FakeTicket(self, reply)
        if self.hold:
            self.replies.append(reply)
            self.open.append(ticket)
        else:
            reply(self.outcome(request))
        return ticket

    def reject(self, *told):
        self.rejected.append(told)

    def answer(self, index):
        """Reply to a request that was held back."""
        self.open = [ticket for ticket in self.open if ticket._reply != self.replies[index]]
        self.replies[index](self.outcome(self.submitted[index]))

    def zeros(self, request):
        promised = self._catalog.find(request.model_name, request.model_version).spec
        names = request.outputs or tuple(output.name for output in promised.outputs)
        by_name = {output.name: output for output in promised.outputs}
        outputs = []
        for name in names:
            shape = by_name[name].shape
            shape = (request.rows, *shape[1:]) if promised.batches else shape
            nbytes = element_count(shape) * ITEM_BYTES.get(by_name[name].datatype, 4)
            outputs.append(Tensor(name, by_name[name].datatype, shape, bytes(nbytes)))
        return InferResponse(
            promised.name, promised.version, request.id, tuple(outputs), Timing(batch_rows=request.rows)
        )

    def statistics(self):
        return {("churn", "1"): QueueStatistics(len(self.open), len(self.open), 0, 0.0, 0)}


class FakeCall:
    """One call, and how it ended: `message`, or `code` and `details`."""

    def __init__(self, method=INFER, metadata: Metadata = (), remaining=None, deadline=None):
        self.method = method
        self.metadata = metadata
        self.peer = "ipv4:127.0.0.1:50000"
        self.deadline = deadline if remaining is None else time.monotonic() + remaining
        self.message: bytes | None = None
        self.code: StatusCode | None = None
        self.details = ""
        self.trailers: Metadata = ()
        self.ends = 0
        self.callbacks: list[Callable[[], None]] = []
        self.ended = threading.Event()

    def reply(self, message):
        self._end(StatusCode.OK)
        self.message = message

    def fail(self, code, details, trailers=()):
        self._end(code)
        self.details, self.trailers = details, trailers

    def _end(self, code):
        self.ends += 1
        self.code = code
        self.ended.set()

    def on_cancel(self, callback):
        self.callbacks.append(callback)

    def leave(self):
        """Be the caller who goes away."""
        for callback in self.callbacks:
            callback()


class FakeStream:
    """A stream whose messages are put in by the test and whose answers are read from `sent`."""

    def __init__(self, messages: Iterable[bytes] = (), method="/s/Stream", metadata: Metadata = (), *, closed=True):
        self.method = method
        self.metadata = metadata
        self.peer = "ipv4:127.0.0.1:50000"
        self.sent: asyncio.Queue[bytes] = asyncio.Queue()
        self.taken = 0
        self._incoming: asyncio.Queue[bytes | None] = asyncio.Queue()
        for message in messages:
            self._incoming.put_nowait(message)
        if closed:
            self.half_close()

    def time_remaining(self):
        return None

    def put(self, message):
        self._incoming.put_nowait(message)

    def half_close(self):
        self._incoming.put_nowait(None)

    async def __aiter__(self):
        while (message := await self._incoming.get()) is not None:
            self.taken += 1
            yield message

    async def send(self, message):
        self.sent.put_nowait(message)


class Recorder:
    """An Observer that keeps what it hears."""

    def __init__(self):
        self.outcomes: list[Outcome] = []
        self.turned_away: list[tuple[object, ...]] = []

    def finished(self, outcome):
        self.outcomes.append(outcome)

    def shed(self, *told):
        self.turned_away.append(told)

    def meter(self, *_):
        return self

    def add(self, ended):
        self.outcomes.append(ended.outcome(0.001))


class Level:
    def __init__(self):
        self.level = "info"

    def get(self):
        return self.level

    def set(self, level):
        self.level = level


class Bench:
    """A whole wire over fakes: `infer` and `ask` call it as a transport would."""

    def __init__(self, *specs, keys=None, reflection=True, shared_memory=None, **limits):
        self.limits = replace(LIMITS, **limits)
        self.catalog = FakeCatalog(*(specs or (CHURN, MNIST, SENTIMENT)))
        self.queue = FakeQueue(self.catalog)
        self.recorder = Recorder()
        self.level = Level()
        self.lifecycle = Lifecycle()
        self.lifecycle.set(ready=True)
        self.admission = Admission(self.limits)
        self.gate = Gate(self.limits, Authenticator(keys), self.admission, self.recorder)
        self.methods: Methods = methods(
            Wire(
                self.gate, self.catalog, self.queue, self.lifecycle, Identification("sluice", "0.1.0"), self.level,
                reflection=reflection, shared_memory=shared_memory,
            )
        )  # fmt: skip

    def start(self, message, **call):
        """Hand one ModelInfer message to its handler; return the call, ended or not."""
        made = FakeCall(**call)
        data = message if isinstance(message, bytes) else message.SerializeToString()
        handler = self.methods[made.method]
        assert isinstance(handler, Fast)
        handler.handler(made, data)
        return made

    def infer(self, message, **call):
        """Do the same and return the answer. Raises StatusError."""
        made = self.start(message, **call)
        assert made.ends == 1
        if made.message is None:
            raise StatusError(made.code, made.details, made.trailers)
        return pb.ModelInferResponse.FromString(made.message)

    async def ask(self, method, request, answer, metadata: Metadata = ()):
        """Call a unary method. Raises StatusError."""
        handler = self.methods[method]
        assert isinstance(handler, Unary)
        data = request if isinstance(request, bytes) else request.SerializeToString()
        return answer.FromString(await handler.handler(FakeCall(method, metadata), data))

    async def stream(self, stream):
        """Run a streaming method to its end. Raises StatusError."""
        handler = self.methods[stream.method]
        assert isinstance(handler, Streaming)
        async with asyncio.timeout(10):
            await handler.handler(stream)


def text(*elements):
    """Return BYTES elements in raw form."""
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


def message(promised, rows=1, request_id="", **changes):
    """Return a well-formed request of zeros and the text "x"; `changes` replace raw contents by input name."""
    built = pb.ModelInferRequest(model_name=promised.name, id=request_id)
    for tensor in promised.inputs:
        shape = [rows, *tensor.shape[1:]] if promised.batches else [max(size, 1) for size in tensor.shape]
        shape = [1 if size == -1 else size for size in shape]
        built.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=shape)
        count = element_count(shape)
        raw = text(*[b"x"] * count) if tensor.datatype == "BYTES" else bytes(count * ITEM_BYTES[tensor.datatype])
        built.raw_input_contents.append(changes.get(tensor.name, raw))
    return built
