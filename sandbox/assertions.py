"""Client assertions (RFC 7523): JWTs by which a client authenticates without a secret.

This module parses them and verifies signatures. The further checks and their errors differ between
Entra and AD FS.
"""

import json
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Collection, Iterable
from datetime import UTC, datetime
from typing import Any, Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import KeySet, RSAKey

TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
"""The only `client_assertion_type` that Entra and AD FS know (RFC 7523, section 2.2)."""
SKEW = 300
"""Seconds of clock skew between client and server that are tolerated."""

# TypeError: joserfc's, for header parameters of the wrong type.
_UNREADABLE = (JoseError, TypeError, ValueError)
_TIMES = ("exp", "iat", "nbf")
_END_OF_TIME = datetime(9999, 1, 1, tzinfo=UTC).timestamp()

Certificate = x509.Certificate | bytes
"""A certificate, or its PEM or DER."""


class MalformedError(ValueError):
    """This is no JWT at all."""


class Assertion:
    """A parsed JWT of a client. It is unverified until `is_signed_by` returns true."""

    def __init__(self, raw: str, header: dict[str, Any], claims: dict[str, Any]) -> None:
        self._raw = raw
        self.header = header
        self.claims = claims

    @classmethod
    def read(cls, raw: str) -> Self:
        """Parse a JWT. Raises `MalformedError`."""
        try:
            compact = jws.extract_compact(raw.encode(), registry=_Registry())
            claims = json.loads(compact.payload)
        except _UNREADABLE as error:
            raise MalformedError from error
        if not isinstance(claims, dict) or "exp" not in claims:
            raise MalformedError
        if not all(_is_time(claims[name]) for name in _TIMES if name in claims):
            raise MalformedError
        return cls(raw, compact.headers(), claims)

    def text(self, claim: str) -> str:
        """Return a claim as error texts quote it; empty when it is missing."""
        return _printable(self.claims.get(claim, ""))

    @property
    def algorithm(self) -> str:
        """The algorithm in the header, as error texts quote it."""
        return _printable(self.header.get("alg", ""))

    @property
    def start(self) -> float:
        """When it becomes valid, in seconds since 1970."""
        return float(self.claims.get("nbf", self.claims.get("iat", 0)))

    @property
    def end(self) -> float:
        """When it expires, in seconds since 1970."""
        return float(self.claims["exp"])

    @property
    def is_timely(self) -> bool:
        """RFC 7523, section 3, points 4 and 5."""
        now = time.time()
        return float(self.claims.get("nbf", 0)) - SKEW <= now <= self.end + SKEW

    def certificate(
        self, registered: Iterable[Certificate], names: Collection[str] = ("x5t#S256", "x5t")
    ) -> x509.Certificate | None:
        """Return the registered certificate that the header names by a thumbprint.

        `names` are the header parameters that may name it (RFC 7515, sections 4.1.7 and 4.1.8).
        """
        for certificate in map(load, registered):
            own = {"x5t#S256": thumbprint(certificate, SHA256()), "x5t": sha1(certificate)}
            if any(self._named(name) == own[name] for name in names):
                return certificate
        return None

    @property
    def thumbprint(self) -> str:
        """The thumbprint in the header, in hexadecimal digits; empty when there is none."""
        sent = self._named("x5t#S256") or self._named("x5t")
        try:
            return urlsafe_b64decode(sent + "==").hex().upper()
        except ValueError:
            return _printable(sent)

    def _named(self, name: str) -> str:
        value = self.header.get(name)
        return value.rstrip("=") if isinstance(value, str) else ""

    def is_signed_by(self, certificate: x509.Certificate, algorithms: Collection[str]) -> bool:
        """Tell whether the certificate's key made the signature, by one of the algorithms."""
        public = certificate.public_key()
        if not isinstance(public, RSAPublicKey):
            return False
        pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return self._verifies(RSAKey.import_key(pem), algorithms)

    def is_signed_among(self, keys: KeySet, algorithms: Collection[str]) -> bool:
        """Tell whether one of the keys made the signature."""
        return self._verifies(keys, algorithms)

    def _verifies(self, key: RSAKey | KeySet, algorithms: Collection[str]) -> bool:
        try:
            jws.deserialize_compact(self._raw, key, registry=_Registry(algorithms=algorithms))
        except _UNREADABLE:
            return False
        return True


def load(certificate: Certificate) -> x509.Certificate:
    """Return the parsed certificate. Raises `ValueError` if it is none."""
    if isinstance(certificate, x509.Certificate):
        return certificate
    if certificate.lstrip().startswith(b"-----"):
        return x509.load_pem_x509_certificate(certificate)
    return x509.load_der_x509_certificate(certificate)


def thumbprint(certificate: x509.Certificate, algorithm: SHA1 | SHA256) -> str:
    """Return the hash of the certificate as JWTs carry it (base64url without padding)."""
    return urlsafe_b64encode(certificate.fingerprint(algorithm)).rstrip(b"=").decode()


def sha1(certificate: x509.Certificate) -> str:
    """Return the thumbprint of `x5t`. It only identifies a certificate."""
    return thumbprint(certificate, SHA1())  # noqa: S303 - RFC 7515, section 4.1.7, knows no other


def is_current(certificate: x509.Certificate) -> bool:
    """Tell whether now is within the certificate's validity."""
    now = datetime.now(UTC)
    return certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc


def _printable(value: object) -> str:
    """Return a text with lone surrogates escaped: JSON can have them, UTF-8 cannot."""
    return str(value).encode(errors="backslashreplace").decode()


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and 0 <= value < _END_OF_TIME


class _Registry(jws.JWSRegistry):
    """joserfc's, for headers that carry a chain of certificates in `x5c`."""

    max_header_length = 32 * 1024
