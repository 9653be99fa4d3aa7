"""A certificate authority for TLS on loopback, and certificates for client assertions."""

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple, Self

import trustme
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    pkcs12,
)
from cryptography.x509 import (
    Certificate,
    CertificateBuilder,
    Name,
    NameAttribute,
    random_serial_number,
)
from cryptography.x509.oid import NameOID

NAMES = ("localhost", "127.0.0.1", "::1")


class Authority:
    """A fresh CA and one certificate for this machine's loopback names, and for `further` ones.

    It is not installed in any trust store: pass `bundle` or `client_context()` to a client.
    The files are in a temporary folder until `close()`.
    """

    bundle: Path
    """PEM file of the CA's certificate, for `CA_BUNDLE`."""

    def __init__(self, *further: str) -> None:
        self._ca = trustme.CA(organization_name="OAuth callback relay sandbox")
        self._certificate = self._ca.issue_cert(*NAMES, *further)
        self._folder = TemporaryDirectory(prefix="sandbox-tls-")
        self.bundle = Path(self._folder.name, "ca.pem")
        self._ca.cert_pem.write_to_path(self.bundle)

    def server_context(self) -> ssl.SSLContext:
        """Return the TLS context of a server in this process."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._certificate.configure_cert(context)
        return context

    def client_context(self) -> ssl.SSLContext:
        """Return a TLS context that trusts only this CA, whatever `SSL_CERT_FILE` says."""
        return ssl.create_default_context(cafile=self.bundle)

    def server_files(self) -> tuple[Path, Path]:
        """Write PEM files for a server in another process; return the paths of chain and key."""
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

    def __exit__(self, *_: object) -> None:
        self.close()


class ClientCertificate(NamedTuple):
    """The files of a client's self-signed certificate and its private key."""

    key: Path
    """PEM file of the private key (PKCS #8), encrypted if there is a password."""
    certificate: Path
    """PEM file of the certificate, which is registered at Entra or AD FS."""
    pfx: Path
    """PKCS #12 file of both, encrypted if there is a password."""
    x509: Certificate


def client_certificate(
    directory: Path, *, common_name: str, password: str | None = None, days: int = 365
) -> ClientCertificate:
    """Write a new certificate for signing client assertions, valid for `days` from now.

    Self-signed, which Entra and AD FS accept. With negative `days` it expired that long ago. The
    names of the files begin with `common_name`.
    """
    key = generate_private_key(public_exponent=65537, key_size=2048)
    certificate = _self_signed(key, common_name, timedelta(days=days))
    encryption: KeySerializationEncryption = (
        BestAvailableEncryption(password.encode()) if password else NoEncryption()
    )
    made = ClientCertificate(
        key=directory / f"{common_name}-key.pem",
        certificate=directory / f"{common_name}.pem",
        pfx=directory / f"{common_name}.pfx",
        x509=certificate,
    )
    made.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    made.certificate.write_bytes(certificate.public_bytes(Encoding.PEM))
    name = common_name.encode()
    made.pfx.write_bytes(
        pkcs12.serialize_key_and_certificates(name, key, certificate, None, encryption)
    )
    return made


def _self_signed(key: RSAPrivateKey, common_name: str, life: timedelta) -> Certificate:
    now = datetime.now(UTC)
    name = Name([NameAttribute(NameOID.COMMON_NAME, common_name)])
    return (
        CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(random_serial_number())
        .not_valid_before(min(now, now + life) - timedelta(days=1))
        .not_valid_after(now + life)
        .sign(key, SHA256())
    )
