"""TLS around a connection's bytes: what came from the socket is opened, what goes to it is sealed."""

import ssl
import tempfile
from pathlib import Path

from server.transports.base import TlsFiles

_PIECE = 1 << 16


class TlsFault(Exception):
    """The caller's TLS cannot go on."""


def server_context(tls: TlsFiles) -> ssl.SSLContext:
    """Build a server's context: TLS 1.2 or later, HTTP/2 only; with a client CA every caller must show a certificate.

    Raises:
        ssl.SSLError: the certificate, the key or the client CA is none.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(["h2"])
    # OpenSSL reads pairs from files only, so they are ones that nobody else may read, and for a moment.
    with tempfile.TemporaryDirectory() as folder:
        certificate, key = Path(folder, "certificate"), Path(folder, "key")
        for path, content in ((certificate, tls.certificate), (key, tls.key)):
            path.touch(mode=0o600)
            path.write_bytes(content)
        context.load_cert_chain(certificate, key)
    if tls.client_ca is not None:
        context.load_verify_locations(cadata=tls.client_ca.decode("ascii", errors="replace"))
        context.verify_mode = ssl.CERT_REQUIRED
    return context


class Secure:
    """One connection's TLS."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=True)
        self._ready = False
        self._early: list[bytes] = []

    def opened(self, data: bytes) -> bytes:
        """Take what came and return what it says, if anything; `sealed` may have something to send afterwards.

        Raises:
            TlsFault: this is not TLS, or not as we want it.
        """
        self._in.write(data)
        pieces = []
        try:
            if not self._ready:
                self._shake_hands()
            while piece := self._tls.read(_PIECE):
                pieces.append(piece)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            raise TlsFault(str(error)) from None
        return b"".join(pieces)

    def sealed(self, data: bytes) -> bytes:
        """Return the bytes to send for this, and for what TLS itself has to say; before the handshake it is kept."""
        if self._ready:
            self._tls.write(data) if data else None
        elif data:
            self._early.append(data)
        return self._out.read()

    def _shake_hands(self) -> None:
        self._tls.do_handshake()
        if self._tls.selected_alpn_protocol() != "h2":
            raise TlsFault("expected the caller to choose h2")
        self._ready = True
        for data in self._early:
            self._tls.write(data)
        self._early.clear()
