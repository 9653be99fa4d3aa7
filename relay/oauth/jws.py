"""JWS in compact serialization (RFC 7515 §3.1): parse strictly, check times, verify, sign.

HS256 is verified here, other algorithms by PyJWT. Refused before any key is used is what PyJWT
would accept: non-canonical base64, duplicate members, `exp` as a boolean, the `b64` header.
"""

import base64
import hmac
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple, NoReturn

from relay.errors import InvalidResponse

HS256 = "HS256"
"""HMAC with SHA-256 (RFC 7518 §3.2)."""
ED25519 = "Ed25519"
"""EdDSA with the curve Ed25519, under its name of RFC 9864."""
LEEWAY = 60
"""Seconds that the clocks of two machines may be apart, in either direction."""


class Kind(NamedTuple):
    """A kind of token and its limits.

    `name` is the prefix of its reasons in the log. `sentence` is shown for every fault: the next
    step is always the same, and the failed check would only help a forger. `size` is in characters,
    `lifetime` in seconds from now to `exp`; `types` are media types without `application/`;
    `fractions`: whether times may have decimals (RFC 7519 §2 allows it).
    """

    name: str
    sentence: str
    size: int
    lifetime: int
    types: frozenset[str] = frozenset({"jwt"})
    fractions: bool = False

    def refused(self, fault: str, *, authenticated: bool = False) -> InvalidResponse:
        """Return the error for one fault. `authenticated`: its signature was verified."""
        error = InvalidResponse(f"{self.name}_{fault}", self.sentence)
        error.authenticated = authenticated
        return error


@dataclass(frozen=True, slots=True)
class Token:
    """A parsed token. It is unverified until `verify` has returned."""

    kind: Kind
    text: str = field(repr=False)
    header: Mapping[str, object] = field(repr=False)
    claims: Mapping[str, object] = field(repr=False)

    def check_times(self, now: datetime) -> None:
        """Check `exp`, and `nbf` and `iat` if present. Raises `InvalidResponse`."""
        exp, *starts = (self._time(name) for name in ("exp", "nbf", "iat"))
        seconds = now.timestamp()
        if exp is None:
            raise self.kind.refused("times")
        if seconds >= exp + LEEWAY:
            raise self.kind.refused("expired")
        if exp > seconds + self.kind.lifetime + LEEWAY:
            raise self.kind.refused("lifetime")
        if any(start is not None and start > seconds + LEEWAY for start in starts):
            raise self.kind.refused("early")

    def _time(self, name: str) -> float | None:
        if name not in self.claims:
            return None
        time = self.claims[name]
        # In Python a bool is an int.
        if isinstance(time, int) and not isinstance(time, bool):
            return time
        if isinstance(time, float) and self.kind.fractions:
            return time
        raise self.kind.refused("times")

    def text_claim(self, name: str, grammar: re.Pattern[str]) -> str:
        """Return a claim that is a string of this form. Raises `InvalidResponse`."""
        value = self.claims.get(name)
        if not isinstance(value, str) or not grammar.fullmatch(value):
            raise self.kind.refused(name)
        return value

    def verify(self, key: Any, algorithm: str) -> None:  # noqa: ANN401 - a kind of key for each
        """Check the signature with this key and algorithm; the header's `alg` is ignored."""
        if algorithm == HS256:
            signed, _, signature = self.text.rpartition(".")
            if not hmac.compare_digest(_mac(signed, key), _decode(signature)):
                raise self.kind.refused("signature")
            return
        import jwt  # noqa: PLC0415 - 32 ms for all of cryptography, which only JARM needs

        verifier = jwt.PyJWS([algorithm])
        if algorithm == ED25519:  # PyJWT knows it as EdDSA only
            verifier.register_algorithm(ED25519, jwt.algorithms.OKPAlgorithm())
        try:
            # Only the signature: PyJWT would check times by the wall clock; `check_times` does it.
            verifier.decode(
                self.text,
                key,
                [algorithm],
                {"verify_signature": True, "enforce_minimum_key_length": True},
            )
        except jwt.PyJWTError:
            # `from None`: some of PyJWT's messages quote the token or the key.
            raise self.kind.refused("signature") from None


def read(text: str, kind: Kind) -> Token:
    """Parse a token. Does not check its signature. Raises `InvalidResponse`."""
    if len(text) > kind.size:
        raise kind.refused("size")
    try:
        header_part, claims_part, signature_part = text.split(".")
        header, claims = _object(_decode(header_part)), _object(_decode(claims_part))
        _decode(signature_part)
    except (ValueError, RecursionError):
        raise kind.refused("malformed") from None
    if "crit" in header or "b64" in header:
        # RFC 7515 §4.1.11: an unknown critical header is refused. RFC 7797: b64 changes the signing
        # input.
        raise kind.refused("critical")
    typ = header.get("typ", "JWT")
    # A media type (RFC 7519 §5.1): its case does not matter, and "application/" may be left out
    # (RFC 7515 §4.1.9). As `typ` is signed too, this allows no second spelling of one token.
    if not isinstance(typ, str) or typ.lower().removeprefix("application/") not in kind.types:
        raise kind.refused("type")
    return Token(kind, text, header, claims)


def sign(claims: Mapping[str, object], key: bytes, kid: str) -> str:
    """Return a compact JWT (RFC 7515 §7.1), signed with HS256."""
    header = {"alg": HS256, "typ": "JWT", "kid": kid}
    signed = ".".join(
        base64url(json.dumps(part, separators=(",", ":")).encode()) for part in (header, claims)
    )
    return f"{signed}.{base64url(_mac(signed, key))}"


def base64url(raw: bytes) -> str:
    """Encode bytes in base64url without padding (RFC 7515 §2)."""
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _mac(signed: str, key: bytes) -> bytes:
    # Not by PyJWT, which imports cryptography: 30 ms of a cold start.
    return hmac.digest(key, signed.encode("ascii"), "sha256")


def _decode(segment: str) -> bytes:
    decoded = base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
    # Python skips invalid characters, accepts + and /, and drops the last character's unused bits.
    # Encoding again shows whether the segment is the canonical encoding.
    if base64url(decoded) != segment:
        raise ValueError
    return decoded


def _object(raw: bytes) -> dict[str, object]:
    value = json.loads(raw.decode(), object_pairs_hook=_members, parse_constant=_no_constant)
    if not isinstance(value, dict):
        raise ValueError  # noqa: TRY004 - its type is the sender's mistake
    return value


def _members(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        # RFC 7515 §4 allows to refuse duplicates: the signer may have read the other value.
        raise ValueError
    return members


def _no_constant(_name: str) -> NoReturn:
    raise ValueError
