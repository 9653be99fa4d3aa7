"""Is the state one that was minted for this flow? Only what passes here is believed.

A state means nothing to the provider (RFC 6749 §4.1.1). Under `opaque` the relay knows nothing of
it either, and Dynamics alone refuses a stranger's; under `pattern` junk is refused here, but
whoever knows the pattern can write a state that passes. Under `signed` it is a JWT with a MAC:
Dynamics minted it, for this connection, not long ago; and if it has a `cookie` claim, the relay
minted it for one browser, which alone may bring it back (RFC 9700 §2.1).
"""

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta

from relay.connections import Connection, StatePolicy
from relay.errors import CookieMissing, InvalidResponse
from relay.oauth import jws
from relay.oauth.authorization import AuthorizationResponse, VerifiedResponse

CALLBACK = "callback"
AUTHORIZE = "authorize"
"""What a token is good for: the first half of its `aud`, before the connection's name."""

MAX_SIZE = 1024
LIFETIME = 3600

STATE = jws.Kind(
    "state",
    "The state was not issued for this address and this browser, or it has expired.",
    MAX_SIZE,
    LIFETIME,
)
TICKET = jws.Kind(
    "ticket",
    "The link does not come from Dynamics 365 for this address, or it has expired.",
    MAX_SIZE,
    LIFETIME,
)

_JTI = re.compile(r"[A-Za-z0-9_-]{16,64}")
_HASH = re.compile(r"[A-Za-z0-9_-]{43}")
"""32 bytes in base64url: a SHA-256, a cookie's value, a code verifier."""


@dataclass(frozen=True, slots=True)
class StateClaims:
    """What a signed token says, once its signature holds.

    `key` is the one that signed it; `cookie` is the hash of the value that the browser has to
    bring, or `None` when any browser may.
    """

    key: bytes = field(repr=False)
    jti: str = field(repr=False)
    cookie: str | None = field(repr=False)


def verify(
    response: AuthorizationResponse,
    connection: Connection,
    cookies: str = "",
    now: datetime | None = None,
) -> VerifiedResponse:
    """Return the response as one to be believed, or raise `InvalidResponse`.

    In: the Cookie header as it came; without one, no state that is bound to a browser passes. Not
    checked here: whether the state was used before. That is Dynamics' unique key.
    """
    if response.state is None:
        raise InvalidResponse("state_missing", "The response has no state.")
    parts = {part.name: getattr(response, part.name) for part in fields(response)}
    match connection.state_policy:
        case StatePolicy.OPAQUE:
            return VerifiedResponse(**parts)
        case StatePolicy.PATTERN:
            _match(response.state, connection)
            return VerifiedResponse(**parts)
        case StatePolicy.SIGNED:
            claims = _claims(response.state, STATE, CALLBACK, connection, now or datetime.now(UTC))
    if claims.cookie is None:
        return VerifiedResponse(**parts)
    return VerifiedResponse(
        **parts,
        code_verifier=derive_verifier(claims.key, claims.jti, _bound(claims, cookies)),
        cookie_name=cookie_name(claims.jti),
        redirect_uri=connection.provider.redirect_uri,
    )


def verify_ticket(ticket: str, connection: Connection, now: datetime) -> StateClaims:
    """Return what Dynamics' permission to start a flow says, or raise `InvalidResponse`."""
    return _claims(ticket, TICKET, AUTHORIZE, connection, now)


def mint(
    connection: Connection, jti: str, now: datetime, lifetime: timedelta, cookie: str | None = None
) -> str:
    """Return a signed state, bound to the browser that has this cookie value if one is given."""
    binding = {} if cookie is None else {"cookie": fingerprint(cookie)}
    return _sign(connection, CALLBACK, jti, now + lifetime, binding)


def mint_ticket(connection: Connection, jti: str, now: datetime, lifetime: timedelta) -> str:
    """Return a ticket, as Dynamics mints it."""
    return _sign(connection, AUTHORIZE, jti, now + lifetime, {})


def derive_verifier(key: bytes, jti: str, cookie: str) -> str:
    """Return the PKCE code verifier (RFC 7636 §4.1) of one flow: 43 characters.

    It is stored nowhere. It takes both the relay's key and the browser's cookie to make it again.
    """
    return jws.base64url(hmac.digest(key, f"pkce:{jti}:{cookie}".encode(), "sha256"))


def fingerprint(value: str) -> str:
    """Return base64url(SHA-256(value)): of a cookie in a state, of a verifier as its challenge."""
    return jws.base64url(hashlib.sha256(value.encode()).digest())


def cookie_name(jti: str) -> str:
    """Return the name of a flow's cookie; `__Host-`: no other host of the domain can set it."""
    return f"__Host-relay-{jti[:8]}"


def parse_cookies(cookies: str) -> list[tuple[str, str]]:
    """Split a Cookie header (RFC 6265 §4.2.1) into names and values, exactly as they stand."""
    # Nothing is trimmed or unquoted: what only looks like the name is another cookie.
    pairs = (pair.removeprefix(" ").partition("=") for pair in cookies.split(";"))
    return [(name, value) for name, _, value in pairs]


def _match(state: str, connection: Connection) -> None:
    pattern = connection.state_pattern
    if pattern is None or not pattern.fullmatch(state):
        raise InvalidResponse(
            "state_mismatch", "The state is not one that Dynamics hands out for this address."
        )


def _claims(
    text: str, kind: jws.Kind, use: str, connection: Connection, now: datetime
) -> StateClaims:
    """Verify a token. All that needs no key comes first, so a forged one costs one HMAC at most."""
    token = jws.read(text, kind)
    if token.header.get("alg") != jws.HS256:
        raise kind.refused("algorithm")
    kid = token.header.get("kid")
    key = connection.state_keys.get(kid) if isinstance(kid, str) else None
    if key is None:
        raise kind.refused("key")
    # One string: a list of audiences is a token for others too.
    if token.claims.get("aud") != f"{use}:{connection.name}":
        raise kind.refused("audience")
    token.check_times(now)
    jti = _text(token, "jti", _JTI)
    cookie = _text(token, "cookie", _HASH) if "cookie" in token.claims else None
    token.prove(key, jws.HS256)
    return StateClaims(key, jti, cookie)


def _text(token: jws.Token, name: str, grammar: re.Pattern[str]) -> str:
    value = token.claims.get(name)
    if not isinstance(value, str) or not grammar.fullmatch(value):
        raise token.kind.refused(name)
    return value


def _bound(claims: StateClaims, cookies: str) -> str:
    """Return the value of the flow's cookie, if this is the browser that started the flow."""
    name = cookie_name(claims.jti)
    values = [value for each, value in parse_cookies(cookies) if each == name]
    if not values:
        raise CookieMissing
    if len(values) > 1:
        # Cookie tossing: a second one of that name comes from somebody else.
        raise STATE.refused("cookie_repeated")
    if not _HASH.fullmatch(values[0]) or not hmac.compare_digest(
        fingerprint(values[0]), claims.cookie or ""
    ):
        raise STATE.refused("cookie_mismatch")
    return values[0]


def _sign(
    connection: Connection, use: str, jti: str, expires_at: datetime, binding: Mapping[str, str]
) -> str:
    kid, key = next(iter(connection.state_keys.items()))
    claims = {
        "aud": f"{use}:{connection.name}",
        "exp": int(expires_at.timestamp()),
        "jti": jti,
        **binding,
    }
    return jws.sign(claims, key, kid)
