"""Start a flow at the relay: turn a ticket from Dynamics into an authorization request.

Nothing is stored (RFC 6749 §4.1.1, RFC 7636). What the callback needs is in the state, which the
relay signs, and in a cookie, which only this browser has; the PKCE verifier is derived from both.
"""

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from urllib.parse import parse_qsl, quote, urlencode

from relay.connections import Connection, Provider, StatePolicy
from relay.errors import UnknownConnection
from relay.oauth import state
from relay.oauth.authorization import VerifiedResponse
from relay.oauth.request import Request, guard, parameters

LIFETIME = timedelta(minutes=10)
"""Lifetime of the state and its cookie: the time that a person has at the provider."""
MAX_UNFINISHED = 5
"""Cookies of unfinished flows per browser; more would exceed the limit of request headers."""
REFUSED = frozenset(
    {
        "client_assertion",
        "client_id",
        "client_secret",
        "code_challenge",
        "code_challenge_method",
        "redirect_uri",
        "registration",
        "request",
        "request_uri",
        "response_mode",
        "response_type",
        "scope",
        "state",
    }
)
"""Parameters that no ticket may set, in any case."""

_FLOW_COOKIE = re.compile(r"__Host-relay-[A-Za-z0-9_-]{8}")


@dataclass(frozen=True, slots=True)
class Started:
    """Where to redirect the browser, and the Set-Cookie values, the flow's own first.

    `environment`: the one that the ticket names.
    """

    location: str = field(repr=False)
    cookies: tuple[str, ...] = field(repr=False)
    environment: str | None = None


def begin(request: Request, connection: Connection, now: datetime) -> Started:
    """Start one flow.

    In: the request; only the `ticket` of its query and the names in its Cookie header are used.
    Raises `UnknownConnection` when the connection lacks the provider's settings, and
    `InvalidResponse` when the ticket is not valid. Not checked here: whether the ticket was used
    before. Each use replaces the cookie of the previous one, and Dynamics' unique key accepts only
    one callback.
    """
    guard(request)
    provider = connection.provider
    if (
        provider.authorization_endpoint is None
        or provider.client_id is None
        or provider.redirect_uri is None
        # An id_token needs a nonce, which nobody would verify.
        or provider.response_type != "code"
        # Only a signed state can bind the callback to this browser.
        or connection.state_policy is not StatePolicy.SIGNED
    ):
        raise UnknownConnection
    claims = state.verify_ticket(_ticket(request), connection, now)
    connection = connection.at(claims.environment)
    pairs = _ticket_pairs(claims.params, provider, provider.authorization_endpoint)
    cookie = secrets.token_urlsafe(32)
    token = state.mint(connection, claims.jti, now, LIFETIME, cookie)
    # The key that signs the state: the callback finds it again by the state's kid.
    key = next(iter(connection.state_keys.values()))
    verifier = state.derive_verifier(key, claims.jti, cookie)
    pairs = [*request_parameters(provider, token, verifier), *pairs]
    return Started(
        address(provider.authorization_endpoint, pairs),
        (_set_cookie(claims.jti, cookie, connection), *_delete_oldest(claims.jti, request)),
        connection.environment,
    )


def request_parameters(
    provider: Provider, state_token: str, verifier: str
) -> list[tuple[str, str]]:
    """Return the parameters of an authorization request (RFC 6749 §4.1.1, RFC 7636 §4.3).

    Without a code challenge where the provider refuses unknown parameters (`pkce` is false).
    """
    # RFC 7636 §4.2: BASE64URL(SHA256(ASCII(code_verifier)))
    challenge = state.fingerprint(verifier) if provider.pkce else None
    pairs = {
        "response_type": "code",
        "client_id": provider.client_id,
        "redirect_uri": provider.redirect_uri,
        "scope": provider.scope,
        "state": state_token,
        "code_challenge": challenge,
        "code_challenge_method": challenge and "S256",
        "response_mode": provider.response_mode,
    }
    given = [(name, value) for name, value in pairs.items() if value is not None]
    return [*given, *provider.extra]


def address(endpoint: str, pairs: list[tuple[str, str]]) -> str:
    """Return the URL of an authorization request: the endpoint with the parameters added."""
    # RFC 6749 §3.1: the endpoint's own query is retained. %20 and not + for a space: every decoder
    # understands it.
    url, _, query = endpoint.partition("?")
    added = urlencode(pairs, quote_via=quote)
    return f"{url}?{query}&{added}" if query else f"{url}?{added}"


def end(response: VerifiedResponse) -> str | None:
    """Return the Set-Cookie value that deletes the flow's cookie, or `None` if it has none."""
    return None if response.cookie_name is None else _delete_cookie(response.cookie_name)


def _ticket(request: Request) -> str:
    tickets = [each for each in parameters(request) if each.name == "ticket"]
    if len(tickets) != 1:
        raise state.TICKET.refused("repeated" if tickets else "missing")
    return tickets[0].text()


def _ticket_pairs(
    params: Mapping[str, str], provider: Provider, endpoint: str
) -> list[tuple[str, str]]:
    """Return the ticket's own parameters. Raises if one would change what the relay itself asks."""
    query = parse_qsl(endpoint.partition("?")[2], keep_blank_values=True)
    taken = REFUSED.union(name.lower() for name, _ in (*query, *provider.extra))
    if any(name.lower() in taken for name in params):
        raise state.TICKET.refused("params", authenticated=True)
    return list(params.items())


def _set_cookie(jti: str, value: str, connection: Connection) -> str:
    # Browsers send Lax cookies with the provider's redirect, a top-level GET, but not with a form
    # that another site posts.
    same_site = "None" if connection.provider.posts else "Lax"
    return (
        f"{state.cookie_name(jti)}={value}; Max-Age={int(LIFETIME.total_seconds())}; "
        f"Path=/; Secure; HttpOnly; SameSite={same_site}"
    )


def _delete_oldest(jti: str, request: Request) -> list[str]:
    """Return Set-Cookie values that delete the oldest flows, so that `MAX_UNFINISHED` remain.

    The names come from the request and are written into the response. Only names of the relay's
    own form pass, so no header can be injected.
    """
    # Browsers send the oldest first (RFC 6265 §5.4).
    names = dict.fromkeys(
        name for name, _ in state.parse_cookies(request.headers.get("cookie", ""))
    )
    others = [
        name for name in names if _FLOW_COOKIE.fullmatch(name) and name != state.cookie_name(jti)
    ]
    return [_delete_cookie(name) for name in others[: max(0, len(others) - MAX_UNFINISHED + 1)]]


def _delete_cookie(name: str) -> str:
    return f"{name}=; Max-Age=0; Path=/; Secure; HttpOnly; SameSite=Lax"
