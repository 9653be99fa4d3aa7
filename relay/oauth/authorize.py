"""A flow begins at the relay: a ticket from Dynamics becomes a redirect to the provider.

Nothing is stored. What has to be known when the person comes back stands in the state, which the
relay signs, and in a cookie, which only this browser has; PKCE's verifier follows from both.
"""

import re
import secrets
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from urllib.parse import quote, urlencode

from relay.connections import Connection, Provider, StatePolicy
from relay.errors import UnknownConnection
from relay.oauth import state
from relay.oauth.authorization import VerifiedResponse
from relay.oauth.request import Request, guard, parameters

PATIENCE = timedelta(minutes=10)
"""How long a person may take at the provider: the life of the state and of its cookie."""
MAX_UNFINISHED = 5
"""Cookies of unfinished flows that one browser may keep; more would fill the request's headers."""

_OURS = re.compile(r"__Host-relay-[A-Za-z0-9_-]{8}")


@dataclass(frozen=True, slots=True)
class Started:
    """Where the browser goes, and the values of Set-Cookie headers: the flow's own comes first."""

    location: str = field(repr=False)
    cookies: tuple[str, ...] = field(repr=False)


def begin(request: Request, connection: Connection, now: datetime) -> Started:
    """Start one flow.

    In: the request, whose query has a `ticket`, and whose Cookie header tells of other flows;
    nothing else of it reaches the answer. Raises `UnknownConnection` when the connection has no
    provider to go to, and `InvalidResponse` when the ticket does not hold. Not checked here:
    whether the ticket was used before. Each use replaces the cookie of the last one, and Dynamics'
    unique key takes one callback of them all.
    """
    guard(request)
    provider = connection.provider
    if (
        provider.authorization_endpoint is None
        or provider.client_id is None
        or provider.redirect_uri is None
        # Under another policy nothing would hold the callback to the browser that began here.
        or connection.state_policy is not StatePolicy.SIGNED
    ):
        raise UnknownConnection
    claims = state.verify_ticket(_ticket(request), connection, now)
    cookie = secrets.token_urlsafe(32)
    token = state.mint(connection, claims.jti, now, PATIENCE, cookie)
    # Of the key that signs the state: the callback finds it by the state's kid.
    key = next(iter(connection.state_keys.values()))
    verifier = state.derive_verifier(key, claims.jti, cookie)
    return Started(
        address(provider.authorization_endpoint, request_parameters(provider, token, verifier)),
        (_set(claims.jti, cookie, connection), *_surplus(claims.jti, request)),
    )


def request_parameters(
    provider: Provider, state_token: str, verifier: str
) -> list[tuple[str, str]]:
    """Return the parameters of an authorization request (RFC 6749 §4.1.1, RFC 7636 §4.3)."""
    pairs = {
        "response_type": "code",
        "client_id": provider.client_id,
        "redirect_uri": provider.redirect_uri,
        "scope": provider.scope,
        "state": state_token,
        # RFC 7636 §4.2: BASE64URL(SHA256(ASCII(code_verifier)))
        "code_challenge": state.fingerprint(verifier),
        "code_challenge_method": "S256",
        "response_mode": provider.response_mode,
    }
    given = [(name, value) for name, value in pairs.items() if value is not None]
    return [*given, *provider.extra]


def address(endpoint: str, pairs: list[tuple[str, str]]) -> str:
    """Return the address of an authorization endpoint with parameters."""
    # RFC 6749 §3.1: a query that the endpoint has already is retained. %20 and not + for a space:
    # every decoder reads it the same.
    url, _, query = endpoint.partition("?")
    added = urlencode(pairs, quote_via=quote)
    return f"{url}?{query}&{added}" if query else f"{url}?{added}"


def end(response: VerifiedResponse) -> str | None:
    """Return the value of the Set-Cookie that ends the flow, if it began here."""
    return None if response.cookie_name is None else _clear(response.cookie_name)


def _ticket(request: Request) -> str:
    tickets = [value for name, value in parameters(request) if name == "ticket"]
    if len(tickets) != 1:
        raise state.TICKET.refused("repeated" if tickets else "missing")
    return tickets[0]


def _set(jti: str, value: str, connection: Connection) -> str:
    # Lax cookies come back with the provider's redirect, which is a GET at the top level, and not
    # with a form that another site posts.
    same_site = "None" if connection.provider.posts else "Lax"
    return (
        f"{state.cookie_name(jti)}={value}; Max-Age={int(PATIENCE.total_seconds())}; "
        f"Path=/; Secure; HttpOnly; SameSite={same_site}"
    )


def _surplus(jti: str, request: Request) -> list[str]:
    """Return what deletes the oldest cookies, so that `MAX_UNFINISHED` are left with the new one.

    The names come from the request and stand in the answer, so only ours pass: they have no
    character that could do anything there.
    """
    # Browsers send the oldest first (RFC 6265 §5.4).
    names = dict.fromkeys(
        name for name, _ in state.parse_cookies(request.headers.get("cookie", ""))
    )
    others = [name for name in names if _OURS.fullmatch(name) and name != state.cookie_name(jti)]
    return [_clear(name) for name in others[: max(0, len(others) - MAX_UNFINISHED + 1)]]


def _clear(name: str) -> str:
    return f"{name}=; Max-Age=0; Path=/; Secure; HttpOnly; SameSite=Lax"
