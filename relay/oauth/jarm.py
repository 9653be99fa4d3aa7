"""A response that is a JWT, signed by the provider (JARM: JWT Secured Authorization Response Mode).

`read` does all that needs no key, so that nobody makes the relay fetch one with a token that is not
for it; `unpack` proves it with the issuer's keys. What comes out walks on like any other response:
its state is checked next, and nothing in it is believed before.
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
}
"""Key type and curve for each. Nothing symmetric: a public key must never serve as a secret."""

LIFETIME = 600
"""Seconds: what JARM §2.1 recommends as the longest."""

JARM = jws.Kind(
    "jarm",
    "The response was not signed by the provider for this address, or it has expired.",
    authorization.MAX_SECURED,
    LIFETIME,
    # JARM names no type; this one is in use. An access token's or a logout token's is another
    # (RFC 8725 §3.11).
    types=frozenset({"jwt", "oauth-authz-resp+jwt"}),
    fractions=True,
)


@dataclass(frozen=True, slots=True)
class SecuredResponse:
    """A JWT that is from the issuer and for this client, by its own word. No key has seen it."""

    token: jws.Token
    algorithm: str
    kid: str | None = field(repr=False)


def read(text: str, connection: Connection, now: datetime) -> SecuredResponse:
    """Check all of a JWT that can be checked without a key. Raises `InvalidResponse`."""
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
    """Prove a JWT with one of the issuer's keys, and return the response in it.

    Exactly one key may come into question, by its id or, where the JWT names none, by its kind:
    trying several would let a weak one vouch for a strong one. Raises `InvalidResponse`.
    """
    fitting = [
        key
        for key in keys
        if fits(key, response.algorithm) and response.kid in (None, key.get("kid"))
    ]
    if len(fitting) != 1:
        raise JARM.refused("key")
    response.token.prove(_public(fitting[0], response.algorithm), response.algorithm)
    return authorization.unpacked(response.token.claims, connection)


def fits(key: Jwk, algorithm: str) -> bool:
    """Tell whether a key is a public one for this algorithm, by its own word (RFC 7517 §4)."""
    kind, curve = ALGORITHMS[algorithm]
    operations = key.get("key_ops", ["verify"])
    return (
        key.get("kty") == kind
        and (curve is None or key.get("crv") == curve)
        and key.get("use", "sig") == "sig"
        and key.get("alg", algorithm) == algorithm
        and isinstance(operations, list)
        and "verify" in operations
        and "d" not in key
    )


def _public(key: Jwk, algorithm: str) -> Any:  # noqa: ANN401 - a class for each kind of key
    import jwt  # noqa: PLC0415 - as in jws.py

    try:
        return jwt.PyJWK(dict(key), algorithm).key
    except Exception:  # noqa: BLE001 - a key can be broken in many ways, and none is worth a crash
        raise JARM.refused("key") from None
