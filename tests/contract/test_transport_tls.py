"""What every transport promises (server/transports/base.py) about TLS, with certificates made for the occasion."""

import socket
import ssl
from dataclasses import replace

import grpc
import pytest

from server.transports.base import Fast, TlsFiles
from tests.certificates import Authority
from tests.transports import DEFAULTS, EVERY_KIND, echo, end_of, serving

pytestmark = EVERY_KIND
METHODS = {"/t.S/Echo": Fast(echo)}


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture(scope="module")
def strangers(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("tls") / "strangers")


@pytest.fixture(scope="module")
def server_pair(ours):
    return ours.issue("server")


def with_tls(pair, client_ca=None):
    return replace(DEFAULTS, tls=TlsFiles(*pair, client_ca))


def secure(server, authority, pair=(None, None)):
    certificate, key = pair
    credentials = grpc.ssl_channel_credentials(authority.certificate, key, certificate)
    return grpc.aio.secure_channel(server.target, credentials, [("grpc.use_local_subchannel_pool", 1)])


async def test_a_client_that_trusts_the_authority_is_served(kind, ours, server_pair):
    async with serving(kind, METHODS, with_tls(server_pair)) as server, secure(server, ours) as c:
        assert await c.unary_unary("/t.S/Echo")(b"secret") == b"secret"


async def test_plain_text_and_strange_authorities_are_turned_away_and_others_served_on(
    kind, ours, strangers, server_pair
):
    async with serving(kind, METHODS, with_tls(server_pair)) as server, secure(server, ours) as trusting:
        async with server.channel() as plain, secure(server, strangers) as distrusting:
            for channel in (plain, distrusting):
                end = await end_of(channel.unary_unary("/t.S/Echo")(b"", timeout=5))
                assert end.code is grpc.StatusCode.UNAVAILABLE
        assert await trusting.unary_unary("/t.S/Echo")(b"x") == b"x"


async def test_with_a_client_authority_only_its_certificates_are_let_in(kind, ours, strangers, server_pair):
    mutual = with_tls(server_pair, ours.certificate)
    async with serving(kind, METHODS, mutual) as server:
        async with secure(server, ours, ours.issue("client")) as known:
            assert await known.unary_unary("/t.S/Echo")(b"x") == b"x"
        for pair in ((None, None), strangers.issue("client")):
            async with secure(server, ours, pair) as unknown:
                end = await end_of(unknown.unary_unary("/t.S/Echo")(b"", timeout=5))
                assert end.code is grpc.StatusCode.UNAVAILABLE


async def test_tls_older_than_1_2_is_refused(kind, server_pair):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with pytest.warns(DeprecationWarning, match="TLSv1_1 is deprecated"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    async with serving(kind, METHODS, with_tls(server_pair)) as server:
        with pytest.raises(ssl.SSLError), socket.create_connection(("127.0.0.1", server.port), timeout=5) as plain:
            context.wrap_socket(plain)


async def test_a_key_that_is_none_says_what_is_wrong(kind, server_pair):
    transport = kind(METHODS, with_tls((server_pair[0], b"not a key")))

    with pytest.raises(OSError, match="refused the TLS certificate, key or client CA"):
        await transport.start("127.0.0.1", 0)
