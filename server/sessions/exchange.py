"""The parent's side of a batch in shared memory: columns in, outputs out, without numpy.

Never knows processes or threads; a child gone mad shows as ValueError or the like, never as a crash of ours.
"""

from collections.abc import Sequence

from server.sessions import frames
from server.sessions.area import Area, align
from server.sessions.base import BatchError, OutOfMemory, RunFailed, RunTimedOut
from server.sessions.layout import Column, Output

COPIED_WHOLE = 64 << 10
"""Inputs up to this size are joined first and copied once; above it the second copy costs more than the calls."""


def write_batch(area: Area, sequence: int, rows: int, columns: Sequence[Column]) -> bytes:
    """Write a batch into the input area and return the packet that tells of it.

    Raises:
        OutOfMemory: it is over the area's limit.
    """
    needed = sum([align(column.nbytes) for column in columns])
    if needed > area.size and not area.grow(needed):
        raise OutOfMemory(f"the batch takes {needed} bytes, the limit is {area.limit}")
    view = area.view
    words = [frames.RUN, sequence, area.size, rows, len(columns)]
    at = 0
    for column in columns:
        _write(view, at, column)
        words += (column.index, at, column.nbytes, len(column.shape), *column.shape)
        at += align(column.nbytes)
    area.settle(at)
    return frames.pack(words)


def read_outputs(area: Area, packet: bytes) -> tuple[list[Output], float, int]:
    """Return the outputs a DONE packet tells of, as views of the output area, the seconds of the run and its padding.

    Raises:
        ValueError, IndexError, struct.error: the packet makes no sense.
    """
    _, _, area_bytes, count, nanoseconds, padded, *words = frames.unpack(packet)
    area.follow(min(area_bytes, area.limit))
    outputs: list[Output] = []
    at = end = 0
    for _ in range(count):
        offset, nbytes, rank = words[at : at + 3]
        at += 3 + rank
        end = offset + nbytes
        outputs.append(Output(tuple(words[at - rank : at]), area.view[offset:end]))
    area.settle(end)
    return outputs, nanoseconds * 1e-9, padded


def read_failure(kind: int, packet: bytes) -> BatchError:
    """Return what any other packet tells of.

    Raises:
        ValueError, struct.error: it makes no sense.
    """
    text = frames.unpack_text(packet)[2]
    return {frames.NO_MEMORY: OutOfMemory, frames.STOPPED: RunTimedOut}.get(kind, RunFailed)(text)


def _write(view: memoryview, at: int, column: Column) -> None:
    if column.nbytes <= COPIED_WHOLE:
        view[at : at + column.nbytes] = b"".join(column.chunks)
        return
    for chunk in column.chunks:
        view[at : at + len(chunk)] = chunk
        at += len(chunk)
