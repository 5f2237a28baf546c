"""TLS with callers who do not play along; those who do are in test_transport_tls.py."""

import contextlib
import os
import random
import socket
import ssl
from dataclasses import replace

import pytest

from server.transports.base import TlsFiles
from tests.certificates import Authority
from tests.http2.frames import INITIAL_WINDOW, PREFACE, data, request, setting
from tests.http2.host import hosted
from tests.transports import DEFAULTS, frame


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture(scope="module")
def pair(authority):
    return authority.issue("server")


@pytest.fixture(scope="module")
def _tls_host(authority, pair):
    with hosted(replace(DEFAULTS, tls=TlsFiles(*pair), handshake_timeout=0.5), trust=authority.certificate) as host:
        yield host


@pytest.fixture
def tls_host(_tls_host):
    yield _tls_host
    _tls_host.check()


def context(protocols=("h2",)):
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
    if protocols:
        made.set_alpn_protocols(list(protocols))
    return made


def secure(plain):
    return context().wrap_socket(plain)


def hello():
    """Make the first flight of a client's handshake."""
    there, out = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context().wrap_bio(there, out).do_handshake()
    return out.read()


@pytest.mark.parametrize("share", [0, 1, 5, 100, None], ids=["none", "a-byte", "a-head", "half", "all"])
def test_a_handshake_that_stops_is_given_up_and_others_are_served_meanwhile(tls_host, share):
    with tls_host.connect(silent=True) as peer:
        peer.send(hello()[:share])
        with tls_host.busy():
            pass
        while peer.socket.recv(4096):  # the server's part of the handshake, then the end
            pass


def test_silence_after_the_handshake_is_given_up(tls_host):
    with tls_host.connect(silent=True, wrap=secure) as peer:
        assert peer.goaway() is None


@pytest.mark.parametrize(
    "noise",
    [b"\x16\x03\x01\xff\xff", b"\x80" * 100, PREFACE + setting(), bytes(1000), b"\x15\x03\x03\x00\x02\x02\x28"],
    ids=["too-long-a-record", "ssl2", "plain-http2", "zeros", "alert"],
)
def test_noise_instead_of_a_handshake_is_closed(tls_host, noise):
    with tls_host.connect(silent=True) as peer:
        peer.send(noise)
        with contextlib.suppress(ConnectionError):
            while peer.socket.recv(4096):
                pass


def test_noise_behind_the_handshake_is_closed(tls_host):
    with tls_host.connect(wrap=secure) as peer:
        assert peer.alive()
        with socket.socket(fileno=os.dup(peer.socket.fileno())) as plain:
            plain.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
        with contextlib.suppress(ssl.SSLError):
            assert peer.goaway() is None


@pytest.mark.parametrize("protocols", [(), ("http/1.1",)], ids=["none", "http1"])
def test_a_caller_that_does_not_choose_http2_is_turned_away_or_served(tls_host, protocols):
    with tls_host.connect(silent=True) as peer:
        try:
            with context(protocols).wrap_socket(peer.socket.dup()) as other:
                other.sendall(PREFACE + setting())
                assert other.recv(1)[:1] in {b"", b"\0"}
        except (ssl.SSLError, ConnectionError):
            return


def test_a_handshake_may_come_byte_by_byte(tls_host):
    there, out = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context().wrap_bio(there, out)
    with tls_host.connect(silent=True) as peer:
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                for byte in out.read():
                    peer.send(bytes([byte]))
                there.write(peer.socket.recv(4096))
        tls.write(PREFACE + setting() + peer.headers(1, request()) + data(1, frame(b"slowly")))
        for byte in out.read():
            peer.send(bytes([byte]))
        found = b""
        while b"slowly" not in found:
            there.write(peer.socket.recv(4096))
            with contextlib.suppress(ssl.SSLWantReadError):
                while piece := tls.read(4096):
                    found += piece


def test_large_messages_go_both_ways(tls_host):
    message = random.Random(2).randbytes(3 << 20)
    with tls_host.connect((INITIAL_WINDOW, 1 << 30), wrap=secure) as peer:
        stream = peer.stream()
        peer.send(peer.headers(stream, request()), peer.grant(0, 4 << 20))
        peer.upload(stream, frame(message))

        assert peer.answer(stream).message == message


def test_callers_who_never_finish_their_handshake_are_many(tls_host):
    with contextlib.ExitStack() as stack:
        start = hello()
        for _ in range(200):
            stack.enter_context(tls_host.connect(silent=True)).send(start)
        with tls_host.busy():
            pass
