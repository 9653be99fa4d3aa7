"""What a person sees and what a program reads: every answer of the relay is made here.

A page loads nothing, runs nothing (but the fragment page, see `_SCRIPT`) and repeats nothing that
was sent, except the provider's own words on `declined`, escaped.
"""

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from types import MappingProxyType
from typing import NamedTuple

from markupsafe import Markup

from relay.outcome import Answer, Outcome
from relay.start import Started


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP answer. `cookies` are values of Set-Cookie headers, the most important one first."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""
    cookies: tuple[str, ...] = ()


class _Text(NamedTuple):
    title: str
    body: str
    next: str


_TEXTS = MappingProxyType(
    {
        Outcome.DELIVERED: _Text(
            "Authorization complete",
            "Dynamics 365 has received it.",
            "You can close this window and go back to Dynamics 365.",
        ),
        Outcome.DUPLICATE: _Text(
            "Already received",
            "Dynamics 365 has this authorization already. Nothing was stored twice.",
            "You can close this window and go back to Dynamics 365.",
        ),
        Outcome.HELD: _Text(
            "Received, not delivered yet",
            "Dynamics 365 cannot be reached just now. Your authorization is kept encrypted and is "
            "delivered as soon as it answers.",
            "You can close this window. If Dynamics 365 does not show the connection in some "
            "minutes, start again from there.",
        ),
        Outcome.DECLINED: _Text(
            "Not authorized",
            "The other system did not grant the authorization. No access was given.",
            "If that was not your intention, start again from Dynamics 365.",
        ),
        Outcome.INVALID: _Text(
            "This answer cannot be used",
            "It is incomplete, has expired, or does not belong to a request from Dynamics 365. "
            "Nothing was stored.",
            "Start again from Dynamics 365. If it happens again, give your administrator the "
            "reference below.",
        ),
        Outcome.UNKNOWN: _Text(
            "No such address",
            "Nothing is registered here. Nothing was stored.",
            "Administrators: compare the redirect URI at the provider with the connections of the "
            "relay.",
        ),
        Outcome.REJECTED: _Text(
            "Dynamics 365 did not take it",
            "The other system granted the authorization, but it could not be handed to Dynamics "
            "365. You are not connected.",
            "Give your administrator the reference below, then start again from Dynamics 365.",
        ),
        Outcome.MISCONFIGURED: _Text(
            "Not set up yet",
            "This address is not ready to receive authorizations. Nothing was stored.",
            "Administrators: the log names every setting that is missing or wrong.",
        ),
    }
)

_BARE = _Text(
    "This is a redirect URI",
    "External systems send people here after they have signed in and consented. It hands the "
    "authorization to Dynamics 365. There is nothing to see without one.",
    "To connect a system, start from Dynamics 365. Administrators: register this address, exactly "
    "as it stands, as the redirect URI at the provider.",
)

_UNPROVEN = _Text(
    "Not checked yet",
    "The keys of the other system cannot be had just now, and without them its answer cannot be "
    "checked. Nothing was stored.",
    "Reload this page in a moment.",
)

_STYLE = Markup(
    ":root{color-scheme:light dark;--ink:#1b1f24;--soft:#57606a;--paper:#fff;--ground:#f3f4f6;"
    "--line:#d0d7de;--good:#1a7f37;--wait:#9a6700;--bad:#b3261e}"
    "@media(prefers-color-scheme:dark){:root{--ink:#e6edf3;--soft:#9da7b3;--paper:#161b22;"
    "--ground:#0d1117;--line:#30363d;--good:#56d364;--wait:#e3b341;--bad:#ff7b72}}"
    "*{box-sizing:border-box}"
    "body{margin:0;min-height:100vh;display:grid;place-items:center;padding:1.5rem;"
    "background:var(--ground);color:var(--ink);"
    "font:1rem/1.55 system-ui,-apple-system,'Segoe UI',Roboto,sans-serif}"
    "main{width:100%;max-width:34rem;padding:2rem;background:var(--paper);"
    "border:1px solid var(--line);border-top:.3rem solid var(--tone);border-radius:.5rem;"
    "overflow-wrap:anywhere}"
    "h1{margin:0 0 .75rem;font-size:1.5rem;line-height:1.25}p{margin:0 0 1rem}"
    "dl{margin:1.5rem 0 0;padding-top:1rem;border-top:1px solid var(--line);"
    "display:grid;grid-template-columns:auto 1fr;gap:.25rem 1rem;font-size:.875rem}"
    "dt{color:var(--soft)}dd{margin:0}"
    "code{font:.95em ui-monospace,SFMono-Regular,Consolas,monospace;user-select:all}"
    ".good{--tone:var(--good)}.wait{--tone:var(--wait)}.bad{--tone:var(--bad)}"
    ".plain{--tone:var(--line)}"
)

# response_mode=fragment: what stands behind # never reaches a server, so the page posts it back.
# It posts to its own URL only. A field takes the place of the form's property of that name, so the
# form is not asked for anything once it has fields: one may be named "submit" or "appendChild". The
# post carries `Origin: null` under no-referrer: nobody checks Origin.
_SCRIPT = Markup(
    "(function(){"
    "var p=new URLSearchParams(location.hash.slice(1));"
    "if(!p.has('code')&&!p.has('error')&&!p.has('response'))return;"
    "history.replaceState(null,'',location.pathname);"
    "var f=document.createElement('form');f.method='post';f.action=location.pathname;"
    "var d=document.createDocumentFragment();"
    "p.forEach(function(v,k){var i=document.createElement('input');"
    "i.type='hidden';i.name=k;i.value=v;d.appendChild(i)});"
    "f.appendChild(d);document.body.appendChild(f);HTMLFormElement.prototype.submit.call(f)"
    "})()"
)

_PAGE = Markup(
    "<!doctype html>"
    '<html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width,initial-scale=1">'
    "<title>{title}</title><style>{style}</style></head>"
    '<body><main class="{tone}"><h1>{title}</h1><p>{body}</p><p>{next}</p>{facts}</main>'
    "{script}</body></html>\n"
)

_TONES = {
    Outcome.DELIVERED: "good",
    Outcome.DUPLICATE: "good",
    Outcome.HELD: "wait",
    Outcome.DECLINED: "wait",
}

_PERMISSIONS = (
    "accelerometer",
    "autoplay",
    "camera",
    "clipboard-read",
    "clipboard-write",
    "display-capture",
    "encrypted-media",
    "fullscreen",
    "geolocation",
    "gyroscope",
    "hid",
    "idle-detection",
    "magnetometer",
    "microphone",
    "midi",
    "payment",
    "picture-in-picture",
    "publickey-credentials-get",
    "screen-wake-lock",
    "serial",
    "usb",
    "web-share",
    "xr-spatial-tracking",
)

# Strict-Transport-Security is the host's to add (host.json, hsts): it can tell loopback.
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
        "Permissions-Policy": ", ".join(f"{name}=()" for name in _PERMISSIONS),
        "X-Frame-Options": "DENY",
        "X-Robots-Tag": "noindex, nofollow",
    }
)
"""On every answer; host.json gives the same to the host's own 404 and 500 pages."""


def render(answer: Answer, *, html: bool) -> Reply:
    """Return the answer to a callback: JSON for a program, a page or the way to one for a browser.

    A browser is sent on to `/done/…` so that no code stays in its address bar, its history or a
    Referer (RFC 6749 §3.1.2.5). The Location never holds anything that was sent.
    """
    reply = _reply_to(answer, html=html)
    return reply if answer.clear is None else replace(reply, cookies=(answer.clear,))


def begin(started: Started) -> Reply:
    """Return the way to the provider (RFC 6749 §4.1.1): the one Location that is not ours."""
    headers = {**SECURITY_HEADERS, "Location": started.location}
    return Reply(HTTPStatus.FOUND, headers, cookies=started.cookies)


_REFERENCE = re.compile(r"[0-9a-f]{16}")
_DONE_STATUS = {
    Outcome.DELIVERED: HTTPStatus.OK,
    Outcome.DUPLICATE: HTTPStatus.OK,
    Outcome.HELD: HTTPStatus.OK,
    Outcome.UNKNOWN: HTTPStatus.NOT_FOUND,
}


def done(outcome: str, reference: str) -> Reply:
    """Return the page that a browser lands on.

    Anybody can fetch it with any words, so it proves nothing, repeats only what looks like a
    reference, and never answers with a 5xx that a probe could mistake for an outage.
    """
    try:
        known = Outcome(outcome)
    except ValueError:
        known = Outcome.UNKNOWN
    shown = reference if _REFERENCE.fullmatch(reference) else ""
    status = _DONE_STATUS.get(known, HTTPStatus.BAD_REQUEST)
    return _page(Answer(known, shown, status))


def health(version: str, *, healthy: bool) -> Reply:
    """Return the answer of /health: whether the settings validate, and which version runs."""
    if healthy:
        return _reply(HTTPStatus.OK, {"status": "ok", "version": version})
    return _reply(HTTPStatus.SERVICE_UNAVAILABLE, {"status": "misconfigured"})


def _reply_to(answer: Answer, *, html: bool) -> Reply:
    if not html:
        return _json(answer)
    if answer.in_place:
        return _page(answer)
    location = f"/done/{answer.outcome}?ref={answer.reference}"
    return Reply(HTTPStatus.SEE_OTHER, {**SECURITY_HEADERS, "Location": location})


def _json(answer: Answer) -> Reply:
    members: dict[str, object] = {"outcome": answer.outcome, "reference": answer.reference}
    if answer.status < HTTPStatus.BAD_REQUEST:
        return _reply(answer.status, members)
    # RFC 9457. No `type`: it is about:blank, the title says it all.
    members |= {"title": _TEXTS[answer.outcome].title, "status": int(answer.status)}
    for name in ("detail", "error", "error_description"):
        if (value := getattr(answer, name)) is not None:
            members[name] = value
    return _reply(answer.status, members, "application/problem+json")


def _reply(
    status: HTTPStatus, members: Mapping[str, object], media_type: str = "application/json"
) -> Reply:
    headers = {**SECURITY_HEADERS, "Content-Type": media_type, **_allow(status)}
    return Reply(status, headers, json.dumps(members).encode("ascii"))


def _page(answer: Answer) -> Reply:
    text = _text(answer)
    facts = [
        ("What the provider said", answer.error),
        ("Its explanation", answer.error_description),
        ("Reference", None if answer.bare else answer.reference),
    ]
    shown = Markup().join(
        Markup("<dt>{}</dt><dd><code>{}</code></dd>").format(term, value)
        for term, value in facts
        if value
    )
    page = _PAGE.format(
        title=text.title,
        style=_STYLE,
        tone="plain" if answer.bare else _TONES.get(answer.outcome, "bad"),
        body=text.body,
        next=text.next,
        facts=Markup("<dl>{}</dl>").format(shown) if shown else "",
        script=Markup("<script>{}</script>").format(_SCRIPT) if answer.bare else "",
    )
    headers = {
        **SECURITY_HEADERS,
        "Content-Type": "text/html; charset=utf-8",
        "Content-Security-Policy": _CSP_BARE if answer.bare else _CSP_PAGE,
        **_allow(answer.status),
    }
    return Reply(answer.status, headers, page.encode())


def _text(answer: Answer) -> _Text:
    if answer.bare:
        return _BARE
    if answer.outcome is Outcome.REJECTED and answer.in_place:
        return _UNPROVEN
    return _TEXTS[answer.outcome]


def _allow(status: HTTPStatus) -> dict[str, str]:
    # RFC 9110 §15.5.6: a 405 says what is allowed.
    return {"Allow": "GET, POST"} if status == HTTPStatus.METHOD_NOT_ALLOWED else {}


def _hash(source: str) -> str:
    digest = hashlib.sha256(source.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


_CSP_PAGE = (
    f"default-src 'none'; style-src {_hash(_STYLE)}; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_CSP_BARE = (
    f"default-src 'none'; style-src {_hash(_STYLE)}; script-src {_hash(_SCRIPT)}; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
