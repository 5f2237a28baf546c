"""Streaming calls: their handlers live on the slow lane, their frames on the transport's thread."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from functools import partial
from typing import TYPE_CHECKING

from server.transports.base import Metadata, StatusCode, StatusError, StreamHandler
from server.transports.failure import cancel_current, is_cancelled, to_status
from server.transports.http2.endings import status_block
from server.transports.http2.heads import Head
from server.transports.http2.messages import Assembler, too_large
from server.transports.lane import SlowLane

if TYPE_CHECKING:
    from server.transports.http2.streams import Streams


class StreamCall:
    """One streaming RPC (base.Stream). The first half belongs to the slow lane's loop, the second to the thread."""

    def __init__(self, connection: "Streams", number: int, head: Head, lane: SlowLane) -> None:
        """Open, on the transport's thread.

        Args:
            connection: it came on this one.
            number: its stream.
            head: what its headers say.
            lane: where its handler runs.
        """
        self.method = head.method
        self.metadata: Metadata = head.metadata
        self.peer = connection.peer
        self._connection = connection
        self._number = number
        self._lane = lane
        self.deadline = None if head.timeout is None else time.monotonic() + head.timeout
        # the lane's
        self._task: asyncio.Task[None] | None = None
        self._messages: deque[bytes] = deque()
        self._news = asyncio.Event()
        self._all_came = self._gone = False
        self._turn_to_write = asyncio.Lock()
        # the thread's
        self._assembler = Assembler(head.encoding, connection.limits.max_receive_bytes, connection.held)
        self._unread: deque[int] = deque()
        """Sizes of the messages that the handler has not taken."""
        self._kept = 0
        """Bytes that the caller may send again once they are."""
        self._begun = False
        self.half_closed, self.pristine = False, True
        self.window = self.owed = 0

    def time_remaining(self) -> float | None:
        """Seconds until the caller's deadline, None when it set none."""
        return None if self.deadline is None else max(self.deadline - time.monotonic(), 0.0)

    def serve(self, handler: StreamHandler) -> None:
        """Run the handler as a task, which is cancelled when the caller goes away."""
        if not self._gone:
            self._task = asyncio.get_running_loop().create_task(self._run(handler))
            self._lane.track(self._task)

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Return itself: a reader that gave up waiting can come back without losing a message."""
        return self

    async def __anext__(self) -> bytes:
        """Return the caller's next message; ends once it has half-closed."""
        await self._checkpoint()
        while not self._messages:
            if self._all_came:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        message = self._messages.popleft()
        self._connection.perform(self._was_read)
        return message

    async def send(self, message: bytes) -> None:
        """Send one message; returns when the transport took it."""
        limits = self._connection.limits
        if len(message) > limits.max_send_bytes:
            raise StatusError(StatusCode.RESOURCE_EXHAUSTED, too_large(message, limits))
        async with self._turn_to_write:
            await self._checkpoint()
            taken: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
            self._connection.perform(self._write, message, partial(self._lane.soon, _resolve, taken))
            if not await taken:  # the stream was reset; word of it is on the way
                await cancel_current()

    async def _run(self, handler: StreamHandler) -> None:
        status: StatusError | None = None
        try:
            await handler(self)
        except (Exception, asyncio.CancelledError) as error:
            if is_cancelled(error):
                raise
            status = to_status(error, self.method)
        self._connection.perform(self._finish, status)

    async def _checkpoint(self) -> None:
        if self._gone:  # the caller has gone and the handler went on regardless
            await cancel_current()

    def _arrived(self, messages: list[bytes], last: bool) -> None:  # noqa: FBT001
        self._messages += messages
        self._all_came |= last
        self._news.set()

    def _left(self) -> None:
        self._gone = True
        task, self._task = self._task, None  # a cancelled task remembers its frames, and they this stream
        if task is not None:
            task.cancel()

    # From here on: the transport's thread.

    def deliver(self, message: bytes) -> None:
        """Take a message that came in one piece and is the only one."""
        self._keep([message])
        self._lane.soon(self._arrived, [message], True)  # noqa: FBT003

    def receive(self, piece: bytes) -> int:
        """Take a piece of a message; returns how many bytes the caller may send in its place now."""
        self.pristine = False
        slow = bool(self._unread)
        try:
            messages = self._assembler.feed(piece)
        except StatusError as status:
            self._refuse(status)
            return 0
        if self.half_closed and self._assembler.unfinished:
            self._refuse(StatusError(StatusCode.INTERNAL, "expected a whole message, the call ended within it"))
            return 0
        if messages or self.half_closed:
            self._keep(messages)
            self._lane.soon(self._arrived, messages, self.half_closed)
        if slow:  # the handler is, so its caller has to be
            self._kept += len(piece)
            return 0
        return len(piece)

    def expire(self) -> None:
        """The deadline has passed."""
        self._refuse(StatusError(StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded"))

    def leave(self) -> None:
        """The caller has gone."""
        self._lane.soon(self._left)

    def end(self, block: bytes | None) -> None:
        """End the call from this side; its handler is cancelled."""
        self.leave()
        if block is not None:
            self._connection.finish(self._number, block, begun=self._begun)

    def close(self) -> None:
        """Forget what came: the stream is over."""
        self._assembler.close()
        self._connection.held.bytes -= sum(self._unread)
        self._unread.clear()

    def _keep(self, messages: list[bytes]) -> None:
        sizes = [len(message) for message in messages]
        self._unread += sizes
        self._connection.held.bytes += sum(sizes)

    def _refuse(self, status: StatusError) -> None:
        self._assembler.close()
        self.end(status_block(status, alone=not self._begun))

    def _was_read(self) -> None:
        if self._unread:  # otherwise the stream is over
            self._connection.held.bytes -= self._unread.popleft()
        if not self._unread and self._kept:
            kept, self._kept = self._kept, 0
            self._connection.credit(self._number, self, kept)

    def _write(self, message: bytes, done: "partial[None]") -> None:
        begun, self._begun = self._begun, True
        self._connection.send(self._number, message, done, begun=begun)

    def _finish(self, status: StatusError | None) -> None:
        block = None if status is None else status_block(status, alone=not self._begun)
        self._connection.finish(self._number, block, begun=self._begun)


def _resolve(future: "asyncio.Future[bool]", value: bool) -> None:  # noqa: FBT001
    if not future.done():
        future.set_result(value)
