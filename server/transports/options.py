"""Addresses: how they are written, taken, and why one could not be had."""

import errno
import socket


def address(host: str, port: int) -> str:
    """Write host and port as the core wants them: IPv6 in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def reserve(host: str, port: int) -> socket.socket:
    """Take a port (0 for any free one) for processes of ours that will share it, without listening on it.

    A port that others share already is refused: two servers on one port would each get some of the calls.

    Raises:
        OSError: the address cannot be had.
    """
    where = address(host, port)
    try:
        family, kind, protocol, _, sockaddr = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(sockaddr)
            probe.listen(1)
        held = socket.socket(family, kind, protocol)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind(sockaddr)
    except OSError as error:
        raise OSError(error.errno, f"cannot listen on {where}: {error.strerror}") from error
    return held


def bind_error(host: str, port: int, *, tls: bool, shared: bool = False) -> OSError:
    """Find out why the core, which only says no, could not open a port.

    Returns:
        An OSError with the operating system's own number and reason where it refuses the address as well.
    """
    where = address(host, port)
    try:
        family, kind, protocol, _, sockaddr = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(shared))
            probe.bind(sockaddr)
            probe.listen(1)
    except OSError as error:
        return OSError(error.errno, f"cannot listen on {where}: {error.strerror}")
    if tls:
        return OSError(errno.EINVAL, f"cannot listen on {where}: gRPC refused the TLS certificate, key or client CA")
    return OSError(errno.EADDRNOTAVAIL, f"cannot listen on {where}: gRPC refused the address")
