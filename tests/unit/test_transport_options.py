import errno
import socket

import pytest

from server.transports.aio_options import channel_arguments, finite
from server.transports.base import TransportOptions
from server.transports.options import address, bind_error


def test_limits_and_lifetimes_reach_the_core_in_its_own_units():
    options = TransportOptions(max_receive_bytes=1, max_metadata_bytes=2, keepalive_time=1.5, reuse_port=True)
    arguments = dict(channel_arguments(options))

    assert arguments["grpc.max_receive_message_length"] == 1
    assert arguments["grpc.max_metadata_size"] == arguments["grpc.absolute_max_metadata_size"] == 2
    assert arguments["grpc.keepalive_time_ms"] == 1500
    assert arguments["grpc.so_reuseport"] == 1
    assert "grpc.max_connection_age_ms" not in arguments


def test_a_connections_age_is_limited_only_when_asked_for():
    arguments = dict(channel_arguments(TransportOptions(max_connection_age=300, max_connection_age_grace=1e12)))

    assert arguments["grpc.max_connection_age_ms"] == 300_000
    assert arguments["grpc.max_connection_age_grace_ms"] == 2**31 - 1


@pytest.mark.parametrize(("host", "expected"), [("127.0.0.1", "127.0.0.1:80"), ("::1", "[::1]:80")])
def test_addresses_are_written_as_the_core_wants_them(host, expected):
    assert address(host, 80) == expected


@pytest.mark.parametrize(("seconds", "expected"), [(None, None), (9.2e9, None), (-1.0, 0.0), (2.5, 2.5)])
def test_no_deadline_is_none_and_a_missed_one_zero(seconds, expected):
    assert finite(seconds) == expected


def test_a_refused_port_says_what_the_system_says():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        error = bind_error("127.0.0.1", port, tls=False)

    assert error.errno == errno.EADDRINUSE
    assert str(port) in str(error)
    assert "Address already in use" in str(error)


def test_a_host_that_is_not_there_is_named():
    assert "cannot listen on host.invalid:1" in str(bind_error("host.invalid", 1, tls=False))
    assert "cannot listen on 192.0.2.1:1" in str(bind_error("192.0.2.1", 0, tls=False)).replace(":0", ":1")


@pytest.mark.parametrize(("tls", "reason"), [(True, "TLS certificate"), (False, "refused the address")])
def test_when_the_system_sees_no_fault_the_core_gets_the_blame(tls, reason):
    assert reason in str(bind_error("127.0.0.1", 0, tls=tls))
