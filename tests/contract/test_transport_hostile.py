"""What every transport survives: bytes that no gRPC client sends, while an honest caller notices nothing."""

import asyncio
import socket
import time
import zlib
from contextlib import asynccontextmanager
from dataclasses import replace

import h2.errors
import h2.events
import h2.settings
import psutil
import pytest

from server.transports.base import Fast
from tests.transports import DEFAULTS, EVERY_KIND, WAIT, Raw, echo, end_of, eventually, frame, serving

pytestmark = EVERY_KIND
ECHO = "/t.S/Echo"
OK, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, UNIMPLEMENTED, INTERNAL = "0", "4", "8", "12", "13"


@asynccontextmanager
async def attacked(kind, options=DEFAULTS, handler=echo):
    """Serve, with an honest caller who calls all the time and is never disappointed."""
    ends = []

    async def call_on_and_on(channel):
        while True:
            ends.append(await end_of(channel.unary_unary(ECHO)(b"honest", timeout=WAIT)))

    async with serving(kind, {ECHO: Fast(handler)}, options) as server, server.channel() as c:
        caller = asyncio.create_task(call_on_and_on(c))
        try:
            yield server
            enough = len(ends) + 10
            await eventually(lambda: len(ends) > enough, "the honest caller to be served on")
        finally:
            caller.cancel()
            await asyncio.wait([caller])
    assert {end.code.name for end in ends} == {"OK"}


def ask(port, body, headers=()):
    """Send one call's body as it is; return its trailers and those of an honest call on the same connection."""
    with Raw(port) as raw:
        stream = raw.call(ECHO, body, headers)
        return raw.trailers(stream), raw.trailers(raw.call(ECHO, frame(b"same connection")))


@pytest.mark.parametrize(
    ("body", "statuses"),
    [
        (b"", {UNIMPLEMENTED}),
        (frame(b"one") + frame(b"two"), {OK}),
        (frame(b""), {OK}),
        (frame(b"not compressed", flags=1), {OK, INTERNAL}),  # grpcio 1.84 takes it as it is, 1.85 does not
        (frame(b"flag", flags=2), {OK}),
    ],
    ids=["none", "two", "empty", "said-to-be-compressed", "unknown-flag"],
)
async def test_an_odd_body_ends_its_own_call_only(kind, body, statuses):
    async with attacked(kind) as server:
        odd, honest = await asyncio.to_thread(ask, server.port, body)

    assert odd.get("grpc-status") in statuses
    assert honest["grpc-status"] == OK


async def test_two_messages_on_a_unary_call_are_handled_once(kind):
    seen = []

    def handler(call, message):
        seen.append(message)
        call.reply(message)

    async with serving(kind, {ECHO: Fast(handler)}) as server:
        await asyncio.to_thread(ask, server.port, frame(b"one") + frame(b"two"))

    assert seen == [b"one", b"same connection"]


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_a_compression_bomb_is_refused_without_being_held(kind, encoding):
    def bomb(port):
        packer = zlib.compressobj(wbits=31 if encoding == "gzip" else 15)
        packed = b"".join(packer.compress(bytes(1 << 20)) for _ in range(56)) + packer.flush()
        return ask(port, frame(packed, flags=1), [("grpc-encoding", encoding)])

    async with attacked(kind, replace(DEFAULTS, max_receive_bytes=1 << 20)) as server:
        before = psutil.Process().memory_info().rss
        odd, honest = await asyncio.to_thread(bomb, server.port)
        grown = psutil.Process().memory_info().rss - before

    assert odd["grpc-status"] == RESOURCE_EXHAUSTED
    assert honest["grpc-status"] == OK
    assert grown < 17 << 20


async def test_an_unknown_compression_ends_its_own_call_only(kind):
    async with attacked(kind) as server:
        odd, _ = await asyncio.to_thread(ask, server.port, frame(b"x", flags=1), [("grpc-encoding", "br")])

    assert odd["grpc-status"] in {INTERNAL, UNIMPLEMENTED}  # the core says the first, gRPC's specification the second


@pytest.mark.parametrize(
    ("allowance", "statuses"),
    [
        ("0n", {DEADLINE_EXCEEDED, OK}),  # an echo may be faster than the core's timer
        ("99999999H", {OK}),
        ("abc", {INTERNAL}),
        ("-1S", {INTERNAL}),
    ],
)
async def test_an_odd_timeout_ends_its_own_call_only(kind, allowance, statuses):
    async with attacked(kind) as server:
        odd, honest = await asyncio.to_thread(ask, server.port, frame(b"x"), [("grpc-timeout", allowance)])

    assert odd["grpc-status"] in statuses
    assert honest["grpc-status"] == OK


async def test_a_message_that_never_comes_is_held_until_its_deadline(kind):
    def promise(port):
        with Raw(port) as raw:
            stream = raw.open(ECHO, [("grpc-timeout", "200m")])
            raw.http2.send_data(stream, frame(bytes(1000))[:6])
            raw.flush()
            return raw.trailers(stream)

    async with attacked(kind) as server:
        end = await asyncio.to_thread(promise, server.port)

    assert end.get("grpc-status") == DEADLINE_EXCEEDED or end.get("rst") == str(int(h2.errors.ErrorCodes.CANCEL))


async def test_calls_of_which_only_the_headers_came_hold_nobody_up(kind):
    def open_many(port, connections):
        for raw in connections:
            for _ in range(250):
                raw.open(ECHO)
            raw.flush()
        with Raw(port) as other:
            return other.trailers(other.call(ECHO, frame(b"x")))["grpc-status"]

    async with attacked(kind) as server:
        connections = [Raw(server.port) for _ in range(4)]
        try:
            assert await asyncio.to_thread(open_many, server.port, connections) == OK
        finally:
            for raw in connections:
                raw.close()


async def test_the_number_of_streams_is_advertised(kind):
    def settings(port):
        with Raw(port) as raw:
            raw.receive(lambda events: any(isinstance(e, h2.events.RemoteSettingsChanged) for e in events))
            return raw.http2.remote_settings.max_concurrent_streams

    async with serving(kind, {}, replace(DEFAULTS, max_concurrent_streams=7)) as server:
        assert await asyncio.to_thread(settings, server.port) == 7


async def test_rapid_resets_leave_others_alone(kind):
    def reset(port):
        with Raw(port) as raw:
            for _ in range(4000):
                raw.http2.reset_stream(raw.open(ECHO), h2.errors.ErrorCodes.CANCEL)
            try:
                raw.flush()
                raw.trailers(raw.call(ECHO, frame(b"x")))
            except OSError:  # the server may well have had enough
                return

    async with attacked(kind, replace(DEFAULTS, max_concurrent_streams=100)) as server:
        await asyncio.to_thread(reset, server.port)


async def test_pings_without_end_are_cut_off(kind):
    def ping(port):
        with Raw(port) as raw:
            for number in range(10):
                raw.http2.ping(number.to_bytes(8, "big"))
            raw.flush()
            raw.receive(lambda events: any(isinstance(e, h2.events.ConnectionTerminated) for e in events), answer=False)
            return raw.events[-1].error_code

    async with attacked(kind) as server:
        assert await asyncio.to_thread(ping, server.port) == h2.errors.ErrorCodes.ENHANCE_YOUR_CALM


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
        b"\xff" * 2000,
    ],
    ids=["http1", "tls", "noise"],
)
async def test_a_connection_that_is_not_http2_is_closed(kind, garbage):
    def send(port):
        with socket.create_connection(("127.0.0.1", port), timeout=WAIT) as plain:
            plain.sendall(garbage)
            try:
                while plain.recv(4096):
                    pass
            except ConnectionResetError:
                return True
            return True

    async with attacked(kind) as server:
        assert await asyncio.to_thread(send, server.port)


async def test_a_silent_connection_is_closed(kind):
    def wait(port):
        with socket.create_connection(("127.0.0.1", port), timeout=WAIT) as silent:
            began = time.monotonic()
            while silent.recv(4096):
                pass
            return time.monotonic() - began

    async with attacked(kind, replace(DEFAULTS, handshake_timeout=0.3)) as server:
        assert 0.2 < await asyncio.to_thread(wait, server.port) < 5
