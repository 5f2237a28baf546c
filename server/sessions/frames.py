"""The messages between a process instance and its child: one small packet a batch each way.

Packets on a SOCK_SEQPACKET pair keep their borders. Each is a row of little-endian int64 words; a text may follow.

    to the child    RUN    kind sequence input_area_bytes rows tensors { index offset nbytes rank dims... }
                           rows is 0 for a model without a batch dimension
    from the child  DONE   kind sequence output_area_bytes tensors infer_nanoseconds padded_rows
                           { offset nbytes rank dims... }
                    FAILED, NO_MEMORY, STOPPED     kind sequence, UTF-8 text
    control pair    STOP   kind sequence           (its end of file tells the child that the parent is gone)

Loading happens once, in JSON: `child.Plan` there and `child.Report` or FAILED back.
"""

import struct
from collections.abc import Sequence

RUN, DONE, FAILED, NO_MEMORY, STOPPED, STOP, READY = range(7)

WORD = 8
MAX_TEXT_BYTES = 4096
MAX_PACKET_BYTES = 160 << 10
"""Below the kernel's default socket buffer, which bounds a packet."""


def pack(words: Sequence[int]) -> bytes:
    """Return words as a packet."""
    return struct.pack(f"<{len(words)}q", *words)


def unpack(packet: bytes) -> tuple[int, ...]:
    """Return the words of a packet without text."""
    return struct.unpack(f"<{len(packet) // WORD}q", packet)


def pack_text(kind: int, sequence: int, text: str) -> bytes:
    """Return a packet that carries a text, cut to a sane length."""
    return pack((kind, sequence)) + text.encode("utf-8", "replace")[:MAX_TEXT_BYTES]


def unpack_text(packet: bytes) -> tuple[int, int, str]:
    """Return kind, sequence and text."""
    kind, sequence = unpack(packet[: 2 * WORD])
    return kind, sequence, packet[2 * WORD :].decode("utf-8", "replace")
