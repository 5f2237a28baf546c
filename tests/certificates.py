"""Certificates made for the occasion."""

import subprocess
from pathlib import Path


class Authority:
    """A certificate authority in a folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self._openssl("req", "-x509", *self._key("ca"), "-subj", "/CN=test authority", "-out", "ca.pem")
        self.certificate = (folder / "ca.pem").read_bytes()

    def issue(self, name: str) -> tuple[bytes, bytes]:
        """Return certificate and key for localhost."""
        self._openssl("req", *self._key(name), "-subj", f"/CN={name}", "-out", f"{name}.csr")
        (self._folder / "san").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
        ca = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial")
        self._openssl("x509", "-req", "-in", f"{name}.csr", *ca, "-extfile", "san", "-out", f"{name}.pem")
        return (self._folder / f"{name}.pem").read_bytes(), (self._folder / f"{name}.key").read_bytes()

    def _key(self, name: str) -> tuple[str, ...]:
        return "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", f"{name}.key"

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self._folder, check=True, capture_output=True)
