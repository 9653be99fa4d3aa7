"""A compact JWS (RFC 7515 §3.1), read so strictly that one token has one spelling and one meaning.

Signatures are HMAC's, or checked by PyJWT. What PyJWT lets pass is refused here, before a key is
looked at: base64 with stray bits, members that stand twice, `exp` as a boolean, headers that change
what is signed.
"""

import base64
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NoReturn

from relay.errors import InvalidResponse

HS256 = "HS256"
"""HMAC with SHA-256 (RFC 7518 §3.2)."""
LEEWAY = 60
"""Seconds that the clocks of two machines may be apart, in either direction."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What a token is for, and its limits.

    `name` begins every reason in the log. People get the one `sentence`, whatever is wrong: the
    next step is the same each time, and which check failed would help nobody but a forger.
    `size` is in characters, `lifetime` in seconds from now to `exp`; `types` are media types
    without `application/`; `fractions`: times may have them, as RFC 7519 §2 allows.
    """

    name: str
    sentence: str
    size: int
    lifetime: int
    types: frozenset[str] = frozenset({"jwt"})
    fractions: bool = False

    def refused(self, fault: str) -> InvalidResponse:
        """Return the error for one fault."""
        return InvalidResponse(f"{self.name}_{fault}", self.sentence)


@dataclass(frozen=True, slots=True)
class Token:
    """A token as it reads. Nothing of it is believed before `prove`."""

    kind: Kind
    text: str = field(repr=False)
    header: Mapping[str, object] = field(repr=False)
    claims: Mapping[str, object] = field(repr=False)

    def check_times(self, now: datetime) -> None:
        """Hold `exp`, and `nbf` and `iat` where they stand, against the clock."""
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
        # For Python, True is an integer too.
        if isinstance(time, int) and not isinstance(time, bool):
            return time
        if isinstance(time, float) and self.kind.fractions:
            return time
        raise self.kind.refused("times")

    def prove(self, key: Any, algorithm: str) -> None:  # noqa: ANN401 - a kind of key for each
        """Check the signature with this key and this algorithm, whatever the header says."""
        if algorithm == HS256:
            signed, _, signature = self.text.rpartition(".")
            if not hmac.compare_digest(_mac(signed, key), _decode(signature)):
                raise self.kind.refused("signature")
            return
        import jwt  # noqa: PLC0415 - 32 ms for all of cryptography, which only JARM needs

        try:
            # The signature only: PyJWT reads the wall clock, and times are checked above.
            jwt.PyJWS([algorithm]).decode(
                self.text,
                key,
                [algorithm],
                {"verify_signature": True, "enforce_minimum_key_length": True},
            )
        except jwt.PyJWTError:
            # `from None`: some of PyJWT's messages quote the token or the key.
            raise self.kind.refused("signature") from None


def read(text: str, kind: Kind) -> Token:
    """Take a token apart. Raises `InvalidResponse`; the signature is not checked here."""
    if len(text) > kind.size:
        raise kind.refused("size")
    try:
        header_part, claims_part, signature_part = text.split(".")
        header, claims = _object(_decode(header_part)), _object(_decode(claims_part))
        _decode(signature_part)
    except (ValueError, RecursionError):
        raise kind.refused("malformed") from None
    if "crit" in header or "b64" in header:
        # RFC 7515 §4.1.11: what is critical and not understood is refused. RFC 7797: b64 changes
        # what is signed.
        raise kind.refused("critical")
    typ = header.get("typ", "JWT")
    # RFC 7519 §5.1: a media type, so its case does not matter, and RFC 7515 §4.1.9 lets
    # "application/" be left out. It is signed like the rest: no second spelling of one token.
    if not isinstance(typ, str) or typ.lower().removeprefix("application/") not in kind.types:
        raise kind.refused("type")
    return Token(kind, text, header, claims)


def sign(claims: Mapping[str, object], key: bytes, kid: str) -> str:
    """Return a compact JWT (RFC 7515 §7.1) with HS256, which is HMAC with SHA-256."""
    header = {"alg": HS256, "typ": "JWT", "kid": kid}
    signed = ".".join(
        base64url(json.dumps(part, separators=(",", ":")).encode()) for part in (header, claims)
    )
    return f"{signed}.{base64url(_mac(signed, key))}"


def base64url(raw: bytes) -> str:
    """Write bytes in base64url without padding (RFC 7515 §2)."""
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _mac(signed: str, key: bytes) -> bytes:
    # By hand, because PyJWT costs a cold start 30 ms for all of cryptography.
    return hmac.digest(key, signed.encode("ascii"), "sha256")


def _decode(segment: str) -> bytes:
    decoded = base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
    # Python skips what is no base64, takes + and / too, and drops the last character's stray bits.
    # Only what encoding gives back is the one spelling of these bytes.
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
        # RFC 7515 §4: a reader may refuse them. The one who signed may have read the other one.
        raise ValueError
    return members


def _no_constant(_name: str) -> NoReturn:
    raise ValueError
