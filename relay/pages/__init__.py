"""Every HTTP answer of the relay: pages for browsers, JSON for programs."""

import json
import re
from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import NamedTuple

from relay.connections import Connection
from relay.oauth.authorize import Started
from relay.outcome import Answer, Outcome, Page


class Reply(NamedTuple):
    """An HTTP answer. `cookies` are values of Set-Cookie headers, the most important one first."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""
    cookies: tuple[str, ...] = ()


METHODS = "GET, POST, HEAD, OPTIONS"
"""The methods of the redirect URI, for an Allow header."""

_IN_PLACE: frozenset[Page] = frozenset(
    {Outcome.DECLINED, "fault", "ended", "bare", "keys", "prefetch", "method"}
)
"""Pages that a browser gets without a redirect: the URL holds no code (`declined`, `fault`,
`ended`, `bare`, `method`), the browser discards the page (`prefetch`), or a reload has to send the
response again (`keys`)."""

_NO_PERMISSIONS = (
    "accelerometer=(), autoplay=(), camera=(), clipboard-read=(), clipboard-write=(), "
    "display-capture=(), encrypted-media=(), fullscreen=(), geolocation=(), "
    "gyroscope=(), hid=(), idle-detection=(), magnetometer=(), microphone=(), "
    "midi=(), payment=(), picture-in-picture=(), publickey-credentials-get=(), "
    "screen-wake-lock=(), serial=(), usb=(), xr-spatial-tracking=()"
)
_COPY_PERMISSION = _NO_PERMISSIONS.replace("clipboard-write=()", "clipboard-write=(self)")
"""Of a page with "Copy details": Chromium refuses the clipboard otherwise."""

# The host adds Strict-Transport-Security (host.json, hsts), because it knows what is loopback.
SECURITY_HEADERS = MappingProxyType(
    {
        "Content-Security-Policy": (
            "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        ),
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Permissions-Policy": _NO_PERMISSIONS,
        "X-Frame-Options": "DENY",
        "X-Robots-Tag": "noindex, nofollow",
    }
)
"""On every answer. host.json sets the same headers on the host's own 404 and 500 pages."""


def render(
    answer: Answer,
    *,
    html: bool,
    accept_language: str = "",
    connection: Connection | None = None,
) -> Reply:
    """Return the response to a callback: JSON for a program, a page or a redirect for a browser.

    `accept_language` is the raw header; JSON is always in English. `connection` is the answer's
    own, whose names and way back a page shows. The redirect to `/done/…` keeps the code out of the
    address bar, the history and the Referer (RFC 6749 §3.1.2.5). Its Location holds nothing of the
    request.
    """
    reply = _reply_to(answer, accept_language, connection, html=html)
    return reply if answer.clear is None else reply._replace(cookies=(answer.clear,))


def probe(method: str) -> Reply:
    """Return the answer to HEAD or OPTIONS, with which providers probe a redirect URI."""
    if method == "HEAD":
        return Reply(HTTPStatus.OK, SECURITY_HEADERS)
    return Reply(HTTPStatus.NO_CONTENT, {**SECURITY_HEADERS, "Allow": METHODS})


def begin(started: Started) -> Reply:
    """Return the redirect to the provider's authorization endpoint (RFC 6749 §4.1.1)."""
    headers = {**SECURITY_HEADERS, "Location": started.location}
    return Reply(HTTPStatus.FOUND, headers, cookies=started.cookies)


_REFERENCE = re.compile(r"[0-9a-f]{16}")
_DONE_STATUS = {
    Outcome.DELIVERED: HTTPStatus.OK,
    Outcome.DUPLICATE: HTTPStatus.OK,
    Outcome.HELD: HTTPStatus.OK,
    Outcome.UNKNOWN: HTTPStatus.NOT_FOUND,
}
_VIA_AUTHORIZE = "authorize"


def done(
    outcome: str,
    reference: str,
    accept_language: str = "",
    connection: Connection | None = None,
    *,
    via: str = "",
) -> Reply:
    """Return the page at the end of the redirect.

    Anybody can request it with any values. So it proves nothing, repeats `reference` only if that
    is 16 hex digits, and is never a 5xx, which a probe would take for an outage. `via` is
    `authorize` where a link of Dynamics was refused and not an answer of a provider.
    """
    try:
        known = Outcome(outcome)
    except ValueError:
        known = Outcome.UNKNOWN
    page: Page = "ticket" if (known, via) == (Outcome.INVALID, _VIA_AUTHORIZE) else known
    status = _DONE_STATUS.get(known, HTTPStatus.BAD_REQUEST)
    shown = reference if _REFERENCE.fullmatch(reference) else ""
    answer = Answer(known, shown, status, connection=connection.name if connection else None)
    return _page(page, answer, accept_language, connection)


def unknown(*, html: bool, accept_language: str = "") -> Reply:
    """Return the answer for an address that is none of the relay's: without a reference."""
    answer = Answer(Outcome.UNKNOWN, "", HTTPStatus.NOT_FOUND)
    return _page(Outcome.UNKNOWN, answer, accept_language, None) if html else _json(answer)


def health(version: str, *, healthy: bool) -> Reply:
    """Return the answer of /health: whether the settings validate, and which version runs."""
    if healthy:
        return _reply(HTTPStatus.OK, {"status": "ok", "version": version})
    return _reply(HTTPStatus.SERVICE_UNAVAILABLE, {"status": "misconfigured"})


def _reply_to(
    answer: Answer, accept_language: str, connection: Connection | None, *, html: bool
) -> Reply:
    page = answer.page or answer.outcome
    # `bare` explains the address to a person: there is no outcome to report to a program.
    if not html and page != "bare":
        return _json(answer)
    if page in _IN_PLACE:
        return _page(page, answer, accept_language, connection)
    # All of these are letters, digits and hyphens.
    to = f"&to={answer.connection}" if answer.connection else ""
    via = f"&via={_VIA_AUTHORIZE}" if page == "ticket" else ""
    location = f"/done/{answer.outcome}?ref={answer.reference}{to}{via}"
    return Reply(HTTPStatus.SEE_OTHER, {**SECURITY_HEADERS, "Location": location})


def _json(answer: Answer) -> Reply:
    members: dict[str, object] = {"outcome": answer.outcome}
    if answer.reference:
        members["reference"] = answer.reference
    if answer.status < HTTPStatus.BAD_REQUEST:
        return _reply(answer.status, members)
    from relay.pages.translations import DEFAULT, LANGUAGES  # noqa: PLC0415 - a success needs none

    # RFC 9457. An absent `type` means about:blank.
    members |= {
        "title": LANGUAGES[DEFAULT].pages[answer.outcome].title,
        "status": int(answer.status),
    }
    for name in ("detail", "error", "error_description"):
        if (value := getattr(answer, name)) is not None:
            members[name] = value
    return _reply(answer.status, members, "application/problem+json")


def _reply(
    status: HTTPStatus, members: Mapping[str, object], media_type: str = "application/json"
) -> Reply:
    headers = {**SECURITY_HEADERS, "Content-Type": media_type, **_allow(status)}
    return Reply(status, headers, json.dumps(members).encode("ascii"))


def _page(page: Page, answer: Answer, accept_language: str, connection: Connection | None) -> Reply:
    from relay.pages import html  # noqa: PLC0415 - a redirect and JSON need none

    shown = html.page(page, answer, accept_language, connection)
    headers = {
        **SECURITY_HEADERS,
        "Content-Type": "text/html; charset=utf-8",
        "Content-Language": shown.language,
        "Vary": "Accept-Language",
        "Content-Security-Policy": shown.policy,
        **({"Permissions-Policy": _COPY_PERMISSION} if shown.copies else {}),
        **_allow(answer.status),
    }
    return Reply(answer.status, headers, shown.text.encode())


def _allow(status: HTTPStatus) -> dict[str, str]:
    # RFC 9110 §15.5.6: a 405 response must have Allow.
    return {"Allow": METHODS} if status == HTTPStatus.METHOD_NOT_ALLOWED else {}
