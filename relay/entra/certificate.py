"""Read a client certificate and its private key from PEM text, a PEM file or a PFX file.

Imported only if a connection uses one: `cryptography`'s parsers take 30 ms of a cold start.
"""

import re
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    pkcs12,
)

from relay.connections import ClientCertificate
from relay.errors import CredentialRefused

_BLOCK = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----(.*?)-----END \1-----", re.DOTALL)


def load(certificate: ClientCertificate) -> tuple[str, str]:
    """Return the private key and the chain as PEM, the certificate of the key first.

    The file is read again at each call. Raises `CredentialRefused` when the key or its certificate
    is missing, or the passphrase is wrong.
    """
    key, chain = _open(certificate)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return pem.decode(), "".join(each.public_bytes(Encoding.PEM).decode() for each in chain)


def expiry(certificate: ClientCertificate) -> datetime:
    """Return when the certificate expires. Raises as `load` does."""
    return _open(certificate)[1][0].not_valid_after_utc


def _open(certificate: ClientCertificate) -> tuple[PrivateKeyTypes, list[x509.Certificate]]:
    password = certificate.password.encode() if certificate.password else None
    try:
        key, chain = _read(certificate, password)
        public = _public(key)
        leaf = next(found for found in chain if _public(found) == public)
    except (OSError, ValueError, TypeError, StopIteration):  # their messages may quote the file
        raise CredentialRefused(
            "certificate_unreadable",
            "ENTRA_CLIENT_CERTIFICATE and its password do not open a private key and a certificate"
            " that belong together.",
        ) from None
    return key, [leaf, *(other for other in chain if other is not leaf)]


def _read(
    certificate: ClientCertificate, password: bytes | None
) -> tuple[PrivateKeyTypes, list[x509.Certificate]]:
    if certificate.path is None:
        return _pem(certificate.source, password)
    content = Path(certificate.path).read_bytes()
    if b"-----BEGIN" in content:
        return _pem(content.decode(), password)
    key, leaf, others = pkcs12.load_key_and_certificates(content, password)
    if key is None:
        raise ValueError("key")
    return key, [each for each in (leaf, *others) if each is not None]


def _pem(text: str, password: bytes | None) -> tuple[PrivateKeyTypes, list[x509.Certificate]]:
    blocks = [(label, _block(label, body)) for label, body in _BLOCK.findall(text)]
    key = next(block for label, block in blocks if label.endswith("PRIVATE KEY"))
    chain = [
        x509.load_pem_x509_certificate(block) for label, block in blocks if label == "CERTIFICATE"
    ]
    return load_pem_private_key(key, password), chain


def _block(label: str, body: str) -> bytes:
    """Return a PEM block with its line breaks, which an app setting in one line does not have."""
    if ":" not in body:  # headers of a key in the older encrypted format (RFC 1421)
        body = "\n".join(["", *body.replace("\\n", " ").split(), ""])
    return f"-----BEGIN {label}-----{body}-----END {label}-----\n".encode()


def _public(holder: PrivateKeyTypes | x509.Certificate) -> bytes:
    key = holder.public_key()
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
