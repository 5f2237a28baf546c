"""Calls that come one behind the other and are the same in all that matters, found and answered as one.

Under overload most calls are refused, and most come from callers that send one call after another: the same headers, a
message as long as the one before it, the next stream. To look at each of them costs what serving others would need. So
where one was refused, those like it that stand behind it are only compared with it: 0.2 us a call, where reading one
takes 3. The first that differs ends that, so that what is compared in vain is one call at most. Knows no connection.
"""

import struct

from server.transports.http2.frames import HEAD_SIZE, MOST, read_uint32

_STREAM = range(5, HEAD_SIZE)
"""Where a frame's head has its stream."""


def count_alike(data: bytes, at: int, size: int, second: int, same: int) -> int:
    """Return how many whole calls at `data[at:]` are like the first one, which counts.

    Args:
        data: what was read: calls of a frame of headers and one of data each.
        at: where the first begins.
        size: bytes of the first, as the others must have.
        second: where in it the second frame begins.
        same: bytes that must be the same from the beginning of each, but for the streams: they follow one another.
    """
    number, calls = read_uint32(data, at + _STREAM.start)[0], 1
    most = min((len(data) - at) // size, (MOST - number) // 2 + 1)
    if most < 2:
        return calls
    same = min(same, size)
    head = data[at : at + _STREAM.start]
    between = data[at + _STREAM.stop : at + second + _STREAM.start]
    rest = data[at + second + _STREAM.stop : at + same]
    pack = struct.Struct(f">{len(head)}sI{len(between)}sI{len(rest)}s").pack
    while calls < most:
        at += size
        number += 2
        if not data.startswith(pack(head, number, between, number, rest), at):
            break
        calls += 1
    return calls


def repeated(frame: bytes, first: int, calls: int) -> bytes:
    """Return a frame that was made for stream 0 once for each of so many streams, from the first one on."""
    frames, numbers = bytearray(frame * calls), struct.pack(f">{calls}I", *range(first, first + 2 * calls, 2))
    for digit, place in enumerate(_STREAM):
        frames[place :: len(frame)] = numbers[digit::4]
    return bytes(frames)
