"""ModelStreamInfer: many requests on one stream, answered in their order, errors in-band so that the stream goes on.

Each message becomes a `Call` of its own that goes the way of ModelInfer; the answers are sent in the order of the
questions, whichever was computed first. With the metadata `triton_grpc_error: true` the first error ends the stream as
a status instead. The last answer to each request says so (`triton_final_response`); here every answer is the last.
"""

import asyncio
import time
from collections.abc import Callable

from server.errors import DeadlineExceeded
from server.pb.open_inference_pb2 import InferParameter, ModelInferResponse, ModelStreamInferResponse
from server.transports.base import Metadata, StatusCode, StatusError, Stream
from server.wire.infer import InferHandler
from server.wire.layout import encode_varint
from server.wire.limits import Limits
from server.wire.parameters import FINAL_RESPONSE
from server.wire.reader import request_id

_FINAL = ModelInferResponse(parameters={FINAL_RESPONSE: InferParameter(bool_param=True)}).SerializeToString()
_RESPONSE_TAG = b"\x12"
"""infer_response of ModelStreamInferResponse, length-delimited."""


class StreamHandler:
    """The Streaming handler of /inference.GRPCInferenceService/ModelStreamInfer."""

    def __init__(self, infer: InferHandler, limits: Limits) -> None:
        self._infer = infer
        self._inflight = limits.max_stream_inflight
        self._idle = limits.stream_idle

    async def __call__(self, stream: Stream) -> None:
        """Answer until the caller has said everything and heard everything.

        Raises:
            StatusError: the first error, where the caller asked for it as a status.
            DeadlineExceeded: no message came for too long.
        """
        answers: asyncio.Queue[_StreamCall | None] = asyncio.Queue()
        room = asyncio.Semaphore(self._inflight)
        open_calls: set[_StreamCall] = set()
        strict = ("triton_grpc_error", "true") in list(stream.metadata)
        pump = asyncio.create_task(self._pump(stream, answers, room, open_calls))
        pump.add_done_callback(lambda _: answers.put_nowait(None))
        try:
            while (call := await answers.get()) is not None:
                await stream.send(await call.answer(strict=strict))
                open_calls.discard(call)
                room.release()
            await pump
        finally:
            pump.cancel()
            for call in open_calls:
                call.abandon()

    async def _pump(
        self,
        stream: Stream,
        answers: "asyncio.Queue[_StreamCall | None]",
        room: asyncio.Semaphore,
        open_calls: "set[_StreamCall]",
    ) -> None:
        """Start each request as soon as there is room; not reading on is what slows a caller who does not listen."""
        messages = aiter(stream)
        while True:
            await room.acquire()
            try:
                async with asyncio.timeout(self._idle):
                    message = await anext(messages)
            except StopAsyncIteration:
                return
            except TimeoutError:
                raise DeadlineExceeded(f"expected a message on the stream within {self._idle:g} s") from None
            call = _StreamCall(stream, message)
            open_calls.add(call)
            answers.put_nowait(call)
            self._infer.trusted(call, message)


class _StreamCall:
    """One request of a stream, seen as a call."""

    def __init__(self, stream: Stream, message: bytes) -> None:
        self.method = stream.method
        self._stream = stream
        self._message = message
        self._loop = asyncio.get_running_loop()
        self._answered: asyncio.Future[bytes | StatusError] = self._loop.create_future()
        self._cancel: Callable[[], None] | None = None
        self._abandoned = False

    @property
    def metadata(self) -> Metadata:
        return self._stream.metadata

    @property
    def peer(self) -> str:
        return self._stream.peer

    @property
    def deadline(self) -> float | None:
        left = self._stream.time_remaining()
        return None if left is None else time.monotonic() + left

    def reply(self, message: bytes) -> None:
        self._settle(message)

    def fail(self, code: StatusCode, details: str, trailers: Metadata = ()) -> None:
        self._settle(StatusError(code, details, trailers))

    def on_cancel(self, callback: Callable[[], None]) -> None:
        self._cancel = callback
        if self._abandoned:
            callback()

    def abandon(self) -> None:
        """Give the request up: nobody is left to hear its answer."""
        self._abandoned = True
        if self._cancel is not None:
            self._cancel()

    async def answer(self, *, strict: bool) -> bytes:
        """Wait for the outcome and return it as a message of the stream; `strict` raises errors instead."""
        outcome = await self._answered
        if not isinstance(outcome, StatusError):
            return b"".join((_RESPONSE_TAG, encode_varint(len(outcome) + len(_FINAL)), outcome, _FINAL))
        if strict:
            raise outcome
        return ModelStreamInferResponse(
            error_message=outcome.details, infer_response=ModelInferResponse(id=request_id(self._message))
        ).SerializeToString()

    def _settle(self, outcome: bytes | StatusError) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._set, outcome)

    def _set(self, outcome: bytes | StatusError) -> None:
        if not self._answered.done():
            self._answered.set_result(outcome)
