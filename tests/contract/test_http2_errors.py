"""What ends a connection, and with which error code (RFC 9113, 5.4.1); the cases are those of h2spec, and some more."""

import hpack
import pytest
from h2.errors import ErrorCodes

from tests.http2.frames import (
    ACK,
    CONTINUATION,
    DATA,
    ENABLE_PUSH,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    HOLD,
    INITIAL_WINDOW,
    MAX_FRAME,
    NONE,
    PADDED,
    PING,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    WITH_PRIORITY,
    data,
    raw,
    request,
    reset,
    setting,
    update,
)
from tests.http2.host import wait_for
from tests.transports import frame

PROTOCOL, FLOW, FRAME_SIZE = ErrorCodes.PROTOCOL_ERROR, ErrorCodes.FLOW_CONTROL_ERROR, ErrorCodes.FRAME_SIZE_ERROR
CLOSED, COMPRESSION = ErrorCodes.STREAM_CLOSED, ErrorCodes.COMPRESSION_ERROR
HELD = 1
"""The stream of a call that is running while the error comes."""
BLOCK = hpack.Encoder().encode(request())


def headers(stream, flags=END_HEADERS | END_STREAM, before=b"", after=b""):
    return raw(HEADERS, flags, stream, before + BLOCK + after)


CASES = {
    # SETTINGS, 6.5
    "settings-ack-with-payload": (FRAME_SIZE, raw(SETTINGS, ACK, 0, bytes(6))),
    "settings-of-5-bytes": (FRAME_SIZE, raw(SETTINGS, NONE, 0, bytes(5))),
    "settings-of-7-bytes": (FRAME_SIZE, raw(SETTINGS, NONE, 0, bytes(7))),
    "settings-on-a-stream": (PROTOCOL, raw(SETTINGS, NONE, HELD)),
    "settings-enable-push-2": (PROTOCOL, setting((ENABLE_PUSH, 2))),
    "settings-window-2-31": (FLOW, setting((INITIAL_WINDOW, 1 << 31))),
    "settings-frame-size-16383": (PROTOCOL, setting((MAX_FRAME, 16383))),
    "settings-frame-size-2-24": (PROTOCOL, setting((MAX_FRAME, 1 << 24))),
    "settings-window-overflows-a-stream": (FLOW, update(HELD, 1 << 30) + setting((INITIAL_WINDOW, (1 << 31) - 1))),
    # PING, 6.7
    "ping-of-7-bytes": (FRAME_SIZE, raw(PING, NONE, 0, bytes(7))),
    "ping-of-9-bytes": (FRAME_SIZE, raw(PING, NONE, 0, bytes(9))),
    "ping-of-none": (FRAME_SIZE, raw(PING, ACK, 0)),
    "ping-on-a-stream": (PROTOCOL, raw(PING, NONE, HELD, bytes(8))),
    # GOAWAY, 6.8
    "goaway-on-a-stream": (PROTOCOL, raw(GOAWAY, NONE, HELD, bytes(8))),
    "goaway-of-7-bytes": (FRAME_SIZE, raw(GOAWAY, NONE, 0, bytes(7))),
    # WINDOW_UPDATE, 6.9
    "window-update-by-0": (PROTOCOL, update(0, 0)),
    "window-update-by-0-and-the-reserved-bit": (PROTOCOL, update(0, 1 << 31)),
    "window-update-overflow": (FLOW, update(0, (1 << 31) - 1)),
    "window-update-overflow-by-two": (FLOW, update(0, 1 << 30) + update(0, 1 << 30)),
    "window-update-of-3-bytes": (FRAME_SIZE, raw(WINDOW_UPDATE, NONE, 0, bytes(3))),
    "window-update-of-5-bytes": (FRAME_SIZE, raw(WINDOW_UPDATE, NONE, HELD, b"\0\0\0\1\0")),
    "window-update-on-an-idle-stream": (PROTOCOL, update(99, 1)),
    # DATA, 6.1
    "data-on-stream-0": (PROTOCOL, raw(DATA, NONE, 0, b"x")),
    "data-on-an-idle-stream": (PROTOCOL, raw(DATA, NONE, 99, b"x")),
    "data-on-an-even-stream": (PROTOCOL, raw(DATA, NONE, 2, b"x")),
    # HEADERS, 6.2
    "headers-on-stream-0": (PROTOCOL, headers(0)),
    "headers-on-an-even-stream": (PROTOCOL, headers(2)),
    "headers-padded-beyond-their-end": (PROTOCOL, headers(99, 0xD, bytes([len(BLOCK) + 1]))),
    "headers-padded-without-a-length": ({PROTOCOL, FRAME_SIZE}, raw(HEADERS, END_HEADERS | PADDED, 99)),
    "headers-with-half-a-priority": ({PROTOCOL, FRAME_SIZE}, raw(HEADERS, END_HEADERS | WITH_PRIORITY, 99, bytes(4))),
    # RST_STREAM, 6.4; PRIORITY, 6.3; PUSH_PROMISE, 8.4
    "reset-of-stream-0": (PROTOCOL, reset(0)),
    "reset-of-an-idle-stream": (PROTOCOL, reset(99)),
    "reset-of-an-even-stream": (PROTOCOL, reset(2)),
    "reset-of-3-bytes": (FRAME_SIZE, raw(RST_STREAM, NONE, HELD, bytes(3))),
    "reset-of-5-bytes": (FRAME_SIZE, raw(RST_STREAM, NONE, HELD, bytes(5))),
    "priority-of-stream-0": (PROTOCOL, raw(PRIORITY, NONE, 0, bytes(5))),
    "priority-of-2-bytes-of-an-idle-stream": (FRAME_SIZE, raw(PRIORITY, NONE, 99, bytes(2))),
    "push-promise": (PROTOCOL, raw(PUSH_PROMISE, END_HEADERS, HELD, b"\0\0\0\2" + BLOCK)),
    "push-promise-on-stream-0": (PROTOCOL, raw(PUSH_PROMISE, END_HEADERS, 0, b"\0\0\0\2" + BLOCK)),
    # CONTINUATION, 6.10, and what may not stand inside a header block, 4.3
    "continuation-of-nothing": (PROTOCOL, raw(CONTINUATION, END_HEADERS, HELD, BLOCK)),
    "continuation-on-stream-0": (PROTOCOL, headers(99, END_STREAM) + raw(CONTINUATION, END_HEADERS, 0)),
    "continuation-alone-on-stream-0": (PROTOCOL, raw(CONTINUATION, END_HEADERS, 0)),
    "continuation-of-another-stream": (PROTOCOL, headers(99, END_STREAM) + raw(CONTINUATION, END_HEADERS, 101)),
    "continuation-after-the-blocks-end": (PROTOCOL, headers(99) + raw(CONTINUATION, END_HEADERS, 99)),
    "continuation-after-continuations-end": (
        PROTOCOL,
        headers(99, END_STREAM) + 2 * raw(CONTINUATION, END_HEADERS, 99),
    ),
    "continuation-after-data": (PROTOCOL, headers(99, 4) + raw(DATA, NONE, 99, b"x") + raw(CONTINUATION, 4, 99)),
    "headers-inside-a-block": (PROTOCOL, headers(99, END_STREAM) + headers(101)),
    "headers-of-the-same-stream-inside-a-block": (PROTOCOL, headers(99, END_STREAM) + headers(99)),
    "data-inside-a-block": (PROTOCOL, headers(99, NONE) + raw(DATA, NONE, HELD, b"x")),
    "priority-inside-a-block": (PROTOCOL, headers(99, END_STREAM) + raw(PRIORITY, NONE, HELD, bytes(5))),
    "ping-inside-a-block": (PROTOCOL, headers(99, END_STREAM) + raw(PING, NONE, 0, bytes(8))),
    "settings-inside-a-block": (PROTOCOL, headers(99, END_STREAM) + setting()),
    "an-unknown-frame-inside-a-block": (PROTOCOL, headers(99, END_STREAM) + raw(0xFA, NONE, 0)),
    # frames larger than the server said it takes, 4.2
    "large-headers": (FRAME_SIZE, raw(HEADERS, END_HEADERS, 99, bytes(16385))),
    "large-settings": (FRAME_SIZE, setting(*[(0x4A4A, 1)] * 2731)),
    "large-ping": (FRAME_SIZE, raw(PING, NONE, 0, bytes(16385))),
    "large-continuation": (FRAME_SIZE, headers(99, END_STREAM) + raw(CONTINUATION, NONE, 99, bytes(16385))),
    "large-unknown": (FRAME_SIZE, raw(0xFA, NONE, 0, bytes(16385))),
    "a-length-of-16-mb-of-which-nothing-comes": (FRAME_SIZE, raw(DATA, NONE, HELD, length=(1 << 24) - 1)),
}  # fmt: skip


@pytest.mark.parametrize(("codes", "wrong"), CASES.values(), ids=CASES.keys())
def test_a_wrong_frame_ends_its_connection_and_says_why(peer, host, codes, wrong):
    assert peer.stream() == HELD
    peer.send(peer.headers(HELD, request(HOLD)), data(HELD, frame(b"x"), NONE))
    wait_for(lambda: len(host.held.calls) > len(host.held.gone), "the call to arrive")
    peer.send(wrong)

    assert peer.goaway() in (codes if isinstance(codes, set) else {codes})
    assert peer.gone.last_stream_id in {HELD, 99}
    wait_for(lambda: host.held.gone == host.held.calls, "the running call to be told")
