"""How a stream of bytes becomes frames again, whatever pieces it comes in. Pure.

    offset  bytes  what
    0       4      length of the body, little-endian
    4       1      kind, see below
    5       8      number: of the request or call that the frame is about, or of the template it defines
    13      ...    body

    from a frontend   REQUEST_TEMPLATE  what many requests have in common, JSON (templates.py)
                      REQUEST, CANCEL   one request of the queue; its caller has left
                      CALL, HANG_UP     one rare RPC for the engine to answer; its caller has left
                      ASK               for the statistics of the queues
    from the engine   ANSWER_TEMPLATE, ANSWER, REFUSAL     how a request ended
                      RESULT, STATUS                       how a call ended
                      TOLD                                 the statistics asked for, JSON
    either way        NOTE              what the other should know, JSON

The other end is a process of ours, so nothing is signed or hashed. It may be sick or killed half-way through a frame
all the same: whatever cannot be a frame raises CorruptFrame, and that ends the link.
"""

import struct

from server.messages import Buffer

(
    REQUEST_TEMPLATE, REQUEST, CANCEL, CALL, HANG_UP, ASK,
    ANSWER_TEMPLATE, ANSWER, REFUSAL, RESULT, STATUS, TOLD, NOTE,
) = range(13)  # fmt: skip

HEAD = struct.Struct("<IBQ")
CHUNK = 64 << 10
"""Bytes asked for at once; a longer body is received in a buffer of its own, which its tensors then are views of."""
MOST = (1 << 31) - 1
"""Of a body; gRPC has no longer messages."""

Frame = tuple[int, int, Buffer, int, int]
"""Kind, number, and the body as data[start:stop]."""


class CorruptFrame(Exception):
    """These bytes are none of ours; the text says why."""


def frame(kind: int, number: int, body: bytes = b"") -> bytes:
    """Return a whole frame."""
    return HEAD.pack(len(body), kind, number) + body


class Inbound:
    """Puts frames together. Receive into `space()`, then tell `received` how much came."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._chunk = memoryview(bytearray(CHUNK))
        self._kept = b""
        self._large: memoryview | None = None
        """The body of a frame too long to be kept in pieces."""
        self._filled = 0
        self._about = (0, 0)

    def space(self) -> memoryview:
        """Return where the next bytes go."""
        return self._chunk if self._large is None else self._large[self._filled :]

    def received(self, count: int) -> list[Frame]:
        """Return the frames that the `count` bytes just received complete.

        Raises:
            CorruptFrame: a frame says that it is longer than any may be.
        """
        if self._large is not None:
            return self._grow(count)
        data = self._kept + self._chunk[:count].tobytes()
        frames: list[Frame] = []
        at, end = 0, len(data)
        while end - at >= HEAD.size:
            length, kind, number = HEAD.unpack_from(data, at)
            start = at + HEAD.size
            if length > self._most:
                raise CorruptFrame(f"expected a frame of at most {self._most} bytes, got one of {length}")
            if start + length > end:
                if length > CHUNK:
                    self._begin(kind, number, length, data[start:])
                    at = end
                break
            at = start + length
            frames.append((kind, number, data, start, at))
        self._kept = data[at:]
        return frames

    def _begin(self, kind: int, number: int, length: int, beginning: bytes) -> None:
        self._large = memoryview(bytearray(length))  # pages used before; fresh ones cost four times as much
        self._large[: len(beginning)] = beginning
        self._filled, self._about = len(beginning), (kind, number)

    def _grow(self, count: int) -> list[Frame]:
        body = self._large
        assert body is not None, "received() looks first"  # noqa: S101 - narrows for mypy
        self._filled += count
        if self._filled < len(body):
            return []
        self._large = None
        return [(*self._about, body.toreadonly(), 0, len(body))]
