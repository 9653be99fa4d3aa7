"""JARM, the JWT Secured Authorization Response Mode: a response as a JWT signed by the provider.

`read` makes all checks that need no key, so that a token for somebody else causes no fetch of keys;
`unpack` verifies the signature with the issuer's keys. The result is an unverified response like
any other: its state is checked next.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from relay.connections import Connection
from relay.oauth import authorization, jws
from relay.oauth.authorization import AuthorizationResponse
from relay.ports import Jwk

ALGORITHMS = {
    "RS256": ("RSA", None),
    "PS256": ("RSA", None),
    "ES256": ("EC", "P-256"),
    "EdDSA": ("OKP", "Ed25519"),
    jws.ED25519: ("OKP", "Ed25519"),
}
"""Key type and curve of each. No symmetric algorithm: a public key must not serve as a secret."""

LIFETIME = 600
"""Seconds: the longest that JARM §2.1 recommends."""

JARM = jws.Kind(
    "jarm",
    "The response was not signed by the provider for this address, or it has expired.",
    authorization.MAX_SECURED,
    LIFETIME,
    # JARM defines no type; the second one is in use. Explicit types keep out access and logout
    # tokens (RFC 8725 §3.11).
    types=frozenset({"jwt", "oauth-authz-resp+jwt"}),
    fractions=True,
)


@dataclass(frozen=True, slots=True)
class SecuredResponse:
    """A JWT whose claims name the issuer and this client. Its signature is not verified yet."""

    token: jws.Token
    algorithm: str
    kid: str | None = field(repr=False)


def read(text: str, connection: Connection, now: datetime) -> SecuredResponse:
    """Check everything but the signature of a JWT. Raises `InvalidResponse`."""
    if text.count(".") == 4:  # noqa: PLR2004 - RFC 7516 §3.1: five parts
        raise JARM.refused("encrypted")
    token = jws.read(text, JARM)
    algorithm, kid = token.header.get("alg"), token.header.get("kid")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise JARM.refused("algorithm")
    if kid is not None and not isinstance(kid, str):
        raise JARM.refused("key")
    provider = connection.provider
    if provider.issuer is None or token.claims.get("iss") != provider.issuer:
        raise JARM.refused("issuer")
    audience = token.claims.get("aud")
    audiences = audience if isinstance(audience, list) else [audience]
    if provider.client_id is None or provider.client_id not in audiences:
        raise JARM.refused("audience")
    token.check_times(now)
    return SecuredResponse(token, algorithm, kid)


def unpack(
    response: SecuredResponse, keys: Iterable[Jwk], connection: Connection
) -> AuthorizationResponse:
    """Verify a JWT with one of the issuer's keys, and return the response in it.

    Exactly one key must match, by its id or, if the JWT names none, by its type: trying several
    would accept a signature by the weakest of them. Raises `InvalidResponse`.
    """
    fitting = [
        key
        for key in keys
        if fits(key, response.algorithm) and response.kid in (None, key.get("kid"))
    ]
    if len(fitting) != 1:
        raise JARM.refused("key")
    response.token.verify(_public(fitting[0], response.algorithm), response.algorithm)
    return authorization.unpacked(response.token.claims, connection)


def fits(key: Jwk, algorithm: str) -> bool:
    """Tell whether a key's members say that it is a public key for this algorithm (RFC 7517 §4)."""
    kind, curve = ALGORITHMS[algorithm]
    operations = key.get("key_ops", ["verify"])
    return (
        key.get("kty") == kind
        and (curve is None or key.get("crv") == curve)
        and key.get("use", "sig") == "sig"
        and key.get("alg", algorithm) in _same(algorithm)
        and isinstance(operations, list)
        and "verify" in operations
        and "d" not in key
    )


def _same(algorithm: str) -> tuple[str, ...]:
    """Return all names of an algorithm: a key and a JWT may name it differently."""
    edwards = ("EdDSA", jws.ED25519)
    return edwards if algorithm in edwards else (algorithm,)


def _public(key: Jwk, algorithm: str) -> Any:  # noqa: ANN401 - a class for each kind of key
    import jwt  # noqa: PLC0415 - as in jws.py

    try:
        # The first name is the one that PyJWT knows.
        return jwt.PyJWK(dict(key), _same(algorithm)[0]).key
    except Exception:  # noqa: BLE001 - PyJWT raises many types for a malformed key
        raise JARM.refused("key") from None
