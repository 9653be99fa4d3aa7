"""A certificate authority of one's own, so that the sandbox speaks real TLS on loopback."""

import ssl
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Self

import trustme

NAMES = ("localhost", "127.0.0.1", "::1")


class Authority:
    """A fresh CA and one certificate for this machine's loopback names.

    Nothing is installed anywhere: only who is given `bundle` or `client_context()` trusts it.
    The files live in a temporary folder until `close()`.
    """

    bundle: Path
    """PEM file of the CA's certificate: what a client has to trust (`CA_BUNDLE`)."""

    def __init__(self) -> None:
        self._ca = trustme.CA(organization_name="OAuth callback relay sandbox")
        self._certificate = self._ca.issue_cert(*NAMES)
        self._folder = TemporaryDirectory(prefix="sandbox-tls-")
        self.bundle = Path(self._folder.name, "ca.pem")
        self._ca.cert_pem.write_to_path(self.bundle)

    def server_context(self) -> ssl.SSLContext:
        """TLS for a server in this process."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._certificate.configure_cert(context)
        return context

    def client_context(self) -> ssl.SSLContext:
        """TLS for a client that trusts this CA and no other, whatever `SSL_CERT_FILE` says."""
        return ssl.create_default_context(cafile=self.bundle)

    def server_files(self) -> tuple[Path, Path]:
        """PEM files for a server in another process: its certificate chain, and its key."""
        chain = Path(self._folder.name, "server.pem")
        key = Path(self._folder.name, "server-key.pem")
        chain.write_bytes(b"".join(blob.bytes() for blob in self._certificate.cert_chain_pems))
        self._certificate.private_key_pem.write_to_path(key)
        return chain, key

    def close(self) -> None:
        """Remove the files."""
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
