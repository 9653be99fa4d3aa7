"""The `state` parameter (RFC 6749 §4.1.1): verify it by the connection's policy; mint signed ones.

`opaque`: not checked here; only Dynamics can refuse an unknown one. `pattern`: it must match, but
whoever knows the pattern can forge one. `signed`: a JWT with a MAC, which Dynamics minted for this
connection within its lifetime. A `cookie` claim binds it to one browser (RFC 9700 §2.1); such a
state was minted by the relay.

A state may name the environment that its code is for: in the claim `env`, which only a key of that
environment can sign, or in the group `env` of the pattern, which whoever knows it can write.
"""

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta

from relay.connections import Connection, StatePolicy, canonical
from relay.errors import CookieMissing, InvalidResponse, UnknownEnvironment
from relay.oauth import jws
from relay.oauth.authorization import (
    AuthorizationResponse,
    VerifiedResponse,
    ended_by_provider,
)

CALLBACK = "callback"
AUTHORIZE = "authorize"
"""The purpose of a token: the first part of its `aud`, before the connection's name."""

MAX_SIZE = 1024
LIFETIME = 3600
MAX_PARAMS = 10
"""Members of a ticket's claim `params`."""

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
_NAME = re.compile(r"[A-Za-z0-9._~-]{1,64}")
_HASH = re.compile(r"[A-Za-z0-9_-]{43}")
"""32 bytes in base64url: a SHA-256, a cookie's value, a code verifier."""
_ENVIRONMENT = re.compile(r"[A-Za-z0-9_-]{1,64}")
ENVIRONMENT = "env"
"""The claim, and the group of a pattern, that names an environment."""
_PARTS = tuple(part.name for part in fields(AuthorizationResponse))


@dataclass(frozen=True, slots=True)
class StateClaims:
    """The claims of a token whose signature was verified.

    `key` is the key that signed it; `cookie` is the hash of the cookie that the browser must send,
    or `None` if the token is not bound to a browser. `params`: further parameters of the
    authorization request, which a ticket may name. `environment`: the one that it is for.
    """

    key: bytes = field(repr=False)
    jti: str = field(repr=False)
    cookie: str | None = field(repr=False)
    params: Mapping[str, str] = field(repr=False)
    environment: str | None = None


def verify(
    response: AuthorizationResponse,
    connection: Connection,
    cookies: str = "",
    now: datetime | None = None,
) -> VerifiedResponse:
    """Return the response as a verified one, or raise `InvalidResponse`.

    In: the raw Cookie header; a state that is bound to a browser needs it. Not checked here:
    whether the state was used before, which Dynamics' unique key decides.
    """
    try:
        return _verify(response, connection, cookies, now or datetime.now(UTC))
    except InvalidResponse as refused:
        if ended_by_provider(response):
            # The state is refused, and so is the response; but the person can be told what is seen.
            refused.page = "ended"
        raise


def _verify(
    response: AuthorizationResponse, connection: Connection, cookies: str, now: datetime
) -> VerifiedResponse:
    if response.state is None:
        raise InvalidResponse("state_missing", "The response has no state.")
    parts = {name: getattr(response, name) for name in _PARTS}
    match connection.state_policy:
        case StatePolicy.OPAQUE:
            return VerifiedResponse(**parts)
        case StatePolicy.PATTERN:
            return VerifiedResponse(**parts, environment=_match(response.state, connection))
        case StatePolicy.SIGNED:
            claims = _claims(response.state, STATE, CALLBACK, connection, now)
    if claims.cookie is None:
        return VerifiedResponse(**parts, jti=claims.jti, environment=claims.environment)
    verifier = derive_verifier(claims.key, claims.jti, _bound_cookie(claims, cookies))
    return VerifiedResponse(
        **parts,
        jti=claims.jti,
        code_verifier=verifier if connection.provider.pkce else None,
        cookie_name=cookie_name(claims.jti),
        redirect_uri=connection.provider.redirect_uri,
        environment=claims.environment,
    )


def verify_ticket(ticket: str, connection: Connection, now: datetime) -> StateClaims:
    """Return the claims of a ticket, Dynamics' permission to start a flow, or `InvalidResponse`."""
    return _claims(ticket, TICKET, AUTHORIZE, connection, now)


def mint(
    connection: Connection, jti: str, now: datetime, lifetime: timedelta, cookie: str | None = None
) -> str:
    """Return a signed state, for the environment that the connection is `at`.

    `cookie` is the value that binds it to a browser.
    """
    binding = {} if cookie is None else {"cookie": fingerprint(cookie)}
    return _sign(connection, CALLBACK, jti, now + lifetime, binding)


def mint_ticket(connection: Connection, jti: str, now: datetime, lifetime: timedelta) -> str:
    """Return a ticket, as Dynamics mints it."""
    return _sign(connection, AUTHORIZE, jti, now + lifetime, {})


def derive_verifier(key: bytes, jti: str, cookie: str) -> str:
    """Return the PKCE code verifier (RFC 7636 §4.1) of one flow: 43 characters.

    It is not stored: it is derived again from the relay's key and the browser's cookie.
    """
    return jws.base64url(hmac.digest(key, f"pkce:{jti}:{cookie}".encode(), "sha256"))


def fingerprint(value: str) -> str:
    """Return base64url(SHA-256(value)): of a cookie in a state, of a verifier as its challenge."""
    return jws.base64url(hashlib.sha256(value.encode()).digest())


def cookie_name(jti: str) -> str:
    """Return the name of a flow's cookie. `__Host-`: no other host of the domain can set it."""
    return f"__Host-relay-{jti[:8]}"


def parse_cookies(cookies: str) -> list[tuple[str, str]]:
    """Split a Cookie header (RFC 6265 §4.2.1) into names and values, unchanged."""
    # No trimming or unquoting: a name that differs in a blank is another cookie.
    pairs = (pair.removeprefix(" ").partition("=") for pair in cookies.split(";"))
    return [(name, value) for name, _, value in pairs]


def _match(state: str, connection: Connection) -> str | None:
    """Return the environment that a state of the pattern names. Raises `InvalidResponse`."""
    if len(state) > MAX_SIZE:
        # Before the pattern runs: its time may grow faster than the state.
        raise InvalidResponse("state_size", "The state is longer than Dynamics makes any.")
    pattern = connection.state_pattern
    found = pattern.fullmatch(state) if pattern is not None else None
    if found is None:
        raise InvalidResponse(
            "state_mismatch", "The state is not one that Dynamics hands out for this address."
        )
    named = found.groupdict().get(ENVIRONMENT)
    environment = None if named is None else _environment(named)
    connection.at(environment)  # raises if there is none
    return environment


def _environment(named: object) -> str:
    """Return the name of an environment as the settings have it. Raises `UnknownEnvironment`."""
    if not isinstance(named, str) or not _ENVIRONMENT.fullmatch(named):
        raise UnknownEnvironment
    return canonical(named)


def _claims(
    text: str, kind: jws.Kind, use: str, connection: Connection, now: datetime
) -> StateClaims:
    """Verify a token. The signature comes last, so a forged token costs one HMAC at most."""
    token = jws.read(text, kind)
    if token.header.get("alg") != jws.HS256:
        raise kind.refused("algorithm")
    try:
        # Only without the claim it is for the connection's own target; an empty one is refused.
        named = ENVIRONMENT in token.claims
        environment = _environment(token.claims[ENVIRONMENT]) if named else None
        at = connection.at(environment)
    except UnknownEnvironment:
        raise kind.refused("environment") from None
    kid = token.header.get("kid")
    # Only the keys of the environment that it names: DEV cannot mint for PROD.
    key = at.state_keys.get(kid) if isinstance(kid, str) else None
    if key is None:
        raise kind.refused("key")
    # A string, not a list: a token for several audiences is not only for this one.
    if token.claims.get("aud") != f"{use}:{connection.name}":
        raise kind.refused("audience")
    token.check_times(now)
    jti = token.text_claim("jti", _JTI)
    cookie = token.text_claim("cookie", _HASH) if "cookie" in token.claims else None
    params = _params(token.claims) if use == AUTHORIZE else {}
    token.verify(key, jws.HS256)
    return StateClaims(key, jti, cookie, params, environment)


def _params(claims: Mapping[str, object]) -> dict[str, str]:
    """Return the claim `params` of a ticket. Raises `InvalidResponse`."""
    claim = claims.get("params", {})
    if not isinstance(claim, dict) or len(claim) > MAX_PARAMS:
        raise TICKET.refused("params")
    for name, value in claim.items():
        if not _NAME.fullmatch(name) or not isinstance(value, str):
            raise TICKET.refused("params")
    return claim


def _bound_cookie(claims: StateClaims, cookies: str) -> str:
    """Return the value of the flow's cookie. Raises if another browser started the flow."""
    name = cookie_name(claims.jti)
    values = [value for each, value in parse_cookies(cookies) if each == name]
    if not values:
        raise CookieMissing
    if len(values) > 1:
        # Cookie tossing: somebody else has set a second cookie of that name.
        raise STATE.refused("cookie_repeated", authenticated=True)
    if not _HASH.fullmatch(values[0]) or not hmac.compare_digest(
        fingerprint(values[0]), claims.cookie or ""
    ):
        raise STATE.refused("cookie_mismatch", authenticated=True)
    return values[0]


def _sign(
    connection: Connection, use: str, jti: str, expires_at: datetime, binding: Mapping[str, str]
) -> str:
    kid, key = next(iter(connection.state_keys.items()))
    named = {} if connection.environment is None else {ENVIRONMENT: connection.environment}
    claims = {
        "aud": f"{use}:{connection.name}",
        "exp": int(expires_at.timestamp()),
        "jti": jti,
        **named,
        **binding,
    }
    return jws.sign(claims, key, kid)
