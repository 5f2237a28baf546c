"""What every transport promises (server/transports/base.py) about limits: sizes, compression, ports, connections."""

import asyncio
import socket
from dataclasses import replace

import grpc
import grpc.aio
import pytest

from server.transports.base import Fast, TransportOptions
from tests.transports import DEFAULTS, EVERY_KIND, echo, end_of, serving, within_reason

pytestmark = EVERY_KIND

SMALL = replace(DEFAULTS, max_receive_bytes=1000, max_send_bytes=2000)


async def test_messages_are_taken_up_to_the_limit(kind):
    async with serving(kind, {"/t.S/M": Fast(echo)}, SMALL) as server, server.channel() as c:
        assert await c.unary_unary("/t.S/M")(bytes(1000)) == bytes(1000)
        assert (await end_of(c.unary_unary("/t.S/M")(bytes(1001)))).code is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_messages_are_sent_up_to_the_limit(kind):
    method = Fast(lambda call, message: call.reply(bytes(int(message))))
    async with serving(kind, {"/t.S/M": method}, SMALL) as server, server.channel() as c:
        assert await c.unary_unary("/t.S/M")(b"2000") == bytes(2000)
        assert (await end_of(c.unary_unary("/t.S/M")(b"2001"))).code is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_metadata_has_one_limit_and_no_lottery_around_it(kind):
    options = replace(DEFAULTS, max_metadata_bytes=4096)
    async with serving(kind, {"/t.S/M": Fast(echo)}, options) as server, server.channel() as c:
        for _ in range(4):
            assert await c.unary_unary("/t.S/M")(b"", metadata=(("x", "y" * 3000),)) == b""
            end = await end_of(c.unary_unary("/t.S/M")(b"", metadata=(("x", "y" * 4096),)))
            assert end.code is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_16_mb_message_goes_through_unchanged(kind):
    big = bytes(range(256)) * (16 << 12)
    unlimited = ("grpc.max_receive_message_length", -1)
    async with serving(kind, {"/t.S/M": Fast(echo)}) as server, server.channel(unlimited) as c:
        assert await c.unary_unary("/t.S/M")(big) == big


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_compressed_messages_are_understood(kind, compression):
    async with serving(kind, {"/t.S/M": Fast(echo)}) as server, server.channel() as c:
        assert await c.unary_unary("/t.S/M")(b"again " * 1000, compression=compression) == b"again " * 1000


async def test_a_port_in_use_is_an_os_error_that_says_so(kind):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        transport = kind({}, DEFAULTS)
        with pytest.raises(OSError, match=rf"cannot listen on 127\.0\.0\.1:{port}: Address already in use"):
            await transport.start("127.0.0.1", port)
    await transport.close()


async def test_two_servers_share_a_port_when_told_to(kind):
    shared = TransportOptions(reuse_port=True)
    async with serving(kind, {}, shared) as server:
        twin = kind({}, shared)
        assert await twin.start("127.0.0.1", server.port) == server.port
        await twin.close()


async def test_many_connections_are_served_and_no_more_than_allowed(kind):
    async with serving(kind, {"/t.S/M": Fast(echo)}, replace(DEFAULTS, max_connections=50)) as server:
        channels = [server.channel() for _ in range(50)]
        answers = await within_reason(asyncio.gather(*(c.unary_unary("/t.S/M")(b"x") for c in channels)))
        async with server.channel() as one_too_many:
            end = await end_of(one_too_many.unary_unary("/t.S/M")(b"x", timeout=5))
        await asyncio.gather(*(c.close() for c in channels))

    assert answers == [b"x"] * 50
    assert end.code is grpc.StatusCode.UNAVAILABLE
